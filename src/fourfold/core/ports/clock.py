"""The clock as a port: production reads the machine's, tests and the simulator move their own."""

from __future__ import annotations

from typing import Protocol

from fourfold.core.times import Instant


class Clock(Protocol):
    """Tells the time."""

    def now(self) -> Instant:
        """The present instant, UTC."""
        ...
