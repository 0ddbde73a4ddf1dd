"""Small work on this machine, beside Ray's own on the same machine in the same run.

    .venv/bin/python -m benchmarks.tasks [--quick] [--json]

Ray comes from `locks/ray.txt` in an environment of its own (made on first use); without it the peer's column
is empty and the other half of a claim still counts. Ours and the peer take turns where each try is a process
of its own. The exit status is 1 when a claim did not hold.

What is held against what: a *task* is a function called in a process that is warm, one row there and back
(ours: `ff.map_batches`, the one way that keeps no record; a durable step is in `flows.py`). *Lost* is a task
that kills its own worker: from the kill to the first line of its second try, everything between included.
Metering is judged by what the kernel and GNU time say of the same processes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pytest
from tests.compute.peers import peer_python

from fourfold.adapters.local_engine import LocalEngine
from fourfold.core.compute import Unit
from fourfold.core.ports.engine import Launch
from fourfold.foundation.compute import batches
from fourfold.foundation.compute.units import find_unit

MARK = "FOURFOLD_BENCH"
PATIENCE_S = 90
RAY_TRIES = 2
"""On a busy machine Ray gives its own start up after 30 s."""
OURS_READY = """
import sys, time
began = time.perf_counter()
from pathlib import Path
from fourfold.adapters.local_engine import LocalEngine
from fourfold.core.compute import Unit
engine = LocalEngine(Path(sys.argv[1]), unit=Unit("local", 2, 1 << 30))
engine.prepare()
print(time.perf_counter() - began, flush=True)
sys.stdin.readline()
engine.close()
"""
RAY_READY = """
import sys, time
import ray
quiet = {"log_to_driver": False, "logging_level": "ERROR"}
began = time.perf_counter()
ray.init(num_cpus=2, include_dashboard=False, _temp_dir=sys.argv[1], **quiet)
print(time.perf_counter() - began, flush=True)
sys.stdin.readline()
ray.shutdown()
"""
RAY_TASKS = """
import json, os, statistics, sys, time
import ray
quiet = {"log_to_driver": False, "logging_level": "ERROR"}
ray.init(num_cpus=2, include_dashboard=False, _temp_dir=sys.argv[1], **quiet)
trips, many, folder = int(sys.argv[2]), int(sys.argv[3]), sys.argv[1]

@ray.remote
def same(x):
    return x

@ray.remote(max_retries=1)
def dies(path):
    import os, time
    first = not os.path.exists(path)
    with open(path, "a") as file:
        file.write(f"{time.time()}\\n")
    if first:
        os.kill(os.getpid(), 9)

ray.get([same.remote(0) for _ in range(20)])
times = []
for _ in range(trips):
    began = time.perf_counter()
    ray.get(same.remote(0))
    times.append((time.perf_counter() - began) * 1e3)
began = time.perf_counter()
ray.get([same.remote(0) for _ in range(many)])
rate = many / (time.perf_counter() - began)
ray.get(dies.remote(folder + "/tries"))
first, second = (float(line) for line in open(folder + "/tries"))
print(json.dumps({"trips_ms": times, "rate": rate, "lost_s": second - first}), flush=True)
ray.shutdown()
"""
DYING_FLOW = """
import os, time
from pathlib import Path
import fourfold as ff

@ff.step(retries=1)
def dies(path: str) -> int:
    first = not Path(path).exists()
    with open(path, "a") as file:
        file.write(f"{time.time()}\\n")
    if first:
        os.kill(os.getpid(), 9)
    return 0

@ff.flow
def lossy(path: str) -> int:
    return dies(path).result()
