"""Measures one attempt inside a worker that may have run others before: standard library only.

Two readings of counters that only grow, and one high-water mark that is set back in between. The whole
costs some tens of microseconds per attempt, because steps of a millisecond are metered too
(`benchmarks/compute.py` measures it).

What is not counted: children that the attempt left running, and work that other threads of the same
worker did meanwhile, which is counted too (workers run one attempt at a time).
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable


class Meter:
    """Start it, run the attempt, stop it. One meter serves any number of attempts, one at a time.

    >>> meter = Meter()
    >>> meter.start()
    >>> usage = meter.stop()
    >>> sorted(usage)  # doctest: +NORMALIZE_WHITESPACE
    ['cpu_s', 'flops', 'memory_peak_bytes', 'memory_peak_is_exact', 'read_bytes', 'wall_s', 'written_bytes']

    `stop` gives the fields of `core.ports.engine.Usage` as a plain dictionary:

    - `cpu_s`: user and system time of this process and of children that it has waited for.
    - `memory_peak_bytes`: the highest resident memory of this process during the attempt, exact on Linux
      (`memory_peak_is_exact`); elsewhere the highest since the process began, which may be too much.
    - `read_bytes`, `written_bytes`: by system calls (files, pipes and sockets, cached or not), children
      waited for included; `None` where the system does not tell.
    - `flops`: floating point operations that the attempt counted itself; `None` where it counted none.
    """

    def __init__(self, counted: Callable[[], float] = lambda: 0.0) -> None:
        """`counted` gives the operations counted so far in this process; it only grows."""
        self._counted = counted
        self._pid = -1
        self._clear = self._status = self._io = -1
        self._open()

    def start(self) -> None:
        """Take the first reading."""
        if os.getpid() != self._pid:
            self._open()  # after a fork, the files opened before are the parent's
        self._is_exact = self._reset_peak()
        self._read, self._written = self._bytes()
        self._flops = self._counted()
        self._cpu_s = _cpu_s()
        self._wall_s = time.perf_counter()

    def stop(self) -> dict[str, float | int | bool | None]:
        """Take the second reading; the differences since `start`."""
        wall_s = time.perf_counter() - self._wall_s
        cpu_s = _cpu_s() - self._cpu_s
        read, written = self._bytes()
        peak = self._peak() if self._is_exact else None
        return {
            "wall_s": wall_s,
            "cpu_s": cpu_s,
            "memory_peak_bytes": _maxrss() if peak is None else peak,
            "memory_peak_is_exact": peak is not None,
            "read_bytes": None if read is None or self._read is None else read - self._read,
            "written_bytes": None if written is None or self._written is None else written - self._written,
            "flops": (self._counted() - self._flops) or None,
        }

    def close(self) -> None:
        """Close the files that it reads."""
        for fd in (self._clear, self._status, self._io):
            if fd >= 0:
                os.close(fd)
        self._clear = self._status = self._io = -1

    def _open(self) -> None:
        self.close()
        self._pid = os.getpid()
        self._clear = _open("/proc/self/clear_refs", os.O_WRONLY)
        self._status = _open("/proc/self/status", os.O_RDONLY)
        self._io = _open("/proc/self/io", os.O_RDONLY)

    def _reset_peak(self) -> bool:
        if self._clear < 0 or self._status < 0:
            return False
        try:
            os.pwrite(self._clear, b"5", 0)  # 5: set the high-water mark back to what is resident now
        except OSError:
            return False
        return True

    def _peak(self) -> int | None:
        status = os.pread(self._status, 4096, 0)
        at = status.find(b"VmHWM:")
        if at < 0:
            return None
        return int(status[at + 6 : status.index(b"kB", at)]) * 1024

    def _bytes(self) -> tuple[int | None, int | None]:
        if self._io < 0:
            return None, None
        try:
            words = os.pread(self._io, 256, 0).split(None, 4)  # rchar: N wchar: N ...
        except OSError:
            return None, None
        return int(words[1]), int(words[3])


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
