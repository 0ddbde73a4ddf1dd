"""Looks from time to time at what the running attempt does: memory of its whole tree, waiting, GPUs.

One thread per worker that sleeps nearly always: it first looks when an attempt is a quarter of a second
old, then at every twentieth of its age, at most every two seconds, and less often when a look takes long.
A worker that has nothing to do for some seconds has no thread. Standard library only.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from fourfold.core.trace import Trace
from fourfold.runner.gpu import Gpus

FIRST_S = 0.25
LAST_S = 2.0
AGE_SHARE = 20
COST_SHARE = 150
"""A look that takes a millisecond waits so many of them for the next: less than a percent of a core."""
IDLE_S = 5.0
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Seen:
    """What was seen of one attempt."""

    __slots__ = ("began", "gpus", "look_count", "on_disk_count", "trace")

    def __init__(self, began: float) -> None:
        self.began = began
        self.trace = Trace()
        self.look_count = 0
        self.on_disk_count = 0
        self.gpus: Gpus | None = None


class Watch:
    """Begin it with an attempt, end it with the attempt: what was seen in between."""

    def __init__(self, readings: Callable[[], tuple[float, int, int]]) -> None:
        """`readings` gives CPU seconds, bytes read and bytes written since the attempt began."""
        self._readings = readings
        self._guard = threading.Lock()
        self._seen: Seen | None = None
        self._thread: threading.Thread | None = None
        self._ended_at = 0.0
        self._pid = -1

    def begin(self) -> None:
        """An attempt begins."""
        if self._pid != os.getpid():  # after a fork the thread is the parent's
            self._pid, self._thread, self._guard = os.getpid(), None, threading.Lock()
        with self._guard:  # or a thread that is about to leave would be taken for one that looks
            self._seen = Seen(time.perf_counter())
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="meter", daemon=True)
                self._thread.start()

    def end(self) -> Seen | None:
        """It ended."""
        with self._guard:
            seen, self._seen = self._seen, None
            self._ended_at = time.perf_counter()
        return seen

    def _run(self) -> None:
        pause_s = FIRST_S
        while True:
            time.sleep(pause_s)
            with self._guard:
                seen, now = self._seen, time.perf_counter()
                if seen is None:
                    if now - self._ended_at > IDLE_S:
                        self._thread = None  # the next attempt starts another
                        return
                    pause_s = FIRST_S
                    continue
                age_s = now - seen.began
                if age_s < FIRST_S:
                    pause_s = FIRST_S - age_s
                    continue
                self._look(seen, age_s)
                cost_s = time.perf_counter() - now
            pause_s = max(FIRST_S, min(LAST_S, age_s / AGE_SHARE), cost_s * COST_SHARE)

    def _look(self, seen: Seen, age_s: float) -> None:
        cpu_s, read, written = self._readings()
        own = os.getpid()
        # The first thread does the work; the one that looks is never waiting when it looks.
        states, memory = {_state(f"/proc/self/task/{own}/stat")}, _resident(own)
        children = _descendants(own)
        for pid in children:
            states.add(_state(f"/proc/{pid}/stat"))
            memory += _resident(pid)
        seen.look_count += 1
        seen.on_disk_count += "D" in states and "R" not in states
        if seen.gpus is None:
            seen.gpus = Gpus()
        seen.gpus.look(age_s, {own, *children})
        seen.trace.add(
            age_s,
            cpu_s=cpu_s,
            memory_bytes=memory,
            read_bytes=read,
            written_bytes=written,
            gpu=(seen.gpus.busy_s or 0.0, seen.gpus.memory_bytes) if seen.gpus.is_there else None,
        )


def _descendants(pid: int) -> list[int]:
    found = [pid]
    for one in found:  # grows as we walk
        try:
            for task in os.listdir(f"/proc/{one}/task"):
                with open(f"/proc/{one}/task/{task}/children") as file:
                    found += [int(word) for word in file.read().split()]
        except OSError:
            continue
    return found[1:]


def _resident(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * PAGE_BYTES
    except (OSError, IndexError):
        return 0


def _state(path: str) -> str:
    try:
        with open(path) as file:
            return file.read().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""