"""
LOAD = "import time; b = bytearray(b'x') * (192 << 20)\nwhile time.process_time() < 2: pass"


Peer = TypeVar("Peer")


@dataclass(frozen=True)
class Row:
    """One claim. `ratio` is ours / peer; `limit` is what ours may be at most (or least, as `aim` says)."""

    claim: str
    ours: float
    peer: float | None
    limit: float
    ratio: float | None
    aim: str
    held: bool


def at_most(claim: str, ours: float, peer: float | None, limit: float) -> Row:
    return Row(claim, ours, peer, limit, ours / peer if peer else None, f"<= {limit:g}", ours <= limit)


def ready(folder: Path, ray: str | None, rounds: int) -> list[Row]:
    """Until a job could start, and what then is held in memory, of every process that was started."""
    ours, peer = [], []
    for index in range(rounds):
        made = _ready([sys.executable, "-c", OURS_READY, str(folder / f"start{index}")])
        assert made is not None
        ours.append(made)
        if ray and (started := _of_ray(lambda short: _ready([ray, "-c", RAY_READY, short]))):
            peer.append(started)
    took_s, memory = (statistics.median(each[which] for each in ours) for which in (0, 1))
    theirs = [statistics.median(each[which] for each in peer) if peer else None for which in (0, 1)]
    claim = "local engine ready, s (ours from a bare interpreter; peer: ray.init alone)"
    return [
        at_most(claim, took_s, theirs[0], 0.3),
        at_most("memory of all its processes, PSS MiB (peer: after ray.init)", memory, theirs[1], 60),
    ]


def _of_ray(once: Callable[[str], Peer | None]) -> Peer | None:
    """What a program of Ray's tells, tried again where Ray did not start; its folder's name must be short."""
    for _ in range(RAY_TRIES):
        with tempfile.TemporaryDirectory(prefix="r", dir="/tmp", ignore_cleanup_errors=True) as short:
            if (told := once(short)) is not None:
                return told
    print(f"Ray did not start in {RAY_TRIES} tries", file=sys.stderr)
    return None


def _ready(command: list[str]) -> tuple[float, float] | None:
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, MARK: mark},
        text=True,
    )
    assert process.stdout is not None
    guard = threading.Timer(PATIENCE_S, process.kill)  # Ray may wait for ever where it cannot start
    guard.start()
    said = process.stdout.readline()
    memory = sum(_pss_mib(pid) for pid in _marked(mark))
    with contextlib.suppress(BrokenPipeError, subprocess.TimeoutExpired):
        process.communicate("\n", PATIENCE_S)
    guard.cancel()
    _end(mark)
    return (float(said), memory) if said else None


def _marked(mark: str) -> list[int]:
    """All processes that carry the mark in their environment, and what these started without it."""
    found, parents = set(), {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            pid = int(folder.name)
            parents[pid] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.add(pid)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found)


def _end(mark: str) -> None:
    """End what is left of them."""
    for pid in _marked(mark):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def _pss_mib(pid: int) -> float:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
    return 0.0


def tasks(folder: Path, ray: str | None, trips: int, many: int) -> list[Row]:
    """One task there and back, many on two processes, and one that loses its worker."""
    peer = (_of_ray(lambda short: _tasks_of_ray(ray, short, trips, many)) if ray else None) or {}
    one = pa.table({"x": [0]})
    workers = batches._Workers(batches._pickled(_same))
    workers.call(0, one)
    times_ms = [_seconds(lambda: workers.call(0, one)) * 1e3 for _ in range(trips)]
    workers.close()
    rows = pa.table({"x": range(many)})
    reader = batches.map_batches(rows, _same, batch_rows=1, processes=2)
    reader.read_next_batch()  # both are warm once the first has answered
    took_s = _seconds(reader.read_all)
    rate, theirs = (many - 1) / took_s, peer.get("rate")
    trip_peer = statistics.median(peer["trips_ms"]) if peer else None
    return [
        at_most("a task there and back, warm, ms", statistics.median(times_ms), trip_peer, 0.5),
        Row(
            "tasks a second on two processes",
            rate,
            theirs,
            3000,
            rate / theirs if theirs else None,
            ">= 3000",
            rate >= 3000,
        ),
        at_most("a lost worker: from its kill to the second try, s", _lost_s(folder), peer.get("lost_s"), 3),
    ]


def _tasks_of_ray(ray: str, short: str, trips: int, many: int) -> dict[str, Any] | None:
    command, mark = [ray, "-c", RAY_TASKS, short, str(trips), str(many)], uuid.uuid4().hex
    environ = {**os.environ, MARK: mark}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE_S, env=environ, check=False
        )
        told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (subprocess.TimeoutExpired, IndexError, ValueError):
        return None
    finally:
        _end(mark)
    return told


def _same(table: pa.Table) -> pa.Table:
    return table


def _lost_s(folder: Path) -> float:
    """A step of a flow that kills its worker, through the whole house."""
    project = folder / "lossy"
    project.mkdir()
    (project / "lossy.py").write_text(DYING_FLOW)
    tries = project / "tries"
    program = str(Path(sys.executable).with_name("fourfold"))
    command = [program, "flow", "run", "lossy.py", "-p", f"path={tries}", "--quiet"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("FOURFOLD_")}
    subprocess.run(command, cwd=project, env=environ, capture_output=True, timeout=PATIENCE_S, check=True)
    first, second = (float(line) for line in tries.read_text().splitlines())
    return second - first


def fresh(folder: Path, rounds: int) -> Row:
    """A bare interpreter through the engine, from submission to its known end, beside starting it plainly."""
    engine = LocalEngine(folder / "fresh", unit=find_unit())
    engine.prepare()
    bare = (sys.executable, "-I", "-S", "-c", "pass")
    ours, peer = [], []

    def through(key: str) -> None:
        engine.submit(Launch(key, bare))
        engine.wait([key], PATIENCE_S)

    for index in range(rounds):
        ours.append(_seconds(lambda index=index: through(f"f{index}")) * 1e3)  # type: ignore[misc]
        peer.append(_seconds(lambda: subprocess.run(bare, check=True)) * 1e3)
    engine.close()
    mine, theirs = statistics.median(ours), statistics.median(peer)
    claim = "a fresh process, from submission to its known end, ms (peer: subprocess.run of the same)"
    return Row(claim, mine, theirs, 2 * theirs, mine / theirs, "<= 2x the peer", mine <= 2 * theirs)


def meter(folder: Path, watched_s: float) -> list[Row]:
    """What looking at a job costs, and whether what is said of it is so."""
    engine = LocalEngine(folder / "meter", unit=Unit("local", 64, 64 << 30), cwd=folder)
    script = """
