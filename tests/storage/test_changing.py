"""Upsert, delete, new columns and names, restoring, compacting: what the service adds to the store."""

from __future__ import annotations

import threading
from typing import Any

import pyarrow as pa
import pytest
from tests.storage.conftest import DAY_2, Attempt, numbers, rows

from fourfold.catalog.database import Catalog
from fourfold.catalog.service import CatalogService
from fourfold.core import context
from fourfold.core.context import Ref
from fourfold.core.errors import Conflict, NotFound, Refused
from fourfold.core.lineage import Direction
from fourfold.core.times import Instant
from fourfold.foundation.storage.service import Storage
from fourfold.foundation.storage.tables import TableRecords
from fourfold.testing.clock import MovableClock
from fourfold.testing.table_kit.given import stream


def words(*pairs: tuple[int, str]) -> pa.Table:
    return pa.table({"id": pa.array([n for n, _ in pairs], pa.int32()), "word": [w for _, w in pairs]})


def read(storage: Storage, name: str = "t", **asked: Any) -> list[dict[str, object]]:
    return sorted(storage.read(name, **asked).to_pylist(), key=repr)


# Rows


def test_rows_are_put_by_their_key_and_removed_by_what_they_are(records: Storage) -> None:
    records.append("t", words((1, "a"), (2, "b")))
    put = records.upsert("t", stream(words((2, "B")), words((3, "C"))), key=("id",))
    assert (put.version, put.operation, put.rows, put.rows_added, put.rows_removed) == (1, "upsert", 3, 2, 1)
    gone = records.delete("t", where=(("id", "<", 3),))
    assert (gone.version, gone.operation, gone.rows, gone.rows_removed) == (2, "delete", 1, 2)
    assert read(records) == [{"id": 3, "word": "C"}]
    told = [(v.operation, v.rows_added, v.rows_removed) for v in records.history("t")]
    assert told == [("delete", 0, 2), ("upsert", 2, 1), ("create", 2, 0)]


def test_a_stream_is_written_as_one_version(records: Storage) -> None:
    assert records.append("t", stream(rows(1), rows(2), rows(3))).rows == 3
    assert records.overwrite("t", stream(rows(4), rows(5))).version == 1
    assert numbers(records) == [4, 5]


def test_what_is_to_be_changed_must_be_there(records: Storage) -> None:
    records.append("flights", rows(1))
    for call in (
        lambda: records.delete("fligths", where=()),
        lambda: records.compact("fligths"),
        lambda: records.evolve("fligths", add={"x": "int64"}),
        lambda: records.restore("fligths", version=0),
        lambda: records.vacuum("fligths"),
        lambda: records.diff("fligths", before=0),
        lambda: records.fork("fligths", "dev"),
        lambda: records.branches("fligths"),
    ):
        with pytest.raises(NotFound, match="did you mean 'flights'"):
            call()


def test_every_change_of_a_step_is_done_once_and_reported(records: Storage) -> None:
    records.append("t", words((1, "a")))
    records.append("t", words((2, "b")))

    def change() -> list[int]:
        made = [
            records.upsert("t", words((1, "A")), key=("id",)),
            records.delete("t", where=(("id", "==", 2),)),
            records.evolve("t", add={"x": "int64"}, rename={"word": "said"}),
            records.restore("t", version=1),
            records.fork("t", "dev"),
        ]
        return [each.version for each in made]

    first, second = Attempt(number=1), Attempt(number=2)
    with context.within(first):
        assert change() == [2, 3, 4, 5, 0]
    records.append("t", words((9, "z")))
    with context.within(second):
        assert change() == [2, 3, 4, 5, 0]
    assert [str(ref) for ref in first.writes] == [f"table:t@{n}" for n in (2, 3, 4, 5)] + ["table:t@dev@0"]
    assert second.writes == first.writes
    assert records.describe("t").version == 6
    assert [column.name for column in records.describe("t", version=4).columns] == ["id", "said", "x"]


# Columns


def test_columns_are_added_and_widened(records: Storage) -> None:
    records.append("t", words((1, "a")))
    made = records.evolve("t", add={"gate": "string", "price": "decimal128(9, 2)"}, widen={"id": "int64"})
    assert (made.operation, made.rows, made.rows_added) == ("evolve", 1, 0)
    types = {column.name: column.type for column in records.describe("t").columns}
    assert types == {"id": "int64", "word": "string", "gate": "string", "price": "decimal128(9, 2)"}
    assert read(records) == [{"id": 1, "word": "a", "gate": None, "price": None}]
    assert read(records, version=0) == [{"id": 1, "word": "a"}]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({}, "no change of columns"),
        ({"widen": {"id": "int16"}}, "cannot become int16"),
        ({"widen": {"word": "int64"}}, "cannot become int64"),
        ({"widen": {"wrod": "string"}}, "did you mean 'word'"),
        ({"add": {"word": "string"}}, "already"),
        ({"add": {"x": "text"}}, "'text' is not a type"),
        ({"add": {"a\nb": "string"}}, "cannot name a column"),
        ({"rename": {"wrod": "said"}}, "did you mean 'word'"),
        ({"rename": {"word": "id"}}, "same name"),
        ({"rename": {"word": "ID"}}, "same name"),
        ({"rename": {"word": ""}}, "cannot name a column"),
        ({"rename": {"word": "said"}, "add": {"said": "string"}}, "already"),
    ],
)
def test_a_change_of_columns_that_cannot_be_is_refused(
    records: Storage, asked: dict[str, Any], says: str
) -> None:
    records.append("t", words((1, "a")))
    with pytest.raises(Refused, match=says):
        records.evolve("t", **asked)
    assert records.describe("t").version == 0


