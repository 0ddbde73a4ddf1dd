"""What storing files costs, beside a copy with fsync, in one run on one machine.

    python benchmarks/blobs.py [--quick] [--json]

The peer is `shutil.copyfile` and `fsync` of the file and its folder: it keeps no digest and finds no wrong
byte. Each figure is the median of interleaved rounds; a ratio above 1 says that ours is the quicker one.
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

from fourfold.adapters.local_blobs import LocalBlobs
from fourfold.foundation.storage.known import SETTLED_NS, KnownFiles, remembering


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
        path.write_bytes(chance.randbytes(size_bytes))
        sync(path)
    return paths


def ingest(home: Path, what: str, rounds: int, count: int, size_bytes: int) -> list[Row]:
    """Store `count` files of a size, then the same files again."""
    ours, peer, limit, again = [], [], [], []
    home.mkdir()
    store = remembering(LocalBlobs(home / "blobs"), KnownFiles(home / "known"))
    for number in range(rounds):
        sources = files(home / f"source {number}", count, size_bytes, seed=number)
        copies, bare = home / f"copies {number}", home / f"bare {number}"
        copies.mkdir()
        bare.mkdir()
        time.sleep(1.2 * SETTLED_NS / 1e9)  # files that may still change unseen are never remembered
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


def measure(home: Path, *, quick: bool) -> list[Row]:
    mebibytes, rounds = (64, 3) if quick else (512, 7)
    return [
        *ingest(home / "one", f"one file of {mebibytes} MiB", rounds, 1, mebibytes << 20),
        *ingest(home / "many", "200 files of 256 KiB", rounds, 200, 256 << 10),
    ]


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
            limit = "" if each.limit is None else f", limit {each.limit * 1000:.1f} ms"
            print(
                f"{'held  ' if each.held else 'MISSED'} {each.ratio:6.2f} (aim {each.aim})  {each.claim}: "
                f"ours {each.ours * 1000:.1f} ms, peer {each.peer * 1000:.1f} ms{limit}"
            )
    return 0 if all(each.held for each in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
