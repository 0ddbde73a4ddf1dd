"""Branches of tables as the service has them: addresses, lineage, audit, names, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pytest
from tests.storage.conftest import Attempt, numbers, rows

from fourfold.catalog.database import Catalog
from fourfold.catalog.service import CatalogService
from fourfold.core import context
from fourfold.core.catalog import acting_as
from fourfold.core.context import Ref
from fourfold.core.errors import Conflict, NotFound, Refused
from fourfold.core.lineage import Direction
from fourfold.foundation.storage.service import Storage
from fourfold.testing.clock import START, MovableClock

TRY = "flights@dev/try-1"


@pytest.fixture
def flights(records: Storage) -> Storage:
    """A table with two versions, and a branch begun at the second."""
    records.append("flights", rows(1))
    records.append("flights", rows(2))
    records.fork("flights", "dev/try-1", why="to try")
    return records


def test_a_branch_is_read_and_written_where_a_table_is(flights: Storage, clock: MovableClock) -> None:
    clock.advance(5)
    made = flights.append(TRY, rows(3))
    assert (made.name, made.version, str(made.ref)) == (TRY, 1, f"table:{TRY}@1")
    assert numbers(flights, TRY) == [1, 2, 3]
    assert numbers(flights, TRY, version=0) == [1, 2]
    assert numbers(flights, TRY, at=START) == [1, 2]
    flights.tag(TRY, "good")
    flights.upsert(TRY, rows(3), key=("n",))
    assert numbers(flights, TRY, tag="good") == [1, 2, 3]
    assert [v.operation for v in flights.history(TRY)] == ["upsert", "append", "branch"]
    assert flights.describe(TRY).tags == {"good": 1}
    assert flights.diff(TRY, before=0).added == 1
    assert numbers(flights, "flights") == numbers(flights, "flights@main") == [1, 2]
    assert flights.append("flights@main", rows(9)).name == "flights"
    assert [table.name for table in flights.list_tables()] == ["flights"]


def test_the_branches_of_a_table_are_told(flights: Storage, clock: MovableClock) -> None:
    clock.advance(5)
    with acting_as("ada"):
        flights.fork("flights", "a", version=0)
    flights.append(TRY, rows(3))
    told = [(b.name, b.address, b.version, b.rows, b.begun_by) for b in flights.branches("flights")]
    assert told == [("a", "flights@a", 0, 1, "ada"), ("dev/try-1", TRY, 1, 3, "local")]
    assert [(b.begun_at, b.at) for b in flights.branches("flights")][1] == (START, START + 5_000_000)


def test_what_was_done_on_a_branch_becomes_one_version(
    flights: Storage, catalog: Catalog, clock: MovableClock
) -> None:
    flights.append(TRY, rows(3))
    flights.delete(TRY, where=(("n", "==", 1),))
    made = flights.publish("flights", "dev/try-1", why="checked")
    assert (made.version, made.operation, made.rows) == (2, "publish", 2)
    assert numbers(flights, "flights") == [2, 3]
    service = CatalogService(catalog, clock)
    (entry,) = service.audit(action="table.publish")
    assert (str(entry.ref), entry.facts["branch"], entry.facts["why"]) == (
        "table:flights@2",
        "dev/try-1",
        "checked",
    )
    (begun,) = service.audit(action="table.branch")
    assert (str(begun.ref), begun.facts["begun_at"], begun.facts["why"]) == (f"table:{TRY}@0", 1, "to try")
    graph = service.lineage("table", "flights", version="2", direction=Direction.upstream)
    assert Ref("table", TRY, "2") in graph.nodes
    assert Ref("table", "flights", "1") in service.lineage("table", TRY, version="0").nodes


def test_a_branch_that_would_undo_others_work_is_a_conflict_with_a_way_on(flights: Storage) -> None:
    flights.delete(TRY, where=())
    flights.append("flights", rows(5))
    with pytest.raises(Conflict, match="begin a branch at the table's newest version"):
        flights.publish("flights", "dev/try-1")
    assert numbers(flights, "flights") == [1, 2, 5]


def test_a_dropped_branchs_name_is_retired(flights: Storage) -> None:
    flights.drop_branch("flights", "dev/try-1", why="no use")
    flights.drop_branch("flights", "dev/try-1")
    assert flights.branches("flights") == ()
    with pytest.raises(NotFound, match="was dropped at 2026-01-01T00:00:00Z"):
        flights.read(TRY)
    with pytest.raises(Refused, match="its name is retired"):
        flights.append(TRY, rows(1))
    with pytest.raises(Refused, match="its name is retired"):
        flights.fork("flights", "dev/try-1")
    assert numbers(flights, "flights") == [1, 2]


def test_a_dropped_table_takes_its_branches_with_it(flights: Storage) -> None:
    flights.append("flights2", rows(1))
    flights.fork("flights2", "dev/try-1")
    flights.drop("flights")
    with pytest.raises(NotFound, match="was dropped"):
        flights.read(TRY)
    assert numbers(flights, "flights2@dev/try-1") == [1]


@pytest.mark.parametrize("kind", ["memory", "delta"])
def test_new_names_of_columns_go_with_a_branch_and_come_back(
    kind: str, records: Storage, storage: Storage
) -> None:
    store = records if kind == "memory" else storage
    store.append("t", pa.table({"a": [1]}))
    store.evolve("t", rename={"a": "b"})
    store.fork("t", "old", version=0)
    store.fork("t", "dev")
    assert store.read("t@old").to_pylist() == [{"a": 1}]
    store.append("t@dev", pa.table({"b": [2]}))
    store.evolve("t@dev", rename={"b": "c"}, add={"a": "string"})
    store.append("t@dev", pa.table({"c": [3], "a": ["x"]}))
    assert store.describe("t").columns[0].name == "b"
    store.publish("t", "dev")
    assert sorted(store.read("t").to_pylist(), key=repr) == [
        {"c": 1, "a": None}, {"c": 2, "a": None}, {"c": 3, "a": "x"},
    ]  # fmt: skip
    assert store.read("t", version=1).to_pylist() == [{"b": 1}]


def test_a_branch_is_named_wherever_it_is_missing(flights: Storage) -> None:
    calls: list[Callable[[], object]] = [
        lambda: flights.read("flights@dev/try-2"),
        lambda: flights.append("flights@dev/try-2", rows(1)),
        lambda: flights.publish("flights", "dev/try-2"),
        lambda: flights.drop_branch("flights", "dev/try-2"),
        lambda: flights.history("flights@dev/try-2"),
    ]
    for call in calls:
        with pytest.raises(NotFound, match=r"has no branch 'dev/try-2'\n  did you mean 'dev/try-1'"):
            call()


def test_what_only_a_table_can_be_is_refused_of_a_branch(flights: Storage) -> None:
    calls: list[Callable[[], object]] = [
        lambda: flights.fork(TRY, "deeper"),
        lambda: flights.branches(TRY),
        lambda: flights.publish(TRY, "x"),
        lambda: flights.drop_branch(TRY, "x"),
        lambda: flights.vacuum(TRY),
        lambda: flights.drop(TRY),
    ]
    for call in calls:
        with pytest.raises(Refused, match="is a branch"):
            call()
    for call in (
        lambda: flights.fork("flights", "main"),
        lambda: flights.publish("flights", "main"),
        lambda: flights.drop_branch("flights", "main"),
    ):
        with pytest.raises(Refused, match="'main' is table 'flights' itself"):
            call()
    for branch in ("../x", "a//b", "", "a@b", "a b", "x/"):
        with pytest.raises(Refused, match="cannot name a branch"):
            flights.fork("flights", branch)
    assert numbers(flights, "flights") == [1, 2]


def test_a_step_that_reads_and_writes_a_branch_is_recorded_by_its_address(flights: Storage) -> None:
    attempt = Attempt()
    with context.within(attempt):
        flights.read(TRY)
        flights.append(TRY, rows(3))
        flights.publish("flights", "dev/try-1")
    assert attempt.reads == [Ref("table", TRY, "0"), Ref("table", TRY, "1")]
    assert attempt.writes == [Ref("table", TRY, "1"), Ref("table", "flights", "2")]
