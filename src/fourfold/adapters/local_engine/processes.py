"""What `/proc` tells of processes. Standard library only: the supervisor and its keepers use it too."""

from __future__ import annotations

import contextlib
import os
import signal

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """The children of a process, of whichever of its threads."""
    found = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as file:
                found += [int(word) for word in file.read().split()]
    except OSError:
        pass
    return found


def descendants(pid: int) -> list[int]:
    """All processes below `pid`, nearest first."""
    found = children(pid)
    for one in found:  # grows as we walk
        found += children(one)
    return found


def kill(pid: int, number: signal.Signals) -> None:
    """Send a signal; a process that is gone, or not ours, is passed over."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def stat(pid: int | str) -> list[str] | None:
    """The fields of `/proc/PID/stat` after the name, the state first; `None` when it is gone (proc(5))."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return None


def cpu_s(fields: list[str]) -> float:
    """User and system time of a process and of the children that it has waited for."""
    return sum(int(field) for field in fields[11:15]) * TICK_S


def resident_bytes(fields: list[str]) -> int:
    """Its resident memory, shared pages counted whole."""
    return int(fields[21]) * PAGE_BYTES


def started_ticks(pid: int) -> int:
    """When a process started, in clock ticks since boot; -1 if there is none, or only its remains."""
    fields = stat(pid)
    return -1 if fields is None or fields[0] in "ZX" else int(fields[19])


def proportional_bytes(pid: int) -> int:
    """Its memory with shared pages divided among those who share them; dear to ask."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))
    except (OSError, StopIteration):
        fields = stat(pid)
        return 0 if fields is None else resident_bytes(fields)


def moved_bytes(pid: int | str) -> tuple[int, int]:
    """Bytes read and written by a process and by children that it has waited for."""
    try:
        with open(f"/proc/{pid}/io") as file:
            words = file.read().split()
        return int(words[1]), int(words[3])
    except (OSError, IndexError):
        return 0, 0
