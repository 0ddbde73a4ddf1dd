"""What compute claims, each beside its alternative in the same run.

    .venv/bin/python benchmarks/compute.py [--quick] [--json]

Peers are of the standard library and of NumPy, so nothing has to be installed. Ours and the peer take turns,
and each figure is the median. The exit status is 1 when a claim did not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from fourfold.adapters.local_engine import LocalEngine
from fourfold.core.ports.engine import Launch
from fourfold.foundation.compute.apart import THREAD_SETTINGS
from fourfold.foundation.compute.measure import TRIAD_BYTES_PER_ELEMENT
from fourfold.foundation.compute.units import find_unit
from fourfold.runner.meter import Meter

ENGINE_START = """
import sys, time
began = time.perf_counter()
from pathlib import Path
from fourfold.adapters.local_engine import LocalEngine
from fourfold.core.compute import Unit
engine = LocalEngine(Path(sys.argv[1]), unit=Unit("local", 2, 1 << 30))
engine.prepare()
print(time.perf_counter() - began)
engine.close()
"""
POOL_START = """
import time
began = time.perf_counter()
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
if __name__ == "__main__":
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        pool.submit(int).result()
        print(time.perf_counter() - began)
"""
NUMPY_TRIAD = """
import statistics, sys, time
import numpy as np
count, repeats = int(sys.argv[1]) // 8, int(sys.argv[2])
a, b, c = np.zeros(count), np.full(count, 1.5), np.full(count, 2.5)
times = []
for _ in range(repeats + 1):
    began = time.perf_counter()
    np.multiply(c, 3.0, out=a)
    np.add(a, b, out=a)
    times.append(time.perf_counter() - began)
print(count * 40 / statistics.median(times[1:]) / 1e9)
"""


@dataclass(frozen=True)
class Row:
    """One claim. `ratio` is ours / peer; the aim is met when it stays on its side of `aim`."""

    claim: str
    ours: float
    peer: float
    limit: float | None
    """What ours may be at most, whatever the peer does; none where only the ratio is claimed."""
    ratio: float
    aim: str
    held: bool


def at_most(
    claim: str,
    ours: list[float],
    peer: list[float],
    *,
    limit: float | None = None,
    times: float | None = None,
) -> Row:
    """A claim that ours is at most `limit`, or at most so many times the peer."""
    mine, theirs = statistics.median(ours), statistics.median(peer)
    aims = [f"<= {limit:g}"] if limit is not None else []
    aims += [f"<= {times:g}x the peer"] if times is not None else []
    held = (limit is None or mine <= limit) and (times is None or mine <= times * theirs)
    return Row(claim, mine, theirs, limit, mine / theirs, " and ".join(aims), held)


def engine_start(folder: Path, rounds: int) -> list[Row]:
    """From a bare interpreter until a job could start; CPU time tells it also on a busy machine."""
    script = folder / "pool.py"
    script.write_text(POOL_START)
    figures: tuple[list[float], ...] = ([], [], [], [])
    for index in range(rounds):
        commands = (("-c", ENGINE_START, str(folder / f"start{index}")), (str(script),))
        for wall, cpu, command in zip(figures[:2], figures[2:], commands, strict=True):
            before = _children_cpu_s()
            wall.append(float(_python(*command)))
            cpu.append(_children_cpu_s() - before)
    return [
        at_most("local engine ready, s (peer: a process pool with one worker)", *figures[:2], limit=0.3),
        at_most("CPU time of that, from the interpreter's start to its end, s", *figures[2:], limit=0.3),
    ]


def commands(folder: Path, rounds: int) -> list[Row]:
    """A command from submission to its known end, and what the engine holds while it idles."""
    engine = LocalEngine(folder / "commands", unit=find_unit())
    engine.prepare()

    def through_the_engine(key: str) -> None:
        engine.submit(Launch(key, ("/bin/true",)))
        engine.wait([key], 60)

    ours, peer = [], []
    for index in range(rounds):
        ours.append(_seconds(partial(through_the_engine, f"job/{index}")) * 1e3)
        peer.append(_seconds(lambda: subprocess.run(["/bin/true"], check=True)) * 1e3)
    supervisor = engine._supervisor
    assert supervisor is not None
    memory = _pss_mib(supervisor._process.pid)
    idle = subprocess.Popen([sys.executable, "-I", "-S", "-c", "input()"], stdin=subprocess.PIPE)
    time.sleep(0.2)
    bare = _pss_mib(idle.pid)
    idle.communicate(b"\n")
    engine.close()
    return [
        at_most("a command from submission to its end, ms (peer: subprocess.run)", ours, peer, limit=40),
        at_most("memory of an idle engine's supervisor, MiB (peer: bare Python)", [memory], [bare], limit=20),
    ]


def status_of_many(folder: Path, count: int) -> Row:
    """The status of so many jobs that ran; the peer reads the journal of each one's end."""
    engine = LocalEngine(folder / "many", unit=find_unit())
    keys = [f"job/{index}" for index in range(count)]
    for start in range(0, count, 100):
        for key in keys[start : start + 100]:
            engine.submit(Launch(key, ("/bin/true",)))
        for key in keys[start : start + 100]:
            engine.wait([key], 60)
    journals = list((folder / "many").glob("*/end.json"))
    assert len(journals) == count
    ours, peer = [], []
    for _ in range(5):
        ours.append(_seconds(lambda: engine.status(keys)) * 1e3)
        peer.append(_seconds(lambda: [json.loads(each.read_bytes()) for each in journals]) * 1e3)
    engine.close()
    return at_most(
        f"the status of {count} jobs, ms (peer: reading their journals)", ours, peer, limit=count / 100
    )