import os, time
for _ in range(20):
    if os.fork() == 0:
        time.sleep(600)
print(1, flush=True)
time.sleep(600)
"""
    engine.submit(Launch("many", (sys.executable, "-I", "-S", "-c", script)))
    while not engine.logs("many").data:
        time.sleep(0.05)
    leader = engine.status(["many"])["many"].pid
    keeper = Path(f"/proc/{leader}/stat").read_text().rpartition(")")[2].split()[1]
    before, began = _spent_s(keeper), time.perf_counter()
    time.sleep(watched_s)
    share = (_spent_s(keeper) - before) / (time.perf_counter() - began)
    engine.stop("many", 0)
    rows = [at_most("looking at a job of 20 processes, share of a core", share, None, 0.01)]
    timer = shutil.which("time")
    if timer is not None:
        engine.submit(Launch("load", (timer, "-v", sys.executable, "-I", "-S", "-c", LOAD)))
        engine.wait(["load"], PATIENCE_S)
        used, said = engine.usage("load"), engine.logs("load").data.decode()
        cpu_s = sum(map(float, re.findall(r"(?:User|System) time \(seconds\): ([\d.]+)", said)))
        found = re.search(r"Maximum resident set size \(kbytes\): (\d+)", said)
        assert used.cpu_s is not None
        assert used.memory_peak_bytes is not None
        assert found is not None
        peak = int(found[1]) / 1024
        rows += [
            _within("CPU time of a job, s (peer: /usr/bin/time -v)", used.cpu_s, cpu_s),
            _within(
                "peak memory of a job, MiB (peer: /usr/bin/time -v)", used.memory_peak_bytes / 2**20, peak
            ),
        ]
    engine.close()
    return rows


def _within(claim: str, ours: float, peer: float) -> Row:
    return Row(claim, ours, peer, peer, ours / peer, "within 5% of the peer", abs(ours - peer) <= 0.05 * peer)


def _spent_s(pid: str) -> float:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def _seconds(what: Callable[[], object]) -> float:
    began = time.perf_counter()
    what()
    return time.perf_counter() - began


def _ray() -> str | None:
    try:
        return peer_python("ray")
    except pytest.skip.Exception as reason:
        print(f"without Ray: {reason}", file=sys.stderr)
        return None


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="fewer repeats: about a minute, most of it Ray's"
    )
    parser.add_argument("--json", action="store_true", help="rows as JSON")
    parser.add_argument("--without-ray", action="store_true", help="leave the peer's column empty")
    given = parser.parse_args()
    ray = None if given.without_ray else _ray()
    with tempfile.TemporaryDirectory(prefix="bench-tasks-") as name:
        folder = Path(name)
        rows = [
            *ready(folder, ray, 2 if given.quick else 7),
            *tasks(folder, ray, 200 if given.quick else 2000, 3000 if given.quick else 20_000),
            fresh(folder, 15 if given.quick else 100),
            *meter(folder, 5.0 if given.quick else 30.0),
        ]
    if given.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
    else:
        for row in rows:
            peer = "" if row.peer is None else f", peer {row.peer:.4g}, ratio {row.ratio:.2g}"
            held = "held" if row.held else "NOT HELD"
            print(f"{row.claim}\n    ours {row.ours:.4g}{peer}; aim {row.aim}: {held}")
    return 0 if all(row.held for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
