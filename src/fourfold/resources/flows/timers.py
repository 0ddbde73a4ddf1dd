"""What the loop must do at a later time."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from fourfold.core.times import Instant


class Timers:
    """Actions by the time they are due; equal times in the order in which they were set."""

    def __init__(self) -> None:
        self._heap: list[tuple[Instant, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, at: Instant, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._heap, (at, self._count, action))

    def fire(self, now: Instant) -> None:
        """Do what is due."""
        while self._heap and self._heap[0][0] <= now:
            heapq.heappop(self._heap)[2]()

    def next_at(self) -> Instant | None:
        return self._heap[0][0] if self._heap else None
