"""New identifiers: sortable by time, unique without asking anybody."""

from __future__ import annotations

import secrets
import threading
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's, without i l o u


def new_id(prefix: str) -> str:
    """A fresh identifier such as `run_01kb3v9e8mz4h1t7qf2w6xy5ga`: 48 bits of time, 80 of chance.

    The layout is ULID's (https://github.com/ulid/spec): identifiers made later sort later, in one process
    also within a millisecond and when its clock is set back.

    >>> a = new_id("run"); len(a), a.startswith("run_")
    (30, True)
    """
    value = _next()
    digits = [_ALPHABET[(value >> shift) & 31] for shift in range(125, -1, -5)]
    return f"{prefix}_{''.join(digits)}"


def _next() -> int:
    """The time and chance; where that would not come after the last, the last and some chance.

    By chance too, and not by one: after a fork two processes go on from the same last.
    """
    global _last
    with _lock:
        fresh = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
        _last = fresh if fresh > _last else _last + 1 + secrets.randbits(64)
        return _last


_lock = threading.Lock()
_last = 0
