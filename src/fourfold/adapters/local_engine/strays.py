"""Finds and ends processes of jobs that nobody watches any more, by their mark and by their groups."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Collection, Iterator, Mapping

from fourfold.adapters.local_engine import groups

MARK = "FOURFOLD_JOB"
"""Set in the environment of every job to its folder: how `reap` finds what nobody watches any more."""


def end_marked(folders: Collection[str], place: Mapping[str, str] | None = None) -> set[str]:
    """Kill every process of these job folders, by its mark or its group; the folders that had any."""
    ended: set[str] = set()
    if not folders:
        return ended
    for _ in range(100):  # until a walk finds none: a process may fork while we walk
        found = [(pid, folder) for pid, folder in marked() if folder in folders and pid != os.getpid()]
        found += [(pid, folder) for folder in folders for pid in _grouped(folder, place)]
        if not found:
            break
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid, _ in found:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
        ended.update(folder for _, folder in found)
    for folder in folders:
        for group in groups.left_by(place, groups.name_of(folder)):
            for _ in range(100):  # what was killed is in its group until it is gone
                group.remove()
                if group.is_gone:
                    break
                time.sleep(0.01)
    return ended


def _grouped(folder: str, place: Mapping[str, str] | None) -> list[int]:
    return [pid for group in groups.left_by(place, groups.name_of(folder)) for pid in group.pids()]


def marked() -> Iterator[tuple[int, str]]:
    prefix = MARK.encode() + b"="
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            for setting in _environment_of(int(entry)).split(b"\0"):
                if setting.startswith(prefix):
                    yield int(entry), os.fsdecode(setting[len(prefix) :])


def _environment_of(pid: int) -> bytes:
    """The environment that a process was started with; nothing for one that is not ours to read.

    While a process is in the middle of `exec` the kernel shows an empty one: it is read again then, for
    at most a second, since a mark that is missed is a process that nobody ends.
    """
    for _ in range(1000):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                environment = file.read()
            if environment or not _is_being_started(pid):
                return environment
        except OSError:
            return b""
        time.sleep(0.001)
    return b""


def _is_being_started(pid: int) -> bool:
    """Whether a process whose environment reads as empty has one, or none yet (proc(5), `stat`)."""
    with open(f"/proc/{pid}/stat") as file:
        state, *words = file.read().rpartition(")")[2].split()
    start, end = int(words[46]), int(words[47])
    return state not in "ZX" and (end == 0 or end > start)