@pytest.mark.parametrize("kind", ["memory", "delta"])
def test_a_new_name_counts_from_its_version_on(kind: str, records: Storage, storage: Storage) -> None:
    store = records if kind == "memory" else storage
    both = pa.concat_tables([rows(1), rows(2, day=DAY_2)])
    store.append("t", both, partition_by=("day",))
    store.evolve("t", rename={"n": "number", "day": "date"})
    assert store.describe("t").partition_by == ("date",)
    assert store.describe("t", version=0).partition_by == ("day",)
    new = pa.table({"date": [DAY_2], "number": [3]})
    store.append("t", new)
    store.upsert("t", pa.table({"number": [1], "date": [DAY_2]}), key=("number",))
    store.overwrite("t", pa.table({"number": [4], "date": [DAY_2]}), where={"date": "2013-01-02"})
    assert store.read("t").to_pylist() == [{"number": 4, "date": DAY_2}]
    asked = store.read("t", version=2, columns=("number",), where=(("date", "==", "2013-01-02"),))
    assert sorted(asked["number"].to_pylist()) == [2, 3]
    assert store.read("t", version=2, columns=("number", "date")).column_names == ["number", "date"]
    assert sorted(store.read("t", version=0, columns=("n",))["n"].to_pylist()) == [1, 2]
    store.delete("t", where=(("number", "==", 4),))
    store.append("t", new)
    assert store.compact("t", cluster_by=("number",)) is not None
    assert store.read("t", columns=("number",)).to_pylist() == [{"number": 3}]


def test_an_old_name_is_unknown_and_the_refusal_says_the_new_one(records: Storage) -> None:
    records.append("t", words((1, "a")))
    records.evolve("t", rename={"word": "said"})
    said = pa.table({"id": pa.array([2], pa.int32()), "said": ["b"]})
    for call, says in (
        (lambda: records.read("t", columns=("word",)), "no column 'word'"),
        (lambda: records.read("t", where=(("word", "==", "a"),)), "no column 'word'"),
        (lambda: records.delete("t", where=(("word", "==", "a"),)), "no column 'word'"),
        (lambda: records.compact("t", cluster_by=("word",)), "no column 'word'"),
        (lambda: records.append("t", words((2, "b"))), "missing: said"),
        (lambda: records.upsert("t", said, key=("word",)), "no column 'word'"),
        (lambda: records.evolve("t", rename={"word": "x"}), "no column 'word'"),
        (lambda: records.read("t", version=0, columns=("said",)), "no column 'said'"),
        (lambda: records.delete("t", where=(("said", "==", 1),)), "column 'word' is shown as 'said'"),
    ):
        with pytest.raises(Refused, match=says):
            call()
    assert records.describe("t").version == 1


def test_names_can_be_swapped_and_given_back(records: Storage) -> None:
    records.append("t", pa.table({"a": [1], "b": [2]}))
    records.evolve("t", rename={"a": "b", "b": "a"})
    assert records.read("t").to_pylist() == [{"b": 1, "a": 2}]
    records.append("t", pa.table({"a": [4], "b": [3]}))
    assert read(records) == [{"b": 1, "a": 2}, {"b": 3, "a": 4}]
    records.evolve("t", rename={"a": "b", "b": "a"})
    assert read(records) == [{"a": 1, "b": 2}, {"a": 3, "b": 4}]
    records.evolve("t", rename={"a": "c"})
    records.evolve("t", rename={"c": "a"})
    assert read(records) == [{"a": 1, "b": 2}, {"a": 3, "b": 4}]


def test_a_name_that_was_given_away_may_be_used_again(records: Storage) -> None:
    records.append("t", pa.table({"a": [1]}))
    records.evolve("t", rename={"a": "b"})
    records.evolve("t", add={"a": "string"})
    records.append("t", pa.table({"a": ["new"], "b": [2]}))
    assert read(records) == [{"b": 1, "a": None}, {"b": 2, "a": "new"}]
    records.overwrite("t", pa.table({"a": [True], "c": [7], "b": [0.5]}))
    assert records.read("t").to_pylist() == [{"a": True, "c": 7, "b": 0.5}]
    assert read(records, version=0) == [{"a": 1}]
    assert read(records, version=3) == [{"b": 1, "a": None}, {"b": 2, "a": "new"}]


