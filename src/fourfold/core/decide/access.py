"""Who may do what with a table.

Without a grant that names the table the project's roles say it, at the doors. Of several patterns that name
it the most exact one alone counts: `raw.payroll` is said apart from `raw.*`. Grants only ever narrow what a
role allows. Admins of the project may do everything: they could grant it to themselves, and the audit would
say so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fourfold.core.access import ROLE_PREFIX, Access, TableGrant
from fourfold.core.routes import Role


def names(pattern: str, table: str) -> bool:
    """Whether a pattern names a table.

    >>> names("raw.*", "raw.flights"), names("raw.*", "rawer"), names("*", "x"), names("a", "ab")
    (True, False, True, False)
    """
    return table.startswith(pattern[:-1]) if pattern.endswith("*") else pattern == table


def that_count(grants: Iterable[TableGrant], table: str) -> tuple[TableGrant, ...]:
    """The grants that decide about a table: those of the most exact pattern that names it."""
    naming = [grant for grant in grants if names(grant.pattern, table)]
    if not naming:
        return ()
    most_exact = max((grant.pattern for grant in naming), key=lambda each: (each == table, len(each)))
    return tuple(
        sorted((grant for grant in naming if grant.pattern == most_exact), key=lambda grant: grant.who)
    )


def may(grants: Sequence[TableGrant], principal: str, role: Role | None, wanted: Access) -> bool:
    """Whether a principal with a role may, by the grants that count; none of them leaves it to the role.

    >>> from fourfold.core.times import Instant
    >>> grant = TableGrant("raw.*", "role:editor", Access.read, "ada", Instant(0))
    >>> may([grant], "bob", Role.editor, Access.read), may([grant], "bob", Role.editor, Access.write)
    (True, False)
    """
    if not grants or role is Role.admin:
        return True
    return any(grant.access >= wanted and _is(grant.who, principal, role) for grant in grants)


def who_may(grants: Iterable[TableGrant], wanted: Access) -> tuple[str, ...]:
    """Those who may, as the grants name them, and the admins."""
    return (*sorted(grant.who for grant in grants if grant.access >= wanted), "admins of the project")


def _is(who: str, principal: str, role: Role | None) -> bool:
    if not who.startswith(ROLE_PREFIX):
        return who == principal
    return role is not None and role >= Role[who.removeprefix(ROLE_PREFIX)]