def meter(rounds: int) -> Row:
    """What metering adds to a step; the floor is two readings of the clock of the processors."""
    each = Meter()

    def metered() -> None:
        each.start()
        each.stop()

    def floor() -> None:
        for _ in range(2):
            resource.getrusage(resource.RUSAGE_SELF)
            resource.getrusage(resource.RUSAGE_CHILDREN)

    ours, peer = [], []
    for _ in range(rounds):
        ours.append(_seconds(metered) * 1e6)
        peer.append(_seconds(floor) * 1e6)
    each.close()
    return at_most("metering one step, µs (peer: getrusage before and after)", ours, peer, limit=500)


def triad(rounds: int, array_bytes: int) -> Row:
    """Our triad against the same two passes in plain NumPy, over whole arrays."""
    part = {
        "part": "arithmetic",
        "array_bytes": array_bytes,
        "matrix_side": 64,
        "threads": 1,
        "budget_s": 0.9,
    }
    ours, peer = [], []
    for _ in range(rounds):
        lines = _python("-m", "fourfold.foundation.compute.measure", json.dumps(part)).splitlines()
        ours.append(next(f["value"] for f in map(json.loads, lines) if f["name"] == "triad_1_thread"))
        peer.append(float(_python("-c", NUMPY_TRIAD, str(array_bytes), "5")))
    mine, theirs = statistics.median(ours), statistics.median(peer)
    claim = f"triad, GB/s at {TRIAD_BYTES_PER_ELEMENT} bytes an element (peer: NumPy's two passes)"
    return Row(claim, mine, theirs, None, mine / theirs, ">= 0.9x the peer", mine >= 0.9 * theirs)


def _python(*arguments: str) -> str:
    environment = {**os.environ, **dict.fromkeys(THREAD_SETTINGS, "1")}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=True, env=environment
    )
    return done.stdout


def _seconds(what: Callable[[], object]) -> float:
    began = time.perf_counter()
    what()
    return time.perf_counter() - began


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _pss_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer repeats: about ten seconds")
    parser.add_argument("--json", action="store_true", help="rows as JSON")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-compute-") as name:
        folder = Path(name)
        rows = [
            *engine_start(folder, 5 if given.quick else 15),
            *commands(folder, 30 if given.quick else 200),
            status_of_many(folder, 500 if given.quick else 10_000),
            meter(200 if given.quick else 2000),
            triad(2 if given.quick else 5, (128 if given.quick else 512) << 20),
        ]
    if given.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
    else:
        for row in rows:
            held = "held" if row.held else "NOT HELD"
            print(
                f"{row.claim}\n    ours {row.ours:.4g}, peer {row.peer:.4g}, ratio {row.ratio:.2f}; ", end=""
            )
            print(f"aim {row.aim}: {held}")
    return 0 if all(row.held for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
