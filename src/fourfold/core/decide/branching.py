"""What bringing a branch into its table means, and when it cannot be done."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from fourfold.core.errors import Conflict, Refused
from fourfold.core.ports.tables import Commit
from fourfold.core.storage import MAIN, TableAddress, branch_name, table_address

HIDDEN = "_audit/"
"""How the names of branches begin on which writes are checked before they are seen; nobody is shown them."""

_ADDING = frozenset({"append", "publish"})
_STILL = frozenset({"compact", "erase"})
"""Operations that change no row. An erasure takes the same rows out of the table and all its branches, and
out of what either was before, so it is as if they had never been there."""


class Publish(StrEnum):
    """How a branch gets into its table."""

    become = "become"
    """The table's newest version holds what the branch's holds."""
    add = "add"
    """The table gets the rows that were added on the branch."""


def publishing(
    name: str,
    branch: str,
    *,
    of_table: Sequence[Commit],
    of_branch: Sequence[Commit],
    is_level: bool,
    same_columns: bool,
    becoming: bool = False,
) -> Publish:
    """How to publish, from what either side did since the branch began or was last published.

    `is_level`: the two held the same then (not after a publish that only added). `same_columns`: neither
    changed its columns since. `becoming`: adding is not enough. An upsert that added rows is more than
    adding: on the other side somebody may have added the same key.
    """
    if not of_branch:
        raise Refused(
            f"branch '{branch}' of table '{name}' has nothing that is not published",
            ways_on=[f"write to it first: {name}@{branch}"],
            table=name,
            branch=branch,
        )
    if is_level and all(commit.operation in _STILL for commit in of_table):
        return Publish.become
    if becoming:
        raise Conflict(
            f"branch '{branch}' cannot be published: table '{name}' changed since, and its rows are looked "
            "at together",
            ways_on=[f"begin a branch at the table's newest version, and add the rows of '{branch}' there"],
            table=name,
            branch=branch,
        )
    if same_columns and _only_adds(of_table) and _only_adds(of_branch):
        return Publish.add
    side, commits = (name, of_table) if not _only_adds(of_table) else (f"{name}@{branch}", of_branch)
    did = sorted({c.operation for c in commits if not _only_adds([c])}) or ["evolve"]
    raise Conflict(
        f"branch '{branch}' cannot be published: table '{name}' changed since, and '{side}' did more than "
        f"add rows ({', '.join(did)})",
        ways_on=[
            f"begin a branch at the table's newest version, repeat the work there, and drop '{branch}'",
        ],
        table=name,
        branch=branch,
    )


def check_onto(name: str, newest: int, onto: int | None) -> None:
    """Refuse to publish onto a table that is no longer at the version that was named."""
    if onto is not None and newest != onto:
        raise Conflict(
            f"table '{name}' is at version {newest}, not at {onto} any more",
            ways_on=["look at the table again, and publish onto what it is then"],
            table=name,
            version=newest,
        )


def branch_of(name: str, branch: str, what: str) -> str:
    """The address of a table's branch; refused for what is a branch itself, or the table.

    >>> branch_of("flights", "dev/try-1", "be branched")
    'flights@dev/try-1'
    """
    address = TableAddress(only_table(name, what), branch_name(branch))
    if address.branch == MAIN:
        raise Refused(
            f"'{MAIN}' is table '{name}' itself, and no branch of it",
            ways_on=["give the branch another name: dev/try-1"],
            table=name,
            branch=branch,
        )
    return str(address)


def only_table(name: str, what: str) -> str:
    """The name if it is a table's, not a branch's; else refused."""
    address = table_address(name)
    if address.branch != MAIN:
        raise Refused(
            f"'{name}' is a branch, and a branch cannot {what}",
            ways_on=[f"name the table: {address.table}"],
            table=address.table,
            branch=address.branch,
        )
    return address.table


def _only_adds(commits: Sequence[Commit]) -> bool:
    return all(c.operation in _STILL or (c.operation in _ADDING and not c.rows_removed) for c in commits)
