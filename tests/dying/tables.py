"""Write paths of tables: each verb of `Storage`, and what people do through it."""

from __future__ import annotations

from tests.dying.case import Case, Told, Verb
from tests.dying.world import DAYS, aged_files, rows
from tests.storage.conftest import Attempt

from fourfold import wiring
from fourfold.core import context
from fourfold.core.access import Access
from fourfold.foundation.storage.checks import gate


def in_step(verb: Verb) -> Verb:
    """As a step does it: each attempt gives its writes the same keys."""

    def attempt(project: wiring.Project) -> object:
        with context.within(Attempt()):
            return verb(project)

    return attempt


def without_its_names(before: Told, found: Told, after: Told) -> bool:
    """Where a process died between a version and its new names, the version stands without them."""
    has_old_names = found["table t, columns"] == before["table t, columns"]
    return bool(has_old_names and found["table t, 2"] == after["table t, 2"])


def is_being_forgotten(before: Told, found: Told, after: Told) -> bool:
    """Where a tombstone says that it is to be gone on with."""
    return "rows of storage_forgotten" in found.keys() - before.keys()


def to_vacuum(project: wiring.Project) -> None:
    project.storage.overwrite("t", rows(7, 8))
    project.storage.drop_branch("t", "dev")
    project.close()
    aged_files(project.home)


def vacuumed(project: wiring.Project) -> object:
    project.parts["clock"] = later(project)
    return project.storage.vacuum("t", older_than_s=DAYS)


def later(project: wiring.Project) -> object:
    from fourfold.testing.clock import MovableClock

    clock = MovableClock(project.clock.now())
    clock.advance(30 * DAYS)
    return clock


def as_a_stream(project: wiring.Project) -> object:
    """Through a hidden branch, as what is too large for memory."""
    gate.MOST_IN_MEMORY = 1
    return project.storage.append("checked", rows(7, 8).to_reader())


NOTED = ("rows of storage_check", "rows of storage_statistics", "rows of storage_sketch")
"""What is found of a version, and kept once it stands."""
AUDITED = ("rows of catalog_audit", "rows of sqlite_sequence")
LED = (*AUDITED, "rows of catalog_node", "rows of catalog_edge")
"""From where a version was brought, which the table's own log does not tell the catalog."""

CASES = {
    "append": Case(("storage.append",), lambda p: p.storage.append("t", rows(5))),
    "append in a step": Case(("storage.append",), in_step(lambda p: p.storage.append("t", rows(5)))),
    "create": Case(("storage.append",), lambda p: p.storage.append("new", rows(5))),
    "append what is checked": Case(
        ("storage.append",), lambda p: p.storage.append("checked", rows(7)), unsaid=NOTED
    ),
    "append a stream that is checked": Case(("storage.append",), as_a_stream, unsaid=NOTED),
    "be refused by a check": Case(("storage.append",), lambda p: p.storage.append("checked", rows(None))),
    "insert": Case(("storage.insert",), lambda p: p.storage.insert("t", rows(5))),
    "flush": Case(("storage.flush",), lambda p: p.storage.flush("inserted")),
    "overwrite": Case(("storage.overwrite",), lambda p: p.storage.overwrite("t", rows(9)), unsaid=NOTED),
    "upsert": Case(("storage.upsert",), lambda p: p.storage.upsert("t", rows(2, 9), key=("n",))),
    "delete": Case(("storage.delete",), lambda p: p.storage.delete("t", where=(("n", "==", 1),))),
    "evolve": Case(("storage.evolve",), lambda p: p.storage.evolve("t", add={"x": "int64"})),
    "rename": Case(
        ("storage.evolve",),
        in_step(lambda p: p.storage.evolve("t", rename={"word": "text"})),
        between=without_its_names,
        unsaid=AUDITED,
    ),
    "restore": Case(("storage.restore",), lambda p: p.storage.restore("t", version=0), unsaid=LED),
    "compact": Case(("storage.compact",), lambda p: p.storage.compact("t")),
    "tag": Case(("storage.tag",), lambda p: p.storage.tag("t", "good", version=0)),
    "fork": Case(("storage.fork",), lambda p: p.storage.fork("t", "try"), unsaid=LED),
    "publish": Case(("storage.publish",), lambda p: p.storage.publish("t", "dev"), unsaid=LED),
    "drop a branch": Case(("storage.drop_branch",), lambda p: p.storage.drop_branch("t", "dev")),
    "vacuum": Case(("storage.vacuum",), vacuumed, prepare=to_vacuum, unsaid=AUDITED),
    "drop": Case(
        ("storage.drop",),
        lambda p: p.storage.drop("checked"),
        between=lambda before, found, after: "table checked, rows" not in found,
    ),
    "grant": Case(("storage.grant_table",), lambda p: p.storage.grant_table("t", "ada", Access.read)),
    "revoke": Case(
        ("storage.revoke_table",),
        lambda p: p.storage.revoke_table("t", "ada"),
        prepare=lambda p: p.storage.grant_table("t", "ada", Access.read),
    ),
    "forget a person": Case(
        ("storage.forget",), lambda p: p.storage.forget("t", keys=({"n": 1},)), between=is_being_forgotten
    ),
}
