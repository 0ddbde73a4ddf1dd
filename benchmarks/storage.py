"""What tables cost through our port, beside raw deltalake, DuckDB and pyiceberg, in one run on one machine.

    python benchmarks/storage.py [--quick] [--json] [--only WORD]

Peers are used as they come: `deltalake` and pyiceberg never sync data files, ours are on the disk before a
write returns. The limit is the least that could do the work: Parquet files, and `fsync` where ours has one.
Rounds are interleaved, figures are medians; what moves much data runs in a process of its own each time, and
its peak memory is told. The ratio is peer / ours: above 1, ours is the quicker one. The exit status is 1
when a claim did not hold. Blobs and the catalog have scripts of their own: `blobs.py` and `catalog.py`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from fourfold.adapters.delta import DeltaTables
from fourfold.adapters.local_blobs import LocalBlobs
from fourfold.adapters.sqlite_buffer import SqliteBuffer
from fourfold.adapters.system_clock import SystemClock
from fourfold.catalog.database import Catalog
from fourfold.core.settings import BufferSettings
from fourfold.foundation.storage.service import Storage

SPAWN = multiprocessing.get_context("spawn")
BATCH_ROWS = 250_000


@dataclass
class Row:
    """One claim: seconds (or what the claim says) for ours, the peer and the limit; ratio = peer / ours."""

    claim: str
    ours: float
    peer: float
    limit: float | None
    ratio: float
    aim: str
    held: bool
    note: str = ""


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    rows: int
    upserted: int
    rounds: int
    commits: int
    inserts: int
    appends: int
    with_iceberg: bool


FULL = Size(5_000_000, 100_000, 3, 150, 10_000, 25, with_iceberg=True)
QUICK = Size(500_000, 10_000, 2, 40, 1_000, 10, with_iceberg=False)


# Data: twenty columns, eight bytes each or a short text, `id` counting up


def batch(first: int, count: int) -> pa.Table:
    chance = np.random.default_rng(first)
    ids = np.arange(first, first + count)
    columns: dict[str, Any] = {"id": ids, "day": ids // 100_000}
    columns |= {f"x{i}": chance.normal(size=count) for i in range(12)}
    columns |= {f"n{i}": chance.integers(0, 1000, count) for i in range(4)}
    columns["origin"] = pa.array(["EWR", "JFK", "LGA"]).take(pa.array(chance.integers(0, 3, count)))
    columns["tail"] = pa.array([f"N{n:05d}" for n in range(4000)]).take(
        pa.array(chance.integers(0, 4000, count))
    )
    return pa.table(columns)


def stream(rows: int) -> pa.RecordBatchReader:
    first = batch(0, 1)
    made = (
        piece
        for start in range(0, rows, BATCH_ROWS)
        for piece in batch(start, min(BATCH_ROWS, rows - start)).to_batches()
    )
    return pa.RecordBatchReader.from_batches(first.schema, made)


def upserted(rows: int, count: int, *, recent: bool) -> pa.Table:
    """Nine of ten replace a row (of the newest tenth, or anywhere), one of ten is new."""
    chance = np.random.default_rng(9)
    low = rows * 9 // 10 if recent else 0
    old = chance.choice(np.arange(low, rows), count * 9 // 10, replace=False)
    data = batch(rows, count)
    new = pa.array(np.concatenate([old, np.arange(rows, rows + count - len(old))]))
    return data.set_column(0, "id", new).set_column(1, "day", pc.divide(new, 100_000))


# Running


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def alone(way: Callable[[], object]) -> tuple[float, float]:
    """Seconds that it takes in a fresh process, and by how many MiB the process's peak memory grew."""
    receiver, sender = SPAWN.Pipe(duplex=False)
    process = SPAWN.Process(target=_timed, args=(way, sender))
    process.start()
    sender.close()
    try:
        taken, grown = receiver.recv()
    except EOFError:
        raise SystemExit(f"{way} did not end well") from None
    finally:
        process.join()
    return float(taken), float(grown)


def _timed(way: Callable[[], object], sender: Any) -> None:
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins at what is resident now
    before = _peak_mib()
    began = time.perf_counter()
    way()
    taken = time.perf_counter() - began
    sender.send((taken, _peak_mib() - before))


def _peak_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def within(way: Callable[[], object]) -> tuple[float, float]:
    """Seconds that it takes in this process; its memory is not told."""
    began = time.perf_counter()
    way()
    return time.perf_counter() - began, 0.0


