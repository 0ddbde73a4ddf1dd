"""The machine's own clock."""

from __future__ import annotations

import time

from fourfold.core.times import Instant


class SystemClock:
    """Tells the machine's time, in UTC."""

    def now(self) -> Instant:
        return Instant(time.time_ns() // 1000)
