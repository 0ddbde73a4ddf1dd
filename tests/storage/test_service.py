"""Storage: versions, times, tags, lineage, repeated writes; what is refused; what a fault leaves behind."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from tests.storage.conftest import DAY_2, Attempt, numbers, rows

from fourfold.adapters.delta import DeltaTables
from fourfold.adapters.local_blobs import LocalBlobs
from fourfold.catalog.database import Catalog
from fourfold.catalog.service import CatalogService
from fourfold.core import context
from fourfold.core.catalog import acting_as
from fourfold.core.context import Ref
from fourfold.core.errors import Corrupted, NotFound, OutOfSpace, Refused, Unavailable
from fourfold.core.ports.blobs import Digest
from fourfold.foundation.storage.service import Storage
from fourfold.foundation.storage.tables import TableRecords
from fourfold.testing.clock import START, MovableClock

# Versions, times, tags


def test_a_version_is_read_by_number_by_time_and_by_tag(records: Storage, clock: MovableClock) -> None:
    first = records.append("t", rows(1))
    clock.advance(10)
    records.append("t", rows(2))
    records.tag("t", "report", version=0, why="as sent")
    clock.advance(10)
    records.overwrite("t", rows(9))
    assert numbers(records) == [9]
    assert numbers(records, version=1) == [1, 2]
    assert numbers(records, at=first.at) == [1]
    assert numbers(records, at=first.at + 9_999_999) == [1]
    assert numbers(records, at=first.at + 10_000_000) == [1, 2]
    assert numbers(records, tag="report") == [1]
    assert records.describe("t").tags == {"report": 0}


def test_history_tells_who_and_when_newest_first(records: Storage, clock: MovableClock) -> None:
    with acting_as("ada"):
        records.append("t", rows(1, 2))
    clock.advance(1)
    with context.within(Attempt(number=3)):
        records.append("t", rows(3))
    told = [(v.version, v.operation, v.rows, v.rows_added, v.by, v.step, v.at) for v in records.history("t")]
    assert told == [
        (1, "append", 3, 1, "ada", "step:run_1/build@3", START + 1_000_000),
        (0, "create", 2, 2, "ada", "", START),
    ]
    assert [v.version for v in records.history("t", limit=1)] == [1]


def test_a_tag_moves_and_reading_follows_it(records: Storage) -> None:
    records.append("t", rows(1))
    records.append("t", rows(2))
    records.tag("t", "good", version=0)
    assert numbers(records, tag="good") == [1]
    records.tag("t", "good")
    assert numbers(records, tag="good") == [1, 2]


def test_what_names_no_version_is_said_with_those_there_are(records: Storage, clock: MovableClock) -> None:
    records.append("flights", rows(1))
    records.tag("flights", "report")
    with pytest.raises(NotFound, match="did you mean 'report'"):
        records.read("flights", tag="reprot")
    with pytest.raises(NotFound, match="did not exist at 2025-12-31T23:59:59Z"):
        records.read("flights", at=clock.advance(-1))
    with pytest.raises(NotFound, match="no version 4"):
        records.read("flights", version=4)
    with pytest.raises(NotFound, match="did you mean 'flights'"):
        records.read("fligths")
    with pytest.raises(Refused, match="one of them"):
        records.read("flights", version=0, tag="report")
    with pytest.raises(Refused, match="cannot be a tag"):
        records.tag("flights", "12")


def test_writes_are_in_the_audit_with_their_step(records: Storage, catalog: Catalog) -> None:
    with context.within(Attempt()):
        records.append("t", rows(1))
    records.tag("t", "good", why="checked")
    records.drop("t", why="wrong source")
    entries = CatalogService(catalog, MovableClock()).audit()
    assert [(e.action, str(e.ref), e.principal, e.facts) for e in entries] == [
        ("table.drop", "table:t", "local", {"why": "wrong source"}),
        ("table.tag", "table:t@0", "local", {"tag": "good", "why": "checked"}),
        ("table.create", "table:t@0", "ada", {"rows_added": 1, "step": "step:run_1/build@1"}),
    ]


def test_a_dropped_name_is_retired(records: Storage) -> None:
    records.append("t", rows(1))
    records.drop("t")
    records.drop("t")
    assert records.list_tables() == ()
    with pytest.raises(NotFound, match="was dropped at 2026-01-01T00:00:00Z"):
        records.read("t")
    with pytest.raises(Refused, match="its name is retired"):
        records.append("t", rows(1))


# Inside a step


def test_reads_and_writes_of_a_step_are_reported_by_version(records: Storage) -> None:
    records.append("raw", rows(1))
    records.append("raw", rows(2))
    attempt = Attempt()
    with context.within(attempt):
        records.read("raw", version=0)
        records.scan("raw").read_all()
        records.append("clean", rows(1))
        records.overwrite("clean", rows(2))
    assert attempt.reads == [Ref("table", "raw", "0"), Ref("table", "raw", "1")]
    assert attempt.writes == [Ref("table", "clean", "0"), Ref("table", "clean", "1")]


def test_a_read_that_is_refused_is_not_reported(records: Storage) -> None:
    records.append("raw", rows(1))
    attempt = Attempt()
    with context.within(attempt), pytest.raises(Refused):
        records.read("raw", columns=("m",))
    assert attempt.reads == []


@pytest.mark.parametrize("kind", ["memory", "delta"])
def test_a_second_attempts_write_changes_nothing(kind: str, records: Storage, storage: Storage) -> None:
    store = records if kind == "memory" else storage

    def write(attempt: Attempt) -> list[int]:
        with context.within(attempt):
            versions = [store.append("t", rows(1)), store.append("t", rows(2)), store.overwrite("u", rows(3))]
        return [version.version for version in versions]

    first = write(Attempt(number=1))
    store.append("t", rows(7))
    second = Attempt(number=2)
    assert write(second) == first == [0, 1, 0]
    assert numbers(store) == [1, 2, 7]
    assert second.writes == [Ref("table", "t", "0"), Ref("table", "t", "1"), Ref("table", "u", "0")]
    assert [version.step for version in store.history("u")] == ["step:run_1/build@1"]


# What is refused


@pytest.mark.parametrize(
    "name", ["../t", "a/../b", "..", "a..b", "/etc/passwd", "a/b", "", "t\n", "ü", "a" * 129]
)
def test_a_name_that_leads_elsewhere_is_refused_everywhere(storage: Storage, home: Path, name: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: storage.append(name, rows(1)),
        lambda: storage.overwrite(name, rows(1)),
        lambda: storage.read(name),
        lambda: storage.scan(name),
        lambda: storage.history(name),
        lambda: storage.describe(name),
        lambda: storage.tag(name, "good"),
        lambda: storage.drop(name),
    ]
    for call in calls:
        with pytest.raises(Refused, match="cannot name a table"):
            call()
    assert list((home / "tables").iterdir()) == []


def test_data_that_does_not_fit_is_refused_and_changes_nothing(storage: Storage) -> None:
    storage.append("t", rows(1), partition_by=("day",))
    wrong: list[tuple[pa.Table, str]] = [
        (pa.table({"n": [1]}), "missing: day"),
        (rows(2).append_column("extra", pa.array([1])), "not in the table: extra"),
        (rows(2).set_column(0, "n", pa.array(["one"])), "type differs: n is string"),
    ]
    for data, says in wrong:
        with pytest.raises(Refused, match=says):
            storage.append("t", data)
    with pytest.raises(Refused, match="do not lie in the partition"):
        storage.overwrite("t", rows(2), where={"day": "2013-01-02"})
    assert [version.version for version in storage.history("t")] == [0]
    with pytest.raises(Refused, match="did you mean 'day'"):
        storage.read("t", columns=("dya",))
    with pytest.raises(Refused, match="no column 'm'"):
        storage.read("t", where=(("m", ">", 1),))


def test_null_and_nan_come_back_as_they_were(storage: Storage) -> None:
    values = [1.0, math.nan, None, math.inf]
    storage.append("t", pa.table({"n": [1, 2, 3, 4], "x": pa.array(values)}))
    found = storage.read("t").sort_by("n")["x"]
    assert found.null_count == 1
    assert [repr(value) for value in found.to_pylist()] == [repr(value) for value in values]
    assert numbers(storage, where=(("x", "==", None),)) == [3]
    assert numbers(storage, where=(("x", ">", 0.0),)) == [1, 4]


# Blobs


def test_a_corrupted_blob_is_never_served_and_can_be_stored_again(storage: Storage, home: Path) -> None:
    digest = storage.put_blob(b"the right bytes")
    (path,) = (home / "blobs").glob("??/??/*")
    path.chmod(0o644)
    path.write_bytes(b"the wrong bytes")
    with pytest.raises(Corrupted, match="does not hold the bytes that were stored"):
        storage.get_blob(digest)
    with pytest.raises(NotFound):
        storage.get_blob(digest)
    assert storage.put_blob(b"the right bytes") == digest
    assert storage.get_blob(digest) == b"the right bytes"


@pytest.mark.parametrize("how", ["get", "open", "materialize"])
def test_every_way_of_reading_a_blob_finds_wrong_bytes(home: Path, how: str) -> None:
    blobs = LocalBlobs(home / "blobs")
    digest = blobs.put(b"x" * 3_000_000)
    (path,) = (home / "blobs").glob("??/??/*")
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(2_000_000)
        file.write(b"y")
    ways: dict[str, Callable[[], object]] = {
        "get": lambda: blobs.get(digest),
        "open": lambda: blobs.open(digest).read(),
        "materialize": lambda: blobs.materialize(digest, home / "out"),
    }
    with pytest.raises(Corrupted):
        ways[how]()
    assert not (home / "out").exists()
    assert not blobs.has(digest)
    assert len(list((home / "blobs" / "quarantine").iterdir())) == 1


def test_what_is_no_digest_or_no_file_is_refused(storage: Storage, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="is not a digest"):
        storage.get_blob(Digest("../../etc/passwd"))
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(NotFound, match="is not a file"):
            storage.put_file(path)


# Faults


@pytest.mark.slow
def test_a_full_disk_leaves_the_table_as_it_was_and_the_next_write_works(
    small_disk: Path, sqlite_catalog: Catalog, clock: MovableClock
) -> None:
    blobs, tables = LocalBlobs(small_disk / "blobs"), DeltaTables(small_disk / "tables")
    storage = Storage(sqlite_catalog, blobs, tables, clock)
    storage.append("t", rows(1))
    before = sorted(path for path in small_disk.rglob("*") if path.is_file())
    noise = bytes(range(256)) * 4
    big = pa.table({"n": random.Random(1).sample(range(10**12), 400_000)}).append_column(
        "day", pa.array([DAY_2] * 400_000)
    )
    with pytest.raises(OutOfSpace, match="the table is as it was"):
        storage.append("t", big)
    with pytest.raises(OutOfSpace, match="full; nothing was stored"):
        storage.put_blob(random.Random(1).randbytes(3_000_000))
    with pytest.raises(OutOfSpace):
        storage.append("new", big)
    assert sorted(path for path in small_disk.rglob("*") if path.is_file()) == before
    assert [table.name for table in storage.list_tables()] == ["t"]
    assert storage.append("t", rows(2)).version == 1
    assert numbers(storage) == [1, 2]
    assert storage.get_blob(storage.put_blob(noise)) == noise


def test_a_full_disk_under_the_catalog_changes_nothing(small_disk: Path, clock: MovableClock) -> None:
    catalog = Catalog.open(f"sqlite:///{small_disk}/catalog.db")
    service = CatalogService(catalog, clock)
    service.set_project("name", "flights")
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space left"):
        filler.write_bytes(bytes(3_000_000))

    def note_until_full() -> None:
        for index in range(1000):
            service.set_project(f"note-{index}", "x" * 10_000)

    with pytest.raises(OutOfSpace, match="rolled back"):
        note_until_full()
    kept = len(service.project())
    assert len(service.audit(limit=10_000)) == kept  # a fact and its entry, or neither
    filler.unlink()
    service.set_project("name", "late flights")
    assert service.project()["name"] == "late flights"
    catalog.close()


@pytest.mark.parametrize("fault", [OutOfSpace, Unavailable])
def test_a_write_whose_row_the_catalog_could_not_take_is_done_and_its_row_comes_later(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, fault: type[Exception]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise fault("no")

    with monkeypatch.context() as patch:
        patch.setattr(TableRecords, "add", fail)
        assert storage.append("t", rows(1)).version == 0
    storage.append("t", rows(2))
    assert [(v.version, v.rows, v.by) for v in storage.history("t")] == [(1, 2, "local"), (0, 1, "local")]


def test_a_data_file_with_wrong_bytes_is_said_with_its_table(storage: Storage, home: Path) -> None:
    storage.append("t", rows(1))
    storage.append("t", rows(2))
    newest = max((home / "tables" / "t").glob("part-*.parquet"), key=lambda path: path.stat().st_mtime_ns)
    newest.write_bytes(b"PAR1" + bytes(newest.stat().st_size - 8) + b"PAR1")
    with pytest.raises(Corrupted, match="table 't' at version 1 cannot be read"):
        storage.read("t")
    assert numbers(storage, version=0) == [1]