def compare(
    claim: str,
    aim: float,
    rounds: int,
    ours: Callable[[], object],
    peers: dict[str, Callable[[], object]],
    *,
    limit: Callable[[], object] | None = None,
    run: Callable[[Callable[[], object]], tuple[float, float]] = within,
) -> Row:
    """Each way once a round, in turn, so that a busy moment hits all alike; held against the best peer."""
    ways = {"ours": ours, **peers} | ({"limit": limit} if limit is not None else {})
    taken: dict[str, list[float]] = {name: [] for name in ways}
    memory: dict[str, float] = dict.fromkeys(ways, 0.0)
    for _ in range(rounds):
        for name, way in ways.items():
            seconds, grown = run(way)
            taken[name].append(seconds)
            memory[name] = max(memory[name], grown)
    middle = {name: statistics.median(times) for name, times in taken.items()}
    best = min(peers, key=lambda name: middle[name])
    ratio = middle[best] / middle["ours"]
    note = ", ".join(f"{name} {middle[name] * 1e3:,.1f} ms" for name in peers)
    if any(memory.values()):
        note += "; peak memory " + ", ".join(f"{name} {mib:,.0f} MiB" for name, mib in memory.items())
    return Row(
        claim, middle["ours"], middle[best], middle.get("limit"), ratio, f">= {aim:g}", ratio >= aim, note
    )


# Ways


def our_append(home: Path, rows: int) -> None:
    DeltaTables(home / "ours").append("big", stream(rows))


def raw_append(home: Path, rows: int) -> None:
    from deltalake import write_deltalake

    write_deltalake(str(home / "raw"), stream(rows), mode="append")


def parquet_append(home: Path, rows: int) -> None:
    path = home / "floor.parquet"
    data = stream(rows)
    with pq.ParquetWriter(path, data.schema, compression="snappy") as writer:
        for piece in data:
            writer.write_batch(piece)
    sync(path)
    sync(home)


def fresh(home: Path, way: Callable[[Path], object]) -> None:
    """Do it in an empty folder, which is removed again."""
    folder = Path(tempfile.mkdtemp(dir=home))
    try:
        way(folder)
    finally:
        shutil.rmtree(folder)


def our_scan(home: Path, columns: list[str], where: tuple[Any, ...] = ()) -> pa.Table:
    store = DeltaTables(home / "ours")
    version = store.snapshot("big").version
    return store.scan("big", version=version, columns=tuple(columns), where=where).read_all()


def raw_scan(home: Path, columns: list[str], kept: pc.Expression | None = None) -> pa.Table:
    from deltalake import DeltaTable

    return DeltaTable(str(home / "raw")).to_pyarrow_dataset().to_table(columns=columns, filter=kept)


def duckdb_scan(home: Path, columns: list[str], condition: str = "true") -> pa.Table:
    import duckdb

    files = str(home / "raw" / "*.parquet")
    query = f"SELECT {', '.join(columns)} FROM read_parquet('{files}') WHERE {condition}"
    return duckdb.connect().sql(query).to_arrow_table()


def floor_scan(home: Path, columns: list[str], kept: pc.Expression | None = None) -> pa.Table:
    return ds.dataset(home / "floor.parquet").to_table(columns=columns, filter=kept)


def our_upsert(home: Path, data: pa.Table) -> None:
    DeltaTables(home).upsert("big", data, key=("id",))


def raw_merge(home: Path, data: pa.Table) -> None:
    from deltalake import DeltaTable

    merge = DeltaTable(str(home)).merge(data, "t.id = s.id", source_alias="s", target_alias="t")
    merge.when_matched_update_all().when_not_matched_insert_all().execute()


def iceberg_upsert(home: Path, rows: int, data: pa.Table) -> float:
    """Seconds of pyiceberg's upsert into as many rows; loading them does not count."""
    from pyiceberg.catalog.sql import SqlCatalog

    home.mkdir()
    catalog = SqlCatalog("bench", uri=f"sqlite:///{home}/catalog.db", warehouse=f"file://{home}")
    catalog.create_namespace("n")
    table = catalog.create_table("n.big", schema=data.schema)
    table.append(stream(rows).read_all())
    began = time.perf_counter()
    table.upsert(data, join_cols=["id"])
    return time.perf_counter() - began


# Claims


