"""What a step of a flow costs, beside the least that any durable runner of steps must do.

    .venv/bin/python benchmarks/flows.py [--quick] [--json]

Ours is a chain of fifty trivial steps through the whole house: submitted from this process to the owner's
loop, each step in a warm worker process, each transition in the catalog. The floor is a process pool of one
and two transactions per step in SQLite, at the same level (WAL, synchronous NORMAL), in the same run; ours
and the floor take turns, and each figure is a median. The exit status is 1 when a claim did not hold.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

STEPS = 50
FLOWS = """
import time
import fourfold as ff

@ff.step
def add(x: int) -> int:
    return x + 1

@ff.flow
def chain(n: int = 50):
    x = 0
    for _ in range(n):
        x = add(x)
    return x

@ff.flow
def asking(n: int = 50):
    x = 0
    for _ in range(n):
        x = add(x).result()
    return x

@ff.flow
def first_line():
    return time.time()
"""


@dataclass(frozen=True)
class Row:
    """One claim. `ratio` is ours / peer; `limit` is what ours may be at most, where there is such a bound."""

    claim: str
    ours: float
    peer: float
    limit: float | None
    ratio: float
    aim: str
    held: bool


def add(x: int) -> int:
    return x + 1


class Floor:
    """A pool of one process, and a table of steps whose every transition is committed."""

    def __init__(self, folder: Path) -> None:
        self.pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        self.database = sqlite3.connect(folder / "floor.db", isolation_level=None)
        self.database.execute("PRAGMA journal_mode=WAL")
        self.database.execute("PRAGMA synchronous=NORMAL")
        self.database.execute("CREATE TABLE step (id INTEGER PRIMARY KEY, state TEXT, result BLOB)")
        self.pool.submit(add, 0).result()

    def step(self, function: Any, *arguments: Any) -> Any:
        cursor = self.database.execute("INSERT INTO step (state) VALUES ('running')")
        result = self.pool.submit(function, *arguments).result()
        self.database.execute(
            "UPDATE step SET state = 'succeeded', result = ? WHERE id = ?",
            (repr(result).encode(), cursor.lastrowid),
        )
        return result

    def chain(self) -> float:
        """Seconds for the chain."""
        began, x = time.perf_counter(), 0
        for _ in range(STEPS):
            x = self.step(add, x)
        assert x == STEPS
        return time.perf_counter() - began

    def first_line(self) -> float:
        """Seconds until work begins in the other process."""
        began = time.time()
        return float(self.step(time.time) - began)

    def close(self) -> None:
        self.pool.shutdown()
        self.database.close()


def chain(flow: Any) -> float:
    """Seconds for a chain through a flow, from submission to its result."""
    began = time.perf_counter()
    assert flow.run(show=False) == STEPS
    return time.perf_counter() - began


def first_line(flow: Any) -> float:
    began = time.time()
    return float(flow.run(show=False) - began)


def measure(folder: Path, *, quick: bool) -> list[Row]:
    (folder / "bench_flows.py").write_text(FLOWS)
    sys.path.insert(0, str(folder))
    os.chdir(folder)
    os.environ["FOURFOLD_HOME"] = str(folder / ".fourfold")
    flows: Any = importlib.import_module("bench_flows")
    floor = Floor(folder)
    chains: list[float] = []
    askings: list[float] = []
    floors: list[float] = []
    starts: list[float] = []
    floor_starts: list[float] = []
    for flow in (flows.chain, flows.asking, flows.first_line):  # warm: the owner, the body and a worker
        flow.run(show=False)
    for _ in range(5 if quick else 25):
        floors.append(floor.chain())
        chains.append(chain(flows.chain))
        askings.append(chain(flows.asking))
    for _ in range(20 if quick else 200):
        floor_starts.append(floor.first_line())
        starts.append(first_line(flows.first_line))
    floor.close()
    return [
        at_most_times("a step in a chain of 50, ms", per_step(chains), per_step(floors), times=4.0),
        at_most_times(
            "a step when the body asks for each result, ms", per_step(askings), per_step(floors), times=8.0
        ),
        at_most("from submission to the flow's first line, p50 ms", starts, floor_starts, 50, limit_ms=50.0),
        at_most("from submission to the flow's first line, p99 ms", starts, floor_starts, 99, limit_ms=50.0),
    ]


def per_step(taken: list[float]) -> float:
    return statistics.median(taken) / STEPS * 1e3


def at_most_times(claim: str, ours: float, peer: float, *, times: float) -> Row:
    ratio = ours / peer
    return Row(claim, ours, peer, None, ratio, f"<= {times:g}x the floor", ratio <= times)


def at_most(claim: str, ours: list[float], peer: list[float], percent: int, *, limit_ms: float) -> Row:
    mine, theirs = (statistics.quantiles(each, n=100)[percent - 1] * 1e3 for each in (ours, peer))
    return Row(claim, mine, theirs, limit_ms, mine / theirs, f"<= {limit_ms:g}", mine <= limit_ms)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer repeats: about ten seconds")
    parser.add_argument("--json", action="store_true", help="rows as JSON")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-flows-") as name:
        rows = measure(Path(name), quick=given.quick)
        from fourfold.wiring import open_project

        open_project().close()
    if given.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
    else:
        for row in rows:
            held = "held" if row.held else "NOT HELD"
            print(
                f"{row.claim}\n    ours {row.ours:.3g}, floor {row.peer:.3g}, ratio {row.ratio:.2f}; ", end=""
            )
            print(f"aim {row.aim}: {held}")
    return 0 if all(row.held for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
