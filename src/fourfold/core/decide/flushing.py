"""When rows that wait in the buffer are brought to their table."""

from __future__ import annotations

from fourfold.core.ports.buffer import Waiting
from fourfold.core.settings import BufferSettings
from fourfold.core.times import Instant, after, duration_text, seconds_between


def due(waiting: Waiting, now: Instant, bounds: BufferSettings) -> str:
    """Why the rows of a table are to be flushed now; empty when they may wait.

    >>> few = Waiting("t", rows=3, size_bytes=900, newest=2, oldest=Instant(0))
    >>> due(few, Instant(59_000_000), BufferSettings())
    ''
    >>> due(few, Instant(60_000_000), BufferSettings())
    'the oldest has waited 1m'
    """
    if waiting.oldest is None:
        return ""
    if waiting.rows >= bounds.flush_rows:
        return f"{waiting.rows} rows wait"
    if waiting.size_bytes >= bounds.flush_bytes:
        return f"{waiting.size_bytes} bytes wait"
    age_s = seconds_between(waiting.oldest, now)
    if age_s >= bounds.flush_s:
        return f"the oldest has waited {duration_text(age_s)}"
    if age_s < -bounds.flush_s:
        # Clocks of machines differ a little; one that was set back would let the rows wait for hours.
        return f"the oldest is {duration_text(-age_s)} ahead of the clock, which was set back"
    return ""


def due_at(waiting: Waiting, bounds: BufferSettings) -> Instant | None:
    """When the rows of a table will have waited long enough; `None` when none wait."""
    return None if waiting.oldest is None else after(waiting.oldest, bounds.flush_s)