def large_tables(home: Path, size: Size) -> list[Row]:
    rows, n = size.rows, f"{size.rows:,} rows x 20"
    made = [
        compare(
            f"append of a stream of {n}, on the disk",
            0.9,
            size.rounds,
            partial(fresh, home, partial(our_append, rows=rows)),
            {"deltalake, unsynced": partial(fresh, home, partial(raw_append, rows=rows))},
            limit=partial(fresh, home, partial(parquet_append, rows=rows)),
            run=alone,
        )
    ]
    for way in (our_append, raw_append, parquet_append):
        way(home, rows)
    low, high = rows // 2, rows // 2 + rows // 100
    inside = (pc.field("id") >= low) & (pc.field("id") < high)
    everything = batch(0, 1).column_names
    made += [
        compare(
            f"one column of {n}",
            0.9,
            size.rounds * 5,
            lambda: our_scan(home, ["x3"]),
            {
                "deltalake": lambda: raw_scan(home, ["x3"]),
                "duckdb": lambda: duckdb_scan(home, ["x3"]),
            },
            limit=lambda: floor_scan(home, ["x3"]),
        ),
        compare(
            f"a hundredth of {n} by a range of ids, all columns",
            0.9,
            size.rounds * 5,
            lambda: our_scan(home, everything, (("id", ">=", low), ("id", "<", high))),
            {
                "deltalake": lambda: raw_scan(home, everything, inside),
                "duckdb": lambda: duckdb_scan(home, everything, f"id >= {low} AND id < {high}"),
            },
            limit=lambda: floor_scan(home, everything, inside),
        ),
    ]
    return made


def upserts(home: Path, size: Size) -> list[Row]:
    made = []
    our_append(home, size.rows)
    raw_append(home, size.rows)
    for recent in (False, True):
        data = upserted(size.rows, size.upserted, recent=recent)
        where = "the newest tenth" if recent else "anywhere"
        taken: dict[str, list[float]] = {"ours": [], "MERGE": []}
        memory: dict[str, float] = {"ours": 0.0, "MERGE": 0.0}
        for turn in range(size.rounds):
            for name, source, way in (("ours", "ours", our_upsert), ("MERGE", "raw", raw_merge)):
                copy = home / f"{name}-{recent}-{turn}"
                shutil.copytree(home / source, copy)
                seconds, grown = alone(partial(way, copy, data))
                taken[name].append(seconds)
                memory[name] = max(memory[name], grown)
                shutil.rmtree(copy)
        ours, peer = (statistics.median(taken[name]) for name in ("ours", "MERGE"))
        note = f"peak memory ours {memory['ours']:,.0f} MiB, MERGE {memory['MERGE']:,.0f} MiB"
        claim = f"upsert of {size.upserted:,} into {size.rows:,} x 20, keys from {where}"
        made.append(Row(claim, ours, peer, None, peer / ours, ">= 0.91", peer / ours >= 0.91, note))
        if size.with_iceberg and not recent:
            slow = iceberg_upsert(home / "iceberg", size.rows, data)
            made.append(Row(f"{claim}: pyiceberg", ours, slow, None, slow / ours, ">= 8", slow / ours >= 8))
    return made


def small_commits(home: Path, size: Size) -> list[Row]:
    from deltalake import write_deltalake

    store, small, count = DeltaTables(home / "tables"), batch(0, 1000), itertools.count()

    def floor() -> None:
        folder = home / "floor"
        folder.mkdir(exist_ok=True)
        path = folder / f"{next(count)}.parquet"
        pq.write_table(small, path, compression="snappy")
        sync(path)
        sync(folder)

    return [
        compare(
            f"1,000-row commit to a table, on the disk, {size.commits} in a row",
            0.9,
            size.commits,
            lambda: store.append("small", small),
            {"deltalake, unsynced": lambda: write_deltalake(str(home / "raw"), small, mode="append")},
            limit=floor,
        )
    ]


