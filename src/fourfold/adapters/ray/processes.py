"""What `/proc` tells of processes. Runs on a node, beside `keeper.py`: standard library only."""

from __future__ import annotations

import contextlib
import os
import resource

PAGE_BYTES = resource.getpagesize()


def children(pid: int) -> list[int]:
    """The children of a process, of whichever of its threads."""
    found = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as file:
                found += [int(word) for word in file.read().split()]
    return found


def descendants(pid: int) -> list[int]:
    """All processes below `pid`, nearest first."""
    found = children(pid)
    for one in found:  # grows as we walk
        found += children(one)
    return found


def kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def cpu_seconds(pid: int) -> float:
    """Of a live process and of those that it has waited for."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            words = file.read().rpartition(")")[2].split()
        return sum(int(word) for word in words[11:15]) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError):
        return 0.0


def resident_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * PAGE_BYTES
    except (OSError, IndexError):
        return 0


def proportional_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))
    except (OSError, StopIteration):
        return resident_bytes(pid)


def io_bytes() -> tuple[int, int]:
    """Bytes read and written by this process and by children that it has waited for."""
    try:
        with open("/proc/self/io") as file:
            words = file.read().split()
        return int(words[1]), int(words[3])
    except OSError:
        return 0, 0


def oom_kills() -> int:
    """How many processes the kernel has ended for want of memory since it started."""
    try:
        with open("/proc/vmstat") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("oom_kill "))
    except (OSError, StopIteration):
        return 0