def test_a_restored_version_has_its_names_again(records: Storage) -> None:
    records.append("t", words((1, "a")))
    records.evolve("t", rename={"word": "said"})
    records.evolve("t", rename={"said": "told"})
    records.restore("t", version=0)
    assert read(records) == [{"id": 1, "word": "a"}]
    records.restore("t", version=1)
    assert read(records) == [{"id": 1, "said": "a"}]


def test_two_who_give_the_same_name_at_once_do_not_both_succeed(
    records: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    records.append("t", pa.table({"a": [1], "b": [2]}))
    show, is_first = TableRecords.show, threading.Event()

    def late(self: TableRecords, *args: Any) -> None:
        if not is_first.is_set():  # the other comes in between the version and its names
            is_first.set()
            records.evolve("t", rename={"b": "x"})
        show(self, *args)

    monkeypatch.setattr(TableRecords, "show", late)
    with pytest.raises(Conflict, match="the same name"):
        records.evolve("t", rename={"a": "x"})
    assert records.read("t").to_pylist() == [{"a": 1, "x": 2}]


def test_a_rename_whose_attempt_died_between_version_and_name_is_finished_by_the_next(
    records: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    records.append("t", words((1, "a")))

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, context.within(Attempt()):
        patch.setattr(TableRecords, "show", die)
        with pytest.raises(KeyboardInterrupt):
            records.evolve("t", rename={"word": "said"})
    assert read(records) == [{"id": 1, "word": "a"}]
    with context.within(Attempt(number=2)):
        assert records.evolve("t", rename={"word": "said"}).version == 1
    assert read(records) == [{"id": 1, "said": "a"}]


# Restore, compact


def test_an_older_version_is_the_newest_again(
    records: Storage, catalog: Catalog, clock: MovableClock
) -> None:
    first = records.append("t", rows(1))
    records.tag("t", "good")
    clock.advance(10)
    records.overwrite("t", rows(2))
    assert records.restore("t", tag="good").operation == "restore"
    assert numbers(records) == [1]
    records.append("t", rows(3))
    assert numbers(records, version=records.restore("t", at=first.at).version) == [1]
    assert numbers(records, version=records.restore("t", version=1).version) == [2]
    with pytest.raises(Refused, match="which version"):
        records.restore("t")
    with pytest.raises(NotFound, match="no version 9"):
        records.restore("t", version=9)
    graph = CatalogService(catalog, clock).lineage("table", "t", version="2", direction=Direction.upstream)
    assert Ref("table", "t", "0") in graph.nodes
    told = [
        each.facts.get("restored") for each in CatalogService(catalog, clock).audit(action="table.restore")
    ]
    assert told == [1, 0, 0]


def test_small_files_are_written_together_when_there_is_something_to_gain(records: Storage) -> None:
    records.append("t", rows(1))
    assert records.compact("t") is None
    records.append("t", rows(2))
    made = records.compact("t")
    assert made is not None
    assert (made.version, made.operation, made.rows, made.rows_added) == (2, "compact", 2, 0)
    assert records.describe("t").file_count == 1
    assert records.compact("t", cluster_by=("n",)) is not None
    with pytest.raises(Refused, match="0 bytes"):
        records.compact("t", target_bytes=0)


# Time


def test_a_time_means_the_highest_version_that_was_not_later_also_where_the_clock_jumped_back(
    records: Storage, clock: MovableClock
) -> None:
    zero = records.append("t", rows(0)).at
    clock.advance(100)
    records.append("t", rows(1))
    clock.advance(-60)
    records.append("t", rows(2))
    clock.advance(10)
    records.append("t", rows(3))
    found = [
        records.describe("t", at=Instant(zero + second * 1_000_000)).version
        for second in (0, 39, 40, 49, 50, 99, 100)
    ]
    assert found == [0, 0, 2, 2, 3, 3, 3]
    assert found == sorted(found)
    assert numbers(records, at=zero + 40_000_000) == [0, 1, 2]


# A table that is dropped while it is read


@pytest.mark.parametrize("kind", ["memory", "delta"])
def test_a_table_dropped_while_it_is_read_is_read_whole_or_said_to_be_dropped(
    kind: str, records: Storage, storage: Storage
) -> None:
    store = records if kind == "memory" else storage
    for number in range(5):
        store.append("t", rows(*range(number * 1000, number * 1000 + 1000)))
    reader = store.scan("t", columns=("n",))
    seen, said = reader.read_next_batch().num_rows, ""
    store.drop("t")
    try:
        seen += sum(batch.num_rows for batch in reader)
    except NotFound as error:
        said = str(error)
    assert seen == 5000 or "was dropped at" in said
