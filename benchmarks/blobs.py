"""What storing files costs, beside a copy with fsync, and what chunks save, in one run on one machine.

    python benchmarks/blobs.py [--quick] [--json]

The peer of an ingest is `shutil.copyfile` and `fsync` of the file and its folder: it keeps no digest and
finds no wrong byte. Each figure is the median of interleaved rounds, in seconds; a ratio above 1 says that
ours is the quicker one.

The rows on chunks need no rounds: they tell which share of a second version's bytes is stored. The peer is
the whole file again; the limit is the share that changed. A ratio of 10 says that a tenth is stored.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fourfold.adapters.blake3_digests import Blake3Digests
from fourfold.adapters.fastcdc_chunks import FastCdcChunks
from fourfold.adapters.local_blobs import LocalBlobs
from fourfold.adapters.system_clock import SystemClock
from fourfold.catalog.database import Catalog
from fourfold.foundation.storage.folders.service import Files
from fourfold.foundation.storage.known import SETTLED_NS, KnownFiles, remembering

PIECE_BYTES = 64 << 20


@dataclass
class Row:
    """One claim: seconds (or shares) for ours, the peer and the limit; ratio = peer / ours."""

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


def copy(source: Path, into: Path) -> Path:
    return Path(shutil.copyfile(source, into / source.name))


def copy_and_sync(source: Path, into: Path) -> None:
    sync(copy(source, into))
    sync(into)


def timed(way: Callable[[Path], object], paths: list[Path]) -> float:
    start = time.perf_counter()
    for path in paths:
        way(path)
    return time.perf_counter() - start


def row(
    claim: str, aim: float, ours: list[float], peer: list[float], limit: list[float] | None = None
) -> Row:
    middle, other = statistics.median(ours), statistics.median(peer)
    least = None if limit is None else statistics.median(limit)
    return Row(claim, middle, other, least, other / middle, aim, other / middle >= aim)


def files(folder: Path, count: int, size_bytes: int, seed: int) -> list[Path]:
    """Files whose bytes nobody has seen before, on the disk already, so that no round pays for another."""
    folder.mkdir()
    chance = random.Random(seed)
    paths = [folder / str(number) for number in range(count)]
    for path in paths:
        with path.open("wb") as file:
            for start in range(0, size_bytes, PIECE_BYTES):  # `randbytes` gives less than 256 MiB at once
                file.write(chance.randbytes(min(PIECE_BYTES, size_bytes - start)))
        sync(path)
    return paths


def ingest(home: Path, what: str, rounds: int, size_bytes: int) -> list[Row]:
    """Store a file, then the same file again."""
    ours, peer, limit, again = [], [], [], []
    home.mkdir()
    store = remembering(LocalBlobs(home / "blobs"), KnownFiles(home / "known"))
    for number in range(rounds):
        sources = files(home / f"source {number}", 1, size_bytes, seed=number)
        copies, bare = home / f"copies {number}", home / f"bare {number}"
        copies.mkdir()
        bare.mkdir()
        settle()
        ours.append(timed(store.put_file, sources))
        peer.append(timed(partial(copy_and_sync, into=copies), sources))
        limit.append(timed(partial(copy, into=bare), sources))
        again.append(timed(store.put_file, sources))
        for folder in (copies, bare):
            shutil.rmtree(folder)
    return [
        row(f"first ingest of {what}, against copy + fsync", 0.8, ours, peer, limit),
        row(f"second ingest of {what}, against the first", 10, again, ours),
    ]


def settle() -> None:
    """Wait until the files that were just written are remembered: they may still change unseen before."""
    time.sleep(1.2 * SETTLED_NS / 1e9)


def service(home: Path) -> Files:
    store = remembering(LocalBlobs(home / "blobs"), KnownFiles(home / "known"))
    return Files(
        Catalog.open(f"sqlite:///{home}/catalog.db"),
        store,
        LocalBlobs(home / "uploads"),
        SystemClock(),
        Blake3Digests(),
        FastCdcChunks,
    )


def folders(home: Path, rounds: int, count: int, size_bytes: int) -> list[Row]:
    """Save a folder of small files as a version, then again."""
    ours, peer, again = [], [], []
    home.mkdir()
    saved = service(home)
    for number in range(rounds):
        folder, copies = home / f"source {number}", home / f"copies {number}"
        sources = files(folder, count, size_bytes, seed=number)
        copies.mkdir()
        settle()
        ours.append(timed(partial(saved.save, "images"), [folder]))
        peer.append(timed(partial(copy_and_sync, into=copies), sources))
        again.append(timed(partial(saved.save, "images"), [folder]))
    what = f"a folder of {count} files of {size_bytes >> 10} KiB"
    return [
        row(f"first save of {what} as a version, against copy + fsync of each", 0.8, ours, peer),
        row(f"second save of {what}, against the first", 5, again, ours),
    ]


def chunks(home: Path, mebibytes: int) -> list[Row]:
    """Which share of a second version is stored, for the changes that data undergoes."""
    home.mkdir()
    chance = np.random.default_rng(1)
    size = mebibytes << 20
    before = chance.bytes(size)
    tail = size // 10
    table = pa.table(
        {
            **{f"x{i}": chance.normal(size=size // 100) for i in range(8)},
            "id": np.arange(size // 100),
            "text": [f"row {number * 7919 % 100_003}" for number in range(size // 100)],
        }
    )
    middle = table.num_rows // 2
    inserted = pa.concat_tables([table.slice(0, middle), table.slice(5, 100), table.slice(middle)])
    cases: list[tuple[str, bytes, bytes, float, float]] = [
        ("1 KiB inserted at the front", before, b"x" * 1024 + before, 1024 / size, 100),
        ("5 % appended", before, before + chance.bytes(size // 20), 0.05 / 1.05, 15),
        ("the last tenth changed", before, before[:-tail] + chance.bytes(tail), 0.1, 8),
        ("all of it changed, as a training step does to weights", before, chance.bytes(size), 1, 0.99),
        ("100 rows inserted into Parquet", parquet(table), parquet(inserted), 100 / table.num_rows, 1),
        (
            "100 rows inserted into Parquet that was written with use_content_defined_chunking",
            parquet(table, use_content_defined_chunking=True),
            parquet(inserted, use_content_defined_chunking=True),
            100 / table.num_rows,
            5,
        ),
    ]
    rows = []
    for number, (what, first, second, changed, aim) in enumerate(cases):
        saved = service(home)
        source = home / "data"
        source.write_bytes(first)
        saved.save(f"data{number}", source, chunked=True)
        source.write_bytes(second)
        made = saved.save(f"data{number}", source, chunked=True)
        share = made.added_bytes / made.size_bytes
        claim = f"share stored in chunks, {what}, against the whole file"
        rows.append(Row(claim, share, 1.0, changed, 1 / share, aim, 1 / share >= aim))
    return rows


def parquet(table: pa.Table, **options: bool) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **options)
    return bytes(sink.getvalue())


def measure(home: Path, *, quick: bool) -> list[Row]:
    mebibytes, rounds = (64, 3) if quick else (512, 7)
    return [
        *ingest(home / "one", f"one file of {mebibytes} MiB", rounds, mebibytes << 20),
        *folders(home / "many", rounds, 200, 256 << 10),
        *chunks(home / "chunks", 64),
    ]


def told(of: Row, value: float) -> str:
    return f"{value:.2%}" if of.claim.startswith("share") else f"{value * 1000:.1f} ms"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less data, fewer rounds")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--folder", type=Path, help="where to work: a folder on the disk to be measured")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        rows = measure(Path(folder), quick=options.quick)
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        for each in rows:
            limit = "" if each.limit is None else f", limit {told(each, each.limit)}"
            print(
                f"{'held  ' if each.held else 'MISSED'} {each.ratio:6.2f} (aim {each.aim})  {each.claim}: "
                f"ours {told(each, each.ours)}, peer {told(each, each.peer)}{limit}"
            )
    return 0 if all(each.held for each in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
