"""Floating point operations, counted by the code that knows how many it does.

No counter of the processor can be asked for them everywhere, so a step that knows says so; what it said
is kept with its use and judged against the unit's measured peak.
"""

from __future__ import annotations

import threading

from fourfold.core.errors import Refused

_guard = threading.Lock()
_counted = 0.0


def count_flops(operations: float) -> None:
    """Report floating point operations done in the present step. They add up; outside a step nobody asks.

    >>> side = 1000
    >>> count_flops(2 * side**3)  # a product of two square matrices
    """
    if not operations >= 0:
        raise Refused(f"count_flops takes a number of operations, not {operations!r}")
    global _counted
    with _guard:
        _counted += operations


def counted_flops() -> float:
    """All that was counted in this process; it only grows."""
    return _counted
