"""Measures one attempt inside a worker that may have run others before: standard library only.

Two readings of counters that only grow, and one high-water mark that is set back in between. The whole
costs some tens of microseconds per attempt, because steps of a millisecond are metered too
(`benchmarks/compute.py` measures it). An attempt that takes longer is looked at meanwhile (`watch.py`).

What is not counted: the time of children that the attempt left running. Work that other threads of the
same worker did meanwhile is counted too (workers run one attempt at a time).
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable

from fourfold.runner.watch import Seen, Watch


class Meter:
    """Start it, run the attempt, stop it. One meter serves any number of attempts, one at a time.

    >>> meter = Meter()
    >>> meter.start()
    >>> usage = meter.stop()
    >>> sorted(usage)  # doctest: +NORMALIZE_WHITESPACE
    ['cpu_s', 'cpu_wait_s', 'disk_wait_s', 'flops', 'gpu_memory_peak_bytes', 'gpu_s', 'memory_mean_bytes',
     'memory_peak_bytes', 'memory_peak_is_exact', 'read_bytes', 'trace', 'wall_s', 'written_bytes']

    `stop` gives the fields of `core.ports.engine.Usage` as a plain dictionary:

    - `cpu_s`: user and system time of this process and of children that it has waited for.
    - `cpu_wait_s`: how long its first thread stood ready for a processor that others kept busy, as the kernel
      counts it; `None` where it does not.
    - `memory_peak_bytes`: the highest resident memory of this process during the attempt, exact on Linux
      (`memory_peak_is_exact`); elsewhere the highest since the process began, which may be too much.
    - `read_bytes`, `written_bytes`: by system calls (files, pipes and sockets, cached or not), children
      waited for included; `None` where the system does not tell.
    - `memory_mean_bytes`: over the looks at its whole tree; `None` where none was taken.
    - `disk_wait_s`: the share of looks that met it waiting for the disk; `None` where none was taken.
    - `gpu_s`, `gpu_memory_peak_bytes`: by NVML, where there is one; else `None`.
    - `trace`: the points of a `core.trace.Trace`; empty for an attempt too short to be looked at.
    - `flops`: floating point operations that the attempt counted itself; `None` where it counted none.
    """

    def __init__(self, counted: Callable[[], float] = lambda: 0.0) -> None:
        """`counted` gives the operations counted so far in this process; it only grows."""
        self._counted = counted
        self._pid = -1
        self._clear = self._status = self._io = self._schedule = -1
        self._open()
        self._watch = Watch(self._so_far)

    def start(self) -> None:
        """Take the first reading."""
        if os.getpid() != self._pid:
            self._open()  # after a fork, the files opened before are the parent's
        self._is_exact = self._reset_peak()
        self._read, self._written = self._bytes()
        self._flops = self._counted()
        self._queued_s = self._queued()
        self._cpu_s = _cpu_s()
        self._wall_s = time.perf_counter()
        self._watch.begin()

    def stop(self) -> dict[str, object]:
        """Take the second reading; the differences since `start`."""
        wall_s = time.perf_counter() - self._wall_s
        cpu_s = _cpu_s() - self._cpu_s
        queued_s = self._queued()
        read, written = self._bytes()
        own_peak, resident = self._memory()
        peak = own_peak if self._is_exact else None
        seen = self._watch.end()
        whole = {"memory_peak_bytes": _maxrss() if peak is None else peak, "is_exact": peak is not None}
        told: dict[str, object] = {"memory_mean_bytes": None, "disk_wait_s": None, "trace": []}
        told |= {"gpu_s": None, "gpu_memory_peak_bytes": None}
        if seen is not None and seen.look_count:
            told = _told(seen, wall_s, cpu_s, resident)
            if seen.trace.memory_peak_bytes > whole["memory_peak_bytes"]:  # of it and its children
                whole = {"memory_peak_bytes": seen.trace.memory_peak_bytes, "is_exact": False}
        return {
            **told,
            "wall_s": wall_s,
            "cpu_s": cpu_s,
            "cpu_wait_s": None if queued_s is None or self._queued_s is None else queued_s - self._queued_s,
            "memory_peak_bytes": whole["memory_peak_bytes"],
            "memory_peak_is_exact": bool(whole["is_exact"]),
            "read_bytes": None if read is None or self._read is None else read - self._read,
            "written_bytes": None if written is None or self._written is None else written - self._written,
            "flops": (self._counted() - self._flops) or None,
        }

    def close(self) -> None:
        """Close the files that it reads."""
        for fd in (self._clear, self._status, self._io, self._schedule):
            if fd >= 0:
                os.close(fd)
        self._clear = self._status = self._io = self._schedule = -1

    def _open(self) -> None:
        self.close()
        self._pid = os.getpid()
        self._clear = _open("/proc/self/clear_refs", os.O_WRONLY)
        self._status = _open("/proc/self/status", os.O_RDONLY)
        self._io = _open("/proc/self/io", os.O_RDONLY)
        self._schedule = _open("/proc/self/schedstat", os.O_RDONLY)

    def _reset_peak(self) -> bool:
        if self._clear < 0 or self._status < 0:
            return False
        try:
            os.pwrite(self._clear, b"5", 0)  # 5: set the high-water mark back to what is resident now
        except OSError:
            return False
        return True

    def _so_far(self) -> tuple[float, int, int]:
        read, written = self._bytes()
        return _cpu_s() - self._cpu_s, (read or 0) - (self._read or 0), (written or 0) - (self._written or 0)

    def _memory(self) -> tuple[int | None, int | None]:
        """The high-water mark of this process, and what is resident now."""
        if self._status < 0:
            return None, None
        status = os.pread(self._status, 4096, 0)
        return _kilobytes(status, b"VmHWM:"), _kilobytes(status, b"VmRSS:")

    def _queued(self) -> float | None:
        """Seconds that the first thread was ready and did not run."""
        if self._schedule < 0:
            return None
        try:
            return int(os.pread(self._schedule, 64, 0).split()[1]) / 1e9  # ran, queued (ns), how often
        except (OSError, IndexError, ValueError):
            return None

    def _bytes(self) -> tuple[int | None, int | None]:
        if self._io < 0:
            return None, None
        try:
            words = os.pread(self._io, 256, 0).split(None, 4)  # rchar: N wchar: N ...
        except OSError:
            return None, None
        return int(words[1]), int(words[3])


def _told(seen: Seen, wall_s: float, cpu_s: float, resident: int | None) -> dict[str, object]:
    """What the looks amount to, with one more at the end."""
    trace, gpus = seen.trace, seen.gpus
    last = trace.points[-1]
    trace.add(
        max(wall_s, last[0] / 1000),
        cpu_s=cpu_s,
        memory_bytes=last[2] if resident is None else resident,
        read_bytes=last[3],
        written_bytes=last[4],
        gpu=(last[5] / 1000, last[6]) if len(last) > 5 else None,
    )
    return {
        "memory_mean_bytes": round(trace.memory_mean_bytes),
        "disk_wait_s": wall_s * seen.on_disk_count / seen.look_count,
        "gpu_s": None if gpus is None else gpus.busy_s,
        "gpu_memory_peak_bytes": None if gpus is None else gpus.memory_peak_bytes,
        "trace": trace.points,
    }


def _kilobytes(status: bytes, name: bytes) -> int | None:
    at = status.find(name)
    return None if at < 0 else int(status[at + len(name) : status.index(b"kB", at)]) * 1024


def _open(path: str, flags: int) -> int:
    try:
        return os.open(path, flags)
    except OSError:
        return -1


def _cpu_s() -> float:
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def _maxrss() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
