"""A measuring process of its own: starting it, and telling who else was busy meanwhile."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fourfold.core.errors import TimedOut, Unavailable

THREAD_SETTINGS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")


class Bystanders:
    """Cores that others keep busy while we measure, counted from its making on."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._busy_before = _busy_s()
        self._own_before = _children_cpu_s()
        self._own_s = 0.0

    @property
    def duration_s(self) -> float:
        return time.perf_counter() - self._began

    @contextmanager
    def this_process_measures(self) -> Iterator[None]:
        """What this process works within the block is part of the measuring too."""
        began = time.process_time()
        yield
        self._own_s += time.process_time() - began

    def cores_busy(self) -> float:
        """On average; the processes that we waited for do not count, time that a host stole does."""
        own_s = _children_cpu_s() - self._own_before + self._own_s
        return max(0.0, _busy_s() - self._busy_before - own_s) / max(self.duration_s, 1e-9)


def lines_of(module: str, request: dict[str, object], *, threads: int, patience_s: float) -> Iterator[str]:
    """The lines that a measuring module of this package writes, as they come.

    The number of threads is settled from outside: a BLAS reads it when it is loaded. One that takes longer
    than `patience_s` is ended: the machine is stuck, or far too busy to be measured.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", f"fourfold.foundation.compute.{module}", json.dumps(request)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **dict.fromkeys(THREAD_SETTINGS, str(threads)), "PYTHONPATH": _package_path()},
    )
    assert process.stdout is not None
    guard = threading.Timer(patience_s, process.kill)
    guard.start()
    try:
        yield from process.stdout
        _, complaint = process.communicate()
        was_ended = not guard.is_alive()
    finally:
        guard.cancel()
        if process.poll() is None:
            process.kill()
            process.communicate()
    if was_ended:
        raise TimedOut(f"measuring took longer than {patience_s:g} s", ways_on=["try when it is idle"])
    if process.returncode != 0:
        last = complaint.strip().splitlines()[-1:] or [f"exit status {process.returncode}"]
        raise Unavailable(f"measuring failed: {last[0]}", part=module)


def versions_here(machine: str = "") -> dict[str, str]:
    """Of what a figure depends on."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {"python": platform.python_version(), "kernel": platform.release()}
    if machine:
        versions["machine"] = machine
    for name in ("numpy", "torch", "fourfold"):
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


def _package_path() -> str:
    """Where the measuring process finds this very package."""
    here = str(Path(__file__).resolve().parents[3])
    return os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH", "")])])


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