def inserts(home: Path, size: Size) -> list[Row]:
    """Rows that come one by one, each durable, and seen by a reader of its own before the next one comes.

    The peer commits without any sync and opens the table anew, as its readers do. The limit is a database.
    """
    from deltalake import DeltaTable, write_deltalake

    writer, reader = _storage(home), _storage(home)
    raw = str(home / "raw")
    database = sqlite3.connect(home / "limit.db", isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute("CREATE TABLE events (id INTEGER PRIMARY KEY, x REAL, origin TEXT, day TEXT)")
    ours_next, peers_next, limits_next = itertools.count(), itertools.count(), itertools.count()

    def row(number: int) -> pa.Table:
        return pa.table({"id": [number], "x": [0.5], "origin": ["EWR"], "day": ["2013-01-01"]})

    def ours() -> None:
        number = next(ours_next)
        writer.insert("events", row(number))
        assert reader.read("events", columns=("id",), where=(("id", "==", number),)).num_rows == 1

    def peer() -> None:
        number = next(peers_next)
        write_deltalake(raw, row(number), mode="append")
        files = DeltaTable(raw).to_pyarrow_dataset()
        assert files.to_table(columns=["id"], filter=pc.field("id") == number).num_rows == 1

    def limit() -> None:
        number = next(limits_next)
        database.execute("INSERT INTO events VALUES (?, 0.5, 'EWR', '2013-01-01')", (number,))
        assert database.execute("SELECT id FROM events WHERE id = ?", (number,)).fetchone()

    claim = f"one-row durable commit, seen by a reader ({size.commits} of them)"
    seen = compare(claim, 10, size.commits, ours, {"deltalake, unsynced": peer}, limit=limit)
    began = time.perf_counter()
    for _ in range(size.inserts):
        writer.insert("events", row(next(ours_next)))
    writer.flush("events")
    share = (time.perf_counter() - began) / size.inserts
    assert reader.describe("events").rows == size.commits + size.inserts
    writer.close()
    reader.close()
    claim, ratio = (
        f"the same by {size.inserts:,} inserts in a row, with their flushes, each",
        seen.peer / share,
    )
    return [seen, Row(claim, share, seen.peer, seen.limit, ratio, ">= 10", ratio >= 10)]


def _storage(home: Path) -> Storage:
    return Storage(
        Catalog.open(f"sqlite:///{home}/catalog.db"),
        LocalBlobs(home / "blobs"),
        DeltaTables(home / "tables"),
        SystemClock(),
        buffer=SqliteBuffer(home / "buffer.db", most_bytes=2**26),
        bounds=BufferSettings(),
    )


def writers(home: Path, size: Size) -> list[Row]:
    """Processes that append to one table at once: all rows are there, and nobody starves.

    The table is there, each process has appended to another one before, and stays until all are done.
    """
    made = []
    single = _appends(home / "one", 1, size.appends)
    for count in (4, 16):
        waits = _appends(home / f"w{count}", count, size.appends)
        store = DeltaTables(home / f"w{count}")
        lost = (1 + count * size.appends) * 10 - store.snapshot("t").rows
        p50, p99 = statistics.median(single), statistics.quantiles(waits, n=100)[98]
        bound = 2 * count * p50
        claim = f"{count} processes x {size.appends} appends: p99, s (lost or failed: {lost // 10})"
        held = p99 <= bound and lost == 0
        made.append(Row(claim, p99, p50, bound, bound / p99, "p99 <= 2 x writers x p50 of one", held))
    return made


def _appends(home: Path, count: int, appends: int) -> list[float]:
    DeltaTables(home).append("t", batch(0, 10))  # that only one of them can make the table is another matter
    queue: Any = SPAWN.Queue()
    start = SPAWN.Barrier(count)
    processes = [SPAWN.Process(target=_writer, args=(home, appends, start, queue)) for _ in range(count)]
    for process in processes:
        process.start()
    waits = [wait for _ in processes for wait in queue.get()]
    for process in processes:
        process.join()
    return waits


def _writer(home: Path, appends: int, start: Any, queue: Any) -> None:
    store, data, waits = DeltaTables(home), batch(0, 10), []
    store.append(f"own-{os.getpid()}", data)  # loads what appending needs: processes that last are compared
    start.wait()
    for _ in range(appends):
        began = time.perf_counter()
        try:
            store.append("t", data)
        except Exception as error:  # counted by the rows that are missing
            print(f"an append failed: {error}", file=sys.stderr)
        waits.append(time.perf_counter() - began)
    start.wait()  # a process that ends takes processor time from those that still write
    queue.put(waits)


CLAIMS: dict[str, Callable[[Path, Size], list[Row]]] = {
    "inserts": inserts,
    "commits": small_commits,
    "large": large_tables,
    "upserts": upserts,
    "writers": writers,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the data, no pyiceberg")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--only", choices=sorted(CLAIMS), help="one group of claims")
    options = parser.parse_args()
    rows: list[Row] = []
    for name, claims in CLAIMS.items():
        if options.only in (None, name):
            with tempfile.TemporaryDirectory(prefix=f"bench-{name}-") as folder:
                rows += claims(Path(folder), QUICK if options.quick else FULL)
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        for row in rows:
            limit = "" if row.limit is None else f", limit {row.limit * 1e3:,.1f}"
            print(f"{'held  ' if row.held else 'MISSED'} {row.ratio:6.2f} ({row.aim})  {row.claim}")
            print(f"        ms: ours {row.ours * 1e3:,.1f}, peer {row.peer * 1e3:,.1f}{limit}. {row.note}")
    return 0 if all(row.held for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
