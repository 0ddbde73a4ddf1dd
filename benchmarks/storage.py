"""What tables cost through our port, beside raw deltalake and pyarrow, in one run on one machine.

    python benchmarks/storage.py [--quick] [--json]

The peer does the same work with the same durability: `deltalake` never syncs, so its files, log entry and
folders are synced here as ours are. The limit is the least that could do it: Parquet and `fsync`. Each
figure is the median of interleaved rounds; a ratio above 1 says that ours is the quicker one.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from deltalake import DeltaTable, write_deltalake

from fourfold.adapters.delta import DeltaTables
from fourfold.adapters.local_blobs import LocalBlobs
from fourfold.adapters.sqlite_buffer import SqliteBuffer
from fourfold.adapters.system_clock import SystemClock
from fourfold.catalog.database import Catalog
from fourfold.core.settings import BufferSettings
from fourfold.foundation.storage.service import Storage


@dataclass
class Row:
    """One claim: seconds for ours, the peer and the limit; ratio = peer / ours."""

    claim: str
    ours: float
    peer: float
    limit: float | None
    ratio: float
    aim: float
    held: bool


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def table(rows: int, days: int = 1) -> pa.Table:
    chance = np.random.default_rng(1)
    columns: dict[str, object] = {f"x{i}": chance.normal(size=rows) for i in range(6)}
    columns["id"] = np.arange(rows)
    columns["origin"] = np.array(["EWR", "JFK", "LGA"])[chance.integers(0, 3, rows)]
    columns["day"] = np.array([f"2013-01-{1 + i:02}" for i in range(days)])[np.arange(rows) * days // rows]
    return pa.table(columns)


def raw_append(folder: Path, data: pa.Table, partition_by: list[str] | None = None) -> None:
    """What deltalake does, and the syncs that it leaves out."""
    log = folder / "_delta_log"
    before = {path for path in folder.rglob("*") if path.is_file()} if folder.exists() else set()
    write_deltalake(str(folder), data, mode="append", partition_by=partition_by)
    for path in {path for path in folder.rglob("*") if path.is_file()} - before:
        sync(path)
    sync(log)
    sync(folder)
    sync(folder.parent)


def parquet_append(folder: Path, data: pa.Table, number: int) -> None:
    folder.mkdir(exist_ok=True)
    path = folder / f"{number}.parquet"
    pq.write_table(data, path, compression="snappy")
    sync(path)
    sync(folder)


def compare(claim: str, aim: float, rounds: int, *ways: Callable[[int], object] | None) -> Row:
    """Time each way once a round, in turn, so that a busy moment hits all alike; medians."""
    taken: list[list[float]] = [[] for _ in ways]
    for index in range(rounds):
        for times, way in zip(taken, ways, strict=True):
            if way is not None:
                start = time.perf_counter()
                way(index)
                times.append(time.perf_counter() - start)
    ours, peer, limit = (statistics.median(times) if times else None for times in taken)
    assert ours is not None
    assert peer is not None
    return Row(claim, ours, peer, limit, peer / ours, aim, peer / ours >= aim)


def measure(home: Path, *, quick: bool) -> list[Row]:
    store = DeltaTables(home / "tables")
    storage = Storage(
        Catalog.open(f"sqlite:///{home}/catalog.db"),
        LocalBlobs(home / "blobs"),
        DeltaTables(home / "served"),
        SystemClock(),
    )
    small, commits = table(1000), 20 if quick else 100
    big, rounds = table(200_000 if quick else 2_000_000, days=20), 3 if quick else 5

    def read(name: str, columns: list[str], where: tuple[tuple[str, str, str], ...] = ()) -> pa.Table:
        version = store.snapshot(name).version
        return store.scan(name, version=version, columns=tuple(columns), where=where).read_all()

    def raw_read(name: str, columns: list[str], day: str = "") -> pa.Table:
        kept = ds.field("day") == day if day else None
        files = DeltaTable(str(home / f"raw-{name}")).to_pyarrow_dataset()
        return files.to_table(columns=columns, filter=kept)

    def floor_read(name: str, columns: list[str], day: str = "") -> pa.Table:
        kept = ds.field("day") == day if day else None
        return ds.dataset(home / f"floor-{name}").to_table(columns=columns, filter=kept)

    rows = [
        compare(
            "1,000-row append, synced",
            0.9,
            commits,
            lambda _: store.append("small", small),
            lambda _: raw_append(home / "raw-small", small),
            lambda i: parquet_append(home / "floor-small", small, i),
        ),
        compare(
            "1,000-row append, synced, with catalog row and audit",
            0.9,
            commits,
            lambda _: storage.append("small", small),
            lambda _: raw_append(home / "raw-again", small),
            None,
        ),
        compare(
            f"scan of one column of {commits} small files",
            0.9,
            rounds * 3,
            lambda _: read("small", ["x0"]),
            lambda _: raw_read("small", ["x0"]),
            lambda _: floor_read("small", ["x0"]),
        ),
        compare(
            f"append of {len(big):,} rows, synced",
            0.9,
            rounds,
            lambda i: store.append(f"big{i}", big),
            lambda i: raw_append(home / f"raw-big{i}", big),
            lambda i: parquet_append(home / f"floor-big{i}", big, 0),
        ),
        compare(
            "scan of two columns of them",
            0.9,
            rounds * 3,
            lambda _: read("big0", ["x0", "origin"]),
            lambda _: raw_read("big0", ["x0", "origin"]),
            lambda _: floor_read("big0", ["x0", "origin"]),
        ),
    ]
    store.append("days", big, partition_by=("day",))
    raw_append(home / "raw-days", big, ["day"])
    parquet_append(home / "floor-days", big, 0)
    rows.append(
        compare(
            "one of 20 partitions of them, all columns",
            0.9,
            rounds * 3,
            lambda _: read("days", big.column_names, (("day", "==", "2013-01-07"),)),
            lambda _: raw_read("days", big.column_names, "2013-01-07"),
            lambda _: floor_read("days", big.column_names, "2013-01-07"),
        )
    )
    return rows


def small_commits(home: Path, *, quick: bool) -> list[Row]:
    """Rows that come one by one, each durable, and seen by a reader of its own before the next one comes.

    The peer commits without any sync and opens the table anew, as its readers do. The limit is a database.
    """
    count = 60 if quick else 150
    writer, reader = (
        Storage(
            Catalog.open(f"sqlite:///{home}/catalog.db"),
            LocalBlobs(home / "blobs"),
            DeltaTables(home / "tables"),
            SystemClock(),
            buffer=SqliteBuffer(home / "buffer.db", most_bytes=2**26),
            bounds=BufferSettings(),
        )
        for _ in range(2)
    )
    raw = str(home / "raw-events")
    database = sqlite3.connect(home / "limit.db", isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute("CREATE TABLE events (id INTEGER PRIMARY KEY, x REAL, origin TEXT, day TEXT)")

    def row(number: int) -> pa.Table:
        return pa.table({"id": [number], "x": [0.5], "origin": ["EWR"], "day": ["2013-01-01"]})

    def ours(number: int) -> None:
        writer.insert("events", row(number))
        found = reader.read("events", columns=("id",), where=(("id", "==", number),))
        assert found.num_rows == 1

    def peer(number: int) -> None:
        write_deltalake(raw, row(number), mode="append")
        files = DeltaTable(raw).to_pyarrow_dataset()
        assert files.to_table(columns=["id"], filter=ds.field("id") == number).num_rows == 1

    def limit(number: int) -> None:
        database.execute("INSERT INTO events VALUES (?, 0.5, 'EWR', '2013-01-01')", (number,))
        assert database.execute("SELECT id FROM events WHERE id = ?", (number,)).fetchone()

    claim = f"one-row durable commit, seen by a reader ({count} of them; peer without fsync)"
    seen = compare(claim, 10, count, ours, peer, limit)
    many = 1000 if quick else 10_000
    start = time.perf_counter()
    for number in range(count, count + many):
        writer.insert("events", row(number))
    writer.flush("events")
    share = (time.perf_counter() - start) / many
    assert reader.describe("events").rows == count + many
    writer.close()
    reader.close()
    claim = f"the same by {many:,} inserts in a row, with their flushes, each"
    return [seen, Row(claim, share, seen.peer, seen.limit, seen.peer / share, 10, seen.peer / share >= 10)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less data, fewer rounds")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), quick=options.quick)
        rows += small_commits(Path(folder) / "inserts", quick=options.quick)
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        for row in rows:
            limit = "" if row.limit is None else f", limit {row.limit * 1000:.1f} ms"
            print(
                f"{'held  ' if row.held else 'MISSED'} {row.ratio:5.2f} (aim {row.aim})  {row.claim}: "
                f"ours {row.ours * 1000:.1f} ms, peer {row.peer * 1000:.1f} ms{limit}"
            )
    return 0 if all(row.held for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
