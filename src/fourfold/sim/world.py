"""The invented world: time that moves from event to event, chance from one seed, and faults by a plan."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable

from fourfold.core.times import Instant, after, seconds_between
from fourfold.testing.clock import START, MovableClock

FAULTS = {
    "commit fails": 0.02,
    "commit's answer is lost": 0.01,
    "commit is slow": 0.02,
    "read fails": 0.003,
    "owner dies before a commit": 0.01,
    "owner dies after a commit": 0.01,
    "owner dies while it acts": 0.008,
    "owner sleeps": 0.003,
    "launch fails": 0.03,
    "launch is slow": 0.05,
    "worker dies as it starts": 0.03,
    "worker dies at work": 0.05,
    "worker dies when done": 0.03,
    "word comes twice": 0.03,
    "word comes late": 0.02,
    "all workers die": 0.002,
    "clock jumps": 0.004,
    "pool does not answer": 0.004,
    "connection is lost": 0.01,
    "engine starts a job twice": 0.05,
}
"""How likely each fault is where it can happen; a seed takes each of them at 0, 1 or 3 times this."""

MOST_FAULTS = 30
"""So many faults a simulation has at most: after them the world is well, and everything must end."""


class Violation(AssertionError):
    """Something that must never happen has happened."""


class Crash(BaseException):
    """The owner's process ends here. No handler of the loop may catch it."""


class World:
    """Time, chance and faults. The loop reads `clock`, which can jump; the world's own time only grows."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.chance = random.Random(f"world {seed}")  # noqa: S311 - a simulation must repeat
        self.now = START
        self.clock = MovableClock(START)
        self.trace: list[str] = []
        self.faults: list[str] = []
        self._offset_us = 0
        self._queue: list[tuple[Instant, int, Callable[[], None]]] = []
        self._count = 0
        self._rates = {name: rate * self.chance.choice((0, 1, 3)) for name, rate in FAULTS.items()}
        self._budget = self.chance.randint(0, MOST_FAULTS)

    def note(self, who: str, what: str) -> None:
        """Write a line of the trace."""
        self.trace.append(f"{seconds_between(START, self.now):12.3f} s  {who:<10} {what}")

    def fault(self, name: str) -> bool:
        """Whether this fault happens here and now."""
        rate = self._rates[name]
        if not rate or len(self.faults) >= self._budget or self.chance.random() >= rate:
            return False
        self.faults.append(name)
        self.note("fault", name)
        return True

    # Time

    def later(self, seconds: float, action: Callable[[], None]) -> Instant:
        """Do something `seconds` from now; the instant of that."""
        return self.at(after(self.now, seconds), action)

    def at(self, at: Instant, action: Callable[[], None]) -> Instant:
        self._count += 1
        heapq.heappush(self._queue, (at, self._count, action))
        return at

    def next_at(self) -> Instant | None:
        """When the next event is due."""
        return self._queue[0][0] if self._queue else None

    def true(self, by_clock: Instant) -> Instant:
        """The world's time at which the loop's clock shows this, if it does not jump again."""
        return Instant(by_clock - self._offset_us)

    def move(self, to: Instant) -> None:
        """Let time pass, without its events."""
        self.now = max(self.now, to)
        self.clock.set(Instant(self.now + self._offset_us))

    def happen(self) -> bool:
        """Let the next event happen if it is due now; whether there was one."""
        if not self._queue or self._queue[0][0] > self.now:
            return False
        heapq.heappop(self._queue)[2]()
        return True

    def jump(self) -> None:
        """Set the loop's clock forward or back."""
        seconds = self.chance.choice((-3600.0, -1.0, 1.0, 600.0, 3 * 3600.0))
        self.note("clock", f"jumps by {seconds:+g} s")
        self._offset_us += round(seconds * 1e6)
        self.move(self.now)
