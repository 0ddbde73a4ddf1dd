"""New identifiers: sortable by time, unique without asking anybody."""

from __future__ import annotations

import secrets
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's, without i l o u


def new_id(prefix: str) -> str:
    """A fresh identifier such as `run_01kb3v9e8mz4h1t7qf2w6xy5ga`: 48 bits of time, 80 of chance.

    The layout is ULID's (https://github.com/ulid/spec): identifiers made later sort later, in one process
    also when its clock is set back.

    >>> a = new_id("run"); len(a), a.startswith("run_")
    (30, True)
    """
    value = _moment_ms() << 80 | secrets.randbits(80)
    digits = [_ALPHABET[(value >> shift) & 31] for shift in range(125, -1, -5)]
    return f"{prefix}_{''.join(digits)}"


def _moment_ms() -> int:
    """The time, never before one that was told: a clock may be set back."""
    global _last_ms
    _last_ms = max(_last_ms, time.time_ns() // 1_000_000)
    return _last_ms


_last_ms = 0
