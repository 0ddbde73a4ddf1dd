"""Measuring a unit: starts the measuring processes, watches who else was busy, and sums up."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from fourfold.catalog.ids import new_id
from fourfold.core import wire
from fourfold.core.compute import Figure, FigureName, Measurement, Unit
from fourfold.core.errors import OutOfSpace, TimedOut, Unavailable
from fourfold.core.ports.clock import Clock
from fourfold.core.quantities import bytes_text

THREAD_SETTINGS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")
PATIENCE_S = 60.0
"""A part that takes longer is ended: the machine is stuck, or far too busy to be measured."""
MOST_ARRAY_BYTES = 1 << 30

Progress = Callable[[Figure], None]


def measure_unit(
    unit: Unit, *, folder: Path, clock: Clock, quick: bool = False, progress: Progress | None = None
) -> Measurement:
    """Measure this machine, its disk in `folder`. At most about 15 s, 3 s when `quick`.

    `progress` is called with each figure as it comes.
    """
    threads = max(1, int(unit.cores))
    array_bytes, notes = _array_bytes(unit, quick=quick)
    file_bytes = (32 if quick else 128) << 20
    folder.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(folder).free < 2 * file_bytes:
        raise OutOfSpace(f"measuring the disk needs {bytes_text(2 * file_bytes)} free in {folder}")
    arithmetic: dict[str, object] = {
        "part": "arithmetic",
        "array_bytes": array_bytes,
        "matrix_side": 768 if quick else 1536,
        "budget_s": 0.25 if quick else 4.0,
    }
    disk: dict[str, object] = {
        "part": "disk",
        "threads": 1,
        "folder": str(folder),
        "file_bytes": file_bytes,
        "budget_s": 0.3 if quick else 3.0,
    }
    parts = [{**arithmetic, "threads": 1}]
    if threads > 1:
        parts.append({**arithmetic, "threads": threads})
    parts.append(disk)

    at, began, busy_before = clock.now(), time.perf_counter(), _busy_s()
    figures: list[Figure] = []
    own_cpu_s = 0.0
    for part in parts:
        before = _children_cpu_s()
        for figure in _run(part):
            figures.append(figure)
            if progress is not None:
                progress(figure)
        own_cpu_s += _children_cpu_s() - before
    if threads == 1:
        figures += [_same_for_all(figure) for figure in figures if figure.name.endswith("_1_thread")]
    duration_s = time.perf_counter() - began
    other_s = max(0.0, _busy_s() - busy_before - own_cpu_s)
    return Measurement(
        id=new_id("bench"),
        unit=unit.name,
        fingerprint=unit.fingerprint,
        at=at,
        duration_s=duration_s,
        is_quick=quick,
        figures=tuple(sorted(figures, key=lambda figure: list(FigureName).index(figure.name))),
        versions=_versions(),
        other_cores_busy=other_s / duration_s,
        notes=notes,
    )


def _array_bytes(unit: Unit, *, quick: bool) -> tuple[int, tuple[str, ...]]:
    """The size of each of three arrays: four times the last cache, if memory allows."""
    wanted = max(4 * unit.last_level_cache_bytes, 64 << 20)
    allowed = min(_available_bytes(unit) // 8, MOST_ARRAY_BYTES, (128 << 20) if quick else MOST_ARRAY_BYTES)
    if allowed >= wanted:
        return wanted, ()
    short = f"arrays of {bytes_text(allowed)}, less than four times the last cache"
    return allowed, (f"memory bandwidth may be flattered: {short}",)


def _available_bytes(unit: Unit) -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        free = unit.memory_bytes // 2
    return min(free, unit.memory_bytes)


def _run(part: dict[str, object]) -> Iterator[Figure]:
    threads = str(part["threads"])
    process = subprocess.Popen(
        [sys.executable, "-m", "fourfold.foundation.compute.measure", json.dumps(part)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **dict.fromkeys(THREAD_SETTINGS, threads), "PYTHONPATH": _package_path()},
    )
    assert process.stdout is not None
    deadline = time.monotonic() + PATIENCE_S
    try:
        for line in process.stdout:
            yield wire.decode(line, Figure, what="a measured figure")
            if time.monotonic() > deadline:
                raise TimedOut(
                    f"measuring took longer than {PATIENCE_S:g} s", ways_on=["try when it is idle"]
                )
        _, complaint = process.communicate(timeout=PATIENCE_S)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    if process.returncode != 0:
        last = complaint.strip().splitlines()[-1:] or [f"exit status {process.returncode}"]
        raise Unavailable(f"measuring failed: {last[0]}", part=part["part"])


def _package_path() -> str:
    """Where the measuring process finds this very package."""
    here = str(Path(__file__).resolve().parents[3])
    return os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH", "")])])


def _same_for_all(figure: Figure) -> Figure:
    return replace(figure, name=FigureName(figure.name.replace("_1_thread", "_all_threads")))


def _busy_s() -> float:
    """CPU seconds that this machine has worked since it started, all cores, with what a host stole."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return 0.0
    ticks = [int(field) for field in fields]
    user, nice, system, _idle, _iowait, irq, softirq, steal = ticks[:8]
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _children_cpu_s() -> float:
    times = os.times()
    return times.children_user + times.children_system


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    versions = {"python": platform.python_version(), "kernel": platform.release()}
    for name in ("numpy", "fourfold"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    try:
        import numpy as np

        blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
        versions["blas"] = f"{blas['name']} {blas['version']}"
    except (ImportError, KeyError, TypeError):
        pass
    return versions
