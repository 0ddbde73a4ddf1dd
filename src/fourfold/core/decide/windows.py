"""Where a window begins and ends, and which raw events an open tile still has to keep.

The window of length w at time t is `[floor(t - w, hop), t)`: the tail is floored to the hop and belongs
to it, the head is strict. With hop 0 (exact) the tail is `t - w` itself. Times are microseconds.
"""

from __future__ import annotations

from collections.abc import Iterable

from fourfold.core.errors import Refused
from fourfold.core.features import EXACT_HOP_US, Window

MINUTE_US = 60_000_000
HOUR_US = 60 * MINUTE_US
DAY_US = 24 * HOUR_US


def default_hop_us(length_us: int) -> int:
    """The hop that keeps a window's overshoot below a twelfth of its length, from an hour upwards.

    >>> [default_hop_us(hours * HOUR_US) // MINUTE_US for hours in (1, 12, 24 * 12)]
    [5, 60, 1440]
    """
    if length_us < 12 * HOUR_US:
        return 5 * MINUTE_US
    return HOUR_US if length_us < 12 * DAY_US else DAY_US


def refuse_bad_hop(name: str, *, length_us: int, hop_us: int, is_exact: bool) -> None:
    """Refuse a window of no length, or a hop of zero that was not asked for as `exact`."""
    if length_us <= 0:
        raise Refused(f"window '{name}' has no length", ways_on=['write for example over="1h"'])
    if hop_us <= 0 and not is_exact:
        raise Refused(f"window '{name}' has a hop of nothing", ways_on=['write hop="5m" or hop="exact"'])


def start_us(at_us: int, window: Window) -> int:
    """The window's tail: the first microsecond that belongs to it.

    >>> hour = Window("n", "count", "", HOUR_US, 5 * MINUTE_US)
    >>> start_us(2 * HOUR_US + 7 * MINUTE_US, hour) // MINUTE_US
    65
    """
    tail = at_us - window.length_us
    return tail if window.hop_us == EXACT_HOP_US else tail - tail % window.hop_us


def closed_until_us(horizon_us: int, hop_us: int) -> int:
    """Tiles of this hop that end here or earlier are closed: no read will ask inside them any more."""
    return horizon_us - horizon_us % hop_us


def oldest_tile_us(horizon_us: int, windows: Iterable[Window], hop_us: int) -> int:
    """The start of the oldest tile of this hop that a read at `horizon_us` or later still needs."""
    return min(start_us(horizon_us, window) for window in windows if window.hop_us == hop_us)


def oldest_event_us(horizon_us: int, windows: Iterable[Window]) -> int:
    """The time of the oldest raw event that a read at `horizon_us` or later still needs.

    Hopping windows need raw events from the last closed tile on, exact ones over their whole length.
    """
    bounds = [
        start_us(horizon_us, window)
        if window.hop_us == EXACT_HOP_US
        else closed_until_us(horizon_us, window.hop_us)
        for window in windows
    ]
    return min(bounds, default=horizon_us)
