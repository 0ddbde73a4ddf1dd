"""A clock that tests move by hand."""

from __future__ import annotations

from fourfold.core.times import Instant, after

START = Instant(1_767_225_600_000_000)
"""2026-01-01T00:00:00Z."""


class MovableClock:
    """Stands still until it is moved.

    >>> clock = MovableClock(Instant(0))
    >>> clock.advance(1.5)
    1500000
    >>> clock.now()
    1500000
    """

    def __init__(self, start: Instant = START) -> None:
        self._now = start

    def now(self) -> Instant:
        return self._now

    def advance(self, seconds: float) -> Instant:
        """Move by some seconds (back, if negative: real clocks do that too)."""
        self._now = after(self._now, seconds)
        return self._now

    def set(self, at: Instant) -> None:
        """Move to an instant."""
        self._now = at
