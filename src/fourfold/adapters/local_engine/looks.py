"""Looks at a running job from time to time, seldom enough to cost nothing. Standard library only."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import time

from fourfold.adapters.local_engine.groups import Group
from fourfold.adapters.local_engine.processes import cpu_s, descendants, moved_bytes, resident_bytes, stat
from fourfold.core.trace import Trace

FIRST_S = 0.05
LAST_S = 2.0
AGE_SHARE = 20
"""A look comes every twentieth of the job's age, between the two bounds above."""
COST_SHARE = 150
"""And a look that takes long (of many processes) waits so many times as long for the next."""
KEEP_EVERY_S = 5.0
"""How often what was seen so far is kept for who asks while the job runs."""


class Looks:
    """What was seen of a job so far: its memory, processors, bytes, and what it waited for."""

    def __init__(self, groups: list[Group], began: float) -> None:
        self._groups = groups
        self._began = began
        self._trace = Trace()
        self._look_count = 0
        self._on_disk_count = self._ready_count = 0
        self._moved = moved_bytes("self")
        self._kept_at = began
        self.due_at = began + FIRST_S

    def look(self, at_most_s: float | None) -> None:
        """Take a look; the next is due within `at_most_s`, where given, unless looks are dear."""
        now = time.monotonic()
        resident, used, states = list[int](), 0.0, set[str]()
        read, written = moved_bytes("self")
        for pid in descendants(os.getpid()):
            fields = stat(pid)
            if fields is None:
                continue
            resident.append(resident_bytes(fields))
            used += cpu_s(fields)
            states.add(fields[0])
            moved = moved_bytes(pid)
            read, written = read + moved[0], written + moved[1]
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        used += children.ru_utime + children.ru_stime
        self._look_count += 1
        self._on_disk_count += "D" in states and "R" not in states
        self._ready_count += "R" in states
        age_s = now - self._began
        self._trace.add(
            age_s,
            cpu_s=self._group_cpu_s() or used,
            memory_bytes=self._memory_bytes(resident),
            read_bytes=read - self._moved[0],
            written_bytes=written - self._moved[1],
        )
        wait_s = max(FIRST_S, min(LAST_S, age_s / AGE_SHARE))
        if at_most_s is not None:
            wait_s = min(wait_s, at_most_s)
        end = time.monotonic()
        self.due_at = end + max(wait_s, COST_SHARE * (end - now))

    def met(self, memory_bytes: int) -> None:
        """Count memory that was met between two looks."""
        self._trace.memory_peak_bytes = max(self._trace.memory_peak_bytes, memory_bytes)

    def keep(self, path: str) -> None:
        """Keep what was seen so far in a file, from time to time."""
        now = time.monotonic()
        if now - self._kept_at < KEEP_EVERY_S:
            return
        self._kept_at = now
        moved = self._trace.points[-1][3:]
        so_far = self.usage(
            resource.getrusage(resource.RUSAGE_CHILDREN), read_bytes=moved[0], written_bytes=moved[1]
        )
        with contextlib.suppress(OSError):
            with open(path + ".new", "w") as file:
                json.dump(so_far, file)
            os.rename(path + ".new", path)

    def usage(
        self, children: resource.struct_rusage, *, read_bytes: int, written_bytes: int
    ) -> dict[str, object]:
        """What the job used in all: the fields of `core.jobs.Usage`."""
        wall_s = time.monotonic() - self._began
        trace = self._trace
        largest = children.ru_maxrss * 1024  # of a single process, exact
        used = max(children.ru_utime + children.ru_stime, self._group_cpu_s() or 0.0)
        mean = trace.memory_mean_bytes if self._look_count else float(largest)
        return {
            "wall_s": wall_s,
            "cpu_s": used,
            "memory_peak_bytes": max(trace.memory_peak_bytes, largest),
            "memory_mean_bytes": round(min(mean, max(trace.memory_peak_bytes, largest))),
            # Of a single process it is exact; of a tree it is the highest that a look has met.
            "memory_peak_is_exact": largest >= trace.memory_peak_bytes,
            "read_bytes": read_bytes,
            "written_bytes": written_bytes,
            "disk_wait_s": self._disk_wait_s(wall_s),
            "cpu_wait_s": self._cpu_wait_s(wall_s, used),
            "trace": trace.points,
        }

    def _memory_bytes(self, resident: list[int]) -> int:
        """Of one process what is resident; of several, each page once where a group can tell that.

        A group does not count what others had loaded before, so the largest process is the least.
        """
        if not self._groups or len(resident) <= 1:
            return sum(resident)
        return max(sum(group.memory_bytes() for group in self._groups), max(resident))

    def _group_cpu_s(self) -> float | None:
        told = [group.cpu_s() for group in self._groups]
        return sum(each or 0.0 for each in told) if told and None not in told else None

    def _cpu_wait_s(self, wall_s: float, used: float) -> float | None:
        """The share of looks that met something ready to run, without the time in which it ran."""
        if not self._look_count:
            return None
        return max(0.0, wall_s * self._ready_count / self._look_count - used)

    def _disk_wait_s(self, wall_s: float) -> float | None:
        """The kernel's own count where groups have one, else the share of looks that met it waiting."""
        told = [group.disk_wait_s() for group in self._groups]
        if told and None not in told:
            return min(wall_s, sum(each or 0.0 for each in told) / len(told))
        return wall_s * self._on_disk_count / self._look_count if self._look_count else None
