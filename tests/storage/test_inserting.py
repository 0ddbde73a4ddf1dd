"""Inserts through the service: one table to whoever reads, plain numbers to whoever records."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import pyarrow as pa
import pytest
from tests.storage.conftest import DAY_1, DAY_2, Attempt, datasets_over, numbers, rows

from fourfold.adapters.delta import DeltaTables
from fourfold.adapters.local_blobs import LocalBlobs
from fourfold.adapters.sqlite_buffer import SqliteBuffer
from fourfold.catalog.database import Catalog
from fourfold.catalog.service import CatalogService
from fourfold.core import context
from fourfold.core.catalog import acting_as
from fourfold.core.context import Ref
from fourfold.core.errors import FourfoldError, NotFound, Refused, Unavailable
from fourfold.core.lineage import Direction
from fourfold.core.settings import BufferSettings
from fourfold.core.storage import TableVersion
from fourfold.foundation.storage.api import Table
from fourfold.foundation.storage.service import Storage
from fourfold.testing.blobs import MemoryBlobs
from fourfold.testing.buffer import MemoryBuffer
from fourfold.testing.clock import MovableClock
from fourfold.testing.tables import MemoryTables


@pytest.fixture
def stored(sqlite_catalog: Catalog, clock: MovableClock) -> Iterator[Storage]:
    """Storage in memory, but for its catalog."""
    storage = Storage(
        sqlite_catalog, MemoryBlobs(), MemoryTables(), clock, buffer=MemoryBuffer(), bounds=BufferSettings()
    )
    yield storage
    storage.close()


@pytest.fixture
def files(sqlite_catalog: Catalog, home: Path, clock: MovableClock) -> Iterator[Storage]:
    """Storage as it is on one machine."""
    buffer = SqliteBuffer(home / "buffer.db", most_bytes=2**26)
    storage = Storage(
        sqlite_catalog, LocalBlobs(home / "blobs"), DeltaTables(home / "tables"), clock, buffer=buffer
    )
    yield storage
    storage.close()
    buffer.close()


# One table to whoever reads


def test_an_insert_is_read_at_once_with_conditions_and_columns(files: Storage) -> None:
    files.append("t", rows(1, 2))
    inserted = files.insert("t", rows(3, day=DAY_2))
    assert (inserted.name, inserted.number, inserted.rows) == ("t", 0, 1)
    assert numbers(files) == [1, 2, 3]
    assert numbers(files, where=(("n", ">", 1),)) == [2, 3]
    assert numbers(files, where=(("day", "==", "2013-01-01"),)) == [1, 2]
    assert files.read("t", columns=("day",)).column_names == ["day"]
    assert sorted(n for batch in files.scan("t") for n in batch["n"].to_pylist()) == [1, 2, 3]
    assert files.read("t", where=(("n", "==", 3),)).schema == rows(1).schema
    with pytest.raises(Refused, match="did you mean 'day'"):
        files.read("t", columns=("dya",))
    with pytest.raises(Refused, match="no column 'm'"):
        files.read("t", where=(("m", ">", 1),))
    assert numbers(files, version=0) == [1, 2]
    files.flush("t")
    assert numbers(files) == numbers(files, version=1) == [1, 2, 3]


def test_a_live_read_says_that_it_cannot_be_repeated(stored: Storage) -> None:
    stored.append("t", rows(1))
    assert not stored.read("t").schema.metadata
    stored.insert("t", rows(2, 3))
    for schema in (stored.read("t").schema, stored.scan("t", where=(("n", "==", 1),)).schema):
        assert schema.metadata == {b"fourfold.version": b"0+2", b"fourfold.repeatable": b"false"}
    assert not stored.read("t", version=0).schema.metadata
    stored.flush("t")
    assert not stored.read("t").schema.metadata


def test_the_first_insert_creates_the_table(stored: Storage) -> None:
    assert stored.insert("t", rows(1)).number == 0
    assert [(v.version, v.operation, v.rows) for v in stored.history("t")] == [(0, "create", 0)]
    assert numbers(stored) == [1]
    with pytest.raises(Refused, match="missing: day"):
        stored.insert("t", pa.table({"n": [1]}))
    with pytest.raises(Refused, match="all its values are null"):
        stored.insert("u", pa.table({"x": pa.nulls(1)}))
    assert [table.name for table in stored.list_tables()] == ["t"]


def test_a_listing_tells_what_waits(stored: Storage) -> None:
    stored.append("t", rows(1))
    stored.insert("t", rows(2, 3))
    assert (stored.describe("t").rows, stored.describe("t").waiting_rows) == (1, 2)
    assert [(table.name, table.waiting_rows) for table in stored.list_tables()] == [("t", 2)]
    assert stored.describe("t", version=0).waiting_rows == 0
    made = stored.flush("t")
    assert (made.version, made.rows, made.rows_added) == (1, 3, 2)
    assert stored.describe("t").waiting_rows == 0
    assert stored.flush("t").version == 1


def test_columns_are_inserted_and_read_under_their_shown_names(stored: Storage) -> None:
    stored.append("t", rows(1))
    stored.insert("t", rows(2))
    stored.evolve("t", rename={"n": "number"})
    stored.insert("t", pa.table({"number": [3], "day": [DAY_1]}))
    assert sorted(stored.read("t")["number"].to_pylist()) == [1, 2, 3]
    assert stored.read("t", columns=("number",), where=(("number", ">", 2),)).to_pylist() == [{"number": 3}]
    with pytest.raises(Refused, match="missing: number"):
        stored.insert("t", rows(4))
    stored.flush("t")
    assert sorted(stored.read("t")["number"].to_pylist()) == [1, 2, 3]


# Plain numbers to whoever records


def test_in_a_step_what_waits_is_brought_into_a_version_and_that_is_read(stored: Storage) -> None:
    stored.append("t", rows(1))
    stored.insert("t", rows(2))
    attempt = Attempt()
    with context.within(attempt):
        assert numbers(stored) == [1, 2]
        stored.scan("t").read_all()
    assert attempt.reads == [Ref("table", "t", "1")] * 2


def test_whatever_changes_the_table_meets_the_rows_that_waited(stored: Storage) -> None:
    changes: list[tuple[Callable[[], object], list[int]]] = [
        (lambda: stored.overwrite("t", rows(9)), [9]),
        (lambda: stored.upsert("t", rows(2, day=DAY_2), key=("n",)), [1, 2]),
        (lambda: stored.delete("t", where=(("n", "==", 2),)), [1]),
        (lambda: stored.evolve("t", add={"word": "string"}), [1, 2]),
        (lambda: stored.compact("t"), [1, 2]),
        (lambda: stored.tag("t", "now"), [1, 2]),
        (lambda: stored.fork("t", "try"), [1, 2]),
        (lambda: stored.diff("t", before=0), [1, 2]),
        (lambda: stored.vacuum("t"), [1, 2]),
        (lambda: stored.catch_up(), [1, 2]),
    ]
    for change, left in changes:
        stored.overwrite("t", rows(1))
        begun = stored.history("t")[0].version
        stored.insert("t", rows(2))
        change()
        flushed = next(v for v in stored.history("t") if v.version == begun + 1)
        assert (flushed.operation, flushed.rows, flushed.rows_added) == ("append", 2, 1)
        assert stored.describe("t").waiting_rows == 0
        assert sorted(stored.read("t")["n"].to_pylist()) == left
        if "word" in stored.read("t").column_names:
            stored.overwrite("t", rows(1))


def test_a_tag_and_a_diff_have_the_rows_that_waited(stored: Storage) -> None:
    stored.append("t", rows(1))
    stored.insert("t", rows(2))
    stored.tag("t", "both")
    assert numbers(stored, tag="both") == [1, 2]
    stored.insert("t", rows(3))
    assert stored.diff("t", before=1).added == 1


def test_a_restore_brings_no_older_watermark_back(stored: Storage) -> None:
    stored.append("t", rows(1))
    stored.insert("t", rows(2))
    stored.flush("t")
    stored.insert("t", rows(3))
    stored.restore("t", version=0)
    assert numbers(stored) == [1]
    stored.insert("t", rows(4))
    assert numbers(stored) == [1, 4]
    stored.flush("t")
    assert numbers(stored) == [1, 4]


def test_a_branch_has_what_waited_and_takes_no_inserts(stored: Storage) -> None:
    stored.append("t", rows(1))
    stored.insert("t", rows(2))
    stored.fork("t", "try")
    assert numbers(stored, "t@try") == [1, 2]
    with pytest.raises(Refused, match="is a branch"):
        stored.insert("t@try", rows(3))
    stored.insert("t", rows(3))
    stored.append("t@try", rows(4))
    stored.publish("t", "try")
    assert numbers(stored) == [1, 2, 3, 4]
    stored.insert("t", rows(5))
    stored.flush("t")
    assert numbers(stored) == [1, 2, 3, 4, 5]


# Steps


def test_a_second_attempts_insert_changes_nothing(files: Storage) -> None:
    def write(attempt: Attempt) -> list[int]:
        with context.within(attempt):
            return [files.insert("t", rows(1)).number, files.insert("t", rows(2)).number]

    assert write(Attempt(number=1)) == [0, 1]
    assert write(Attempt(number=2)) == [0, 1]
    files.flush("t")
    assert write(Attempt(number=3)) == [0, 1]
    assert numbers(files) == [1, 2]


def test_lineage_leads_from_a_version_to_the_steps_whose_inserts_it_has(
    stored: Storage, sqlite_catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = Attempt()
    with context.within(attempt):
        stored.insert("t", rows(1))
        stored.insert("t", rows(2))
    stored.insert("t", rows(3))
    assert attempt.writes == [Ref("insert", "t", "0"), Ref("insert", "t", "1")]
    with monkeypatch.context() as patch:  # a crash between the commit and what is told of it
        patch.setattr(type(stored._records), "connect", _fail)
        with pytest.raises(Unavailable):
            stored.flush("t")
    stored.append("t", rows(4))
    assert numbers(stored) == [1, 2, 3, 4]
    stored.flush("t")
    service = CatalogService(sqlite_catalog, MovableClock())
    graph = service.lineage("table", "t", version="1", direction=Direction.upstream)
    assert {edge.source for edge in graph.edges} == {Ref("insert", "t", "0"), Ref("insert", "t", "1")}
    assert [(v.version, v.rows_added) for v in stored.history("t")] == [(2, 1), (1, 3), (0, 0)]


def _fail(*_: object) -> None:
    raise Unavailable("cut off")


def test_the_history_says_who_inserted(stored: Storage) -> None:
    for who in ("ada", "bob"):
        with acting_as(who):
            stored.insert("t", rows(1))
    with context.within(Attempt(number=3)):
        stored.insert("u", rows(1))
    stored.flush("t")
    stored.flush("u")
    assert stored.history("t")[0].by == "ada, bob"
    assert stored.history("u")[0].step == "step:run_1/build@3"


# Dropped tables, and rows that fit no more


def test_rows_that_wait_are_dropped_with_their_table(stored: Storage) -> None:
    stored.insert("t", rows(1))
    stored.drop("t", why="wrong source")
    for call in (lambda: stored.read("t"), lambda: stored.flush("t")):
        with pytest.raises(NotFound, match="was dropped"):
            call()
    with pytest.raises(Refused, match="its name is retired"):
        stored.insert("t", rows(2))
    assert stored.list_tables() == ()
    assert stored._inserting.waiting() == {}


def test_a_drop_that_was_cut_off_is_finished_by_the_next_look(
    stored: Storage, clock: MovableClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored.insert("t", rows(1))
    with monkeypatch.context() as patch:
        patch.setattr(stored._inserting, "drop", _fail)
        with pytest.raises(Unavailable):
            stored.drop("t")
    clock.advance(61)
    stored._inserting.buffered.look()
    assert stored._inserting.waiting() == {}


def test_what_fits_no_more_is_among_what_was_rejected(
    stored: Storage, sqlite_catalog: Catalog, clock: MovableClock
) -> None:
    stored.append("t", rows(1))
    with acting_as("ada"):
        stored.insert("t", rows(2))
    stored._tables.overwrite("t", pa.table({"n": ["one"]}))  # by another program, or at the same moment
    assert stored.read("t").to_pylist() == [{"n": "one"}]
    stored.flush("t")
    assert stored.describe("t").waiting_rows == 0
    datasets = datasets_over(sqlite_catalog, stored, stored._blobs, clock)
    (one,) = datasets.rejections("t")
    assert (one.operation, one.rows, one.by, one.is_quarantined) == ("insert", 1, "ada", True)
    assert "the data does not have the columns of table 't'" in one.why
    assert datasets.rejected_rows("t", one.id).equals(rows(2))
    datasets.discard("t", one.id, why="sent again")
    assert datasets.rejections("t") == ()


def test_a_store_without_a_buffer_says_so(storage: Storage) -> None:
    storage.append("t", rows(1))
    with pytest.raises(Refused, match="append the rows"):
        storage.insert("t", rows(2))
    assert numbers(storage) == [1]


# What people write


def test_a_relation_flushes_what_waits_once_and_reads_that_version(
    files: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[int] = []
    flush = Storage.flush

    def seen(self: Storage, name: str) -> TableVersion:
        made = flush(self, name)
        flushed.append(made.version)
        return made

    monkeypatch.setattr(Storage, "flush", seen)
    table = Table("t", storage=files)
    table.append(rows(1))
    table.insert(rows(2))
    relation = table.duckdb()
    assert flushed == [1]
    table.insert(rows(3))
    assert relation.aggregate("sum(n)").fetchall() == [(3,)]
    assert table.version(0).duckdb().aggregate("sum(n)").fetchall() == [(1,)]
    assert flushed == [1], "an older version needs no flush, and neither does reading"


def test_people_insert_what_they_have(files: Storage) -> None:
    table = Table("t", storage=files)
    table.insert({"n": 1, "day": date(2013, 1, 1)})
    table.insert([{"n": 2, "day": DAY_2}, {"n": 3}])
    table.insert(rows(4))
    table.insert(rows(5).to_pandas(date_as_object=True))
    table.insert(rows(6).to_reader())
    found = table.read().sort_by("n")
    assert found["n"].to_pylist() == [1, 2, 3, 4, 5, 6]
    assert found["day"].to_pylist() == [DAY_1, DAY_2, None, DAY_1, DAY_1, DAY_1]
    assert table.duckdb().aggregate("sum(n)").fetchall() == [(21,)]
    assert table.flush().rows == 6
    refused: list[tuple[object, str]] = [
        ([], "no rows"),
        ([{"n": 1}, {"n": "one"}], "no table"),
        ("text", "is not a table"),
        ({"n": 1, "m": 2}, "not in the table: m"),
    ]
    for wrong, says in refused:
        with pytest.raises(Refused, match=says):
            table.insert(wrong)
    with pytest.raises(Refused, match="cannot insert into an older version"):
        table.version(0).insert({"n": 1})


def test_readers_see_each_row_once_while_rows_are_inserted_and_flushed(files: Storage) -> None:
    files.insert("t", rows())
    done, problems = threading.Event(), list[BaseException]()

    def write() -> None:
        try:
            for n in range(60):
                files.insert("t", rows(n))
                if n % 7 == 6:
                    files.flush("t")
        except FourfoldError as error:
            problems.append(error)
        finally:
            done.set()

    writer = threading.Thread(target=write)
    writer.start()
    least = 0
    while not done.is_set():
        found = numbers(files)
        assert found == list(range(len(found)))
        assert len(found) >= least
        least = len(found)
    writer.join(timeout=60)
    assert not problems
    assert numbers(files) == list(range(60))
