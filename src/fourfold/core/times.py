"""Instants and durations.

An `Instant` is an integer count of microseconds since 1970-01-01 UTC: it sorts, subtracts and stores
without rounding. Durations are seconds (`float`) in interfaces, named `..._s`.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import NewType

from fourfold.core.errors import Refused

Instant = NewType("Instant", int)
"""Microseconds since 1970-01-01T00:00:00 UTC."""

SECOND_US = 1_000_000

_UNIT_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_PIECE = re.compile(r"(\d+(?:\.\d+)?)\s*(us|ms|s|m|h|d|w)")


def instant(moment: datetime) -> Instant:
    """The instant of a zoned `datetime`; a naive one is refused, because its zone would be a guess.

    >>> instant(datetime(2013, 1, 1, tzinfo=UTC))
    1356998400000000
    """
    if moment.tzinfo is None:
        raise Refused(
            f"time {moment.isoformat()} has no zone",
            ways_on=["attach one, for example datetime(..., tzinfo=UTC)"],
        )
    delta = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return Instant((delta.days * 86400 + delta.seconds) * SECOND_US + delta.microseconds)


def moment(at: Instant) -> datetime:
    """The UTC `datetime` of an instant.

    >>> moment(Instant(1356998400000000)).isoformat()
    '2013-01-01T00:00:00+00:00'
    """
    try:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at)
    except OverflowError:
        raise Refused(
            f"instant {str(at)[:40]} lies outside the years 1 to 9999",
            ways_on=["give microseconds since 1970, not nanoseconds"],
        ) from None


def iso(at: Instant) -> str:
    """The instant as ISO 8601 in UTC, to the microsecond only where needed.

    >>> iso(Instant(1356998400000000)), iso(Instant(1356998400000001))
    ('2013-01-01T00:00:00Z', '2013-01-01T00:00:00.000001Z')
    """
    return moment(at).isoformat().replace("+00:00", "Z")


def parse_instant(text: str) -> Instant:
    """Read ISO 8601 with a zone.

    >>> parse_instant("2013-01-01T00:00:00Z")
    1356998400000000
    """
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError as error:
        raise Refused(
            f"'{text}' is not a time", ways_on=["write ISO 8601 with a zone: 2013-01-01T06:00:00Z"]
        ) from error
    return instant(parsed)


def after(at: Instant, seconds: float) -> Instant:
    """The instant `seconds` later.

    >>> after(Instant(0), 1.5)
    1500000
    """
    return Instant(at + round(seconds * SECOND_US))


def seconds_between(earlier: Instant, later: Instant) -> float:
    """Seconds from `earlier` to `later`; negative if they are the other way round."""
    return (later - earlier) / SECOND_US


def duration_s(value: float | str | timedelta) -> float:
    """Read a duration: seconds, a `timedelta`, or text such as `"10m"`, `"1h 30m"`, `"250ms"`.

    >>> duration_s("1h 30m"), duration_s("250ms"), duration_s(2)
    (5400.0, 0.25, 2.0)
    >>> duration_s("ten minutes")
    Traceback (most recent call last):
    ...
    fourfold.core.errors.Refused: 'ten minutes' is not a duration
      write a number and a unit, such as 250ms, 30s, 10m, 1h 30m, 7d
    """
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, str):
        pieces = _PIECE.findall(value)
        if not pieces or _PIECE.sub("", value).strip():
            raise Refused(
                f"'{value}' is not a duration",
                ways_on=["write a number and a unit, such as 250ms, 30s, 10m, 1h 30m, 7d"],
            )
        seconds = sum(float(number) * _UNIT_S[unit] for number, unit in pieces)
    else:
        seconds = float(value)
    if not 0 <= seconds < 1e12:
        raise Refused(f"duration {value!r} is not between 0 and 1e12 seconds")
    return seconds


def duration_text(seconds: float) -> str:
    """A duration for people: at most two units.

    >>> duration_text(0.0042), duration_text(75), duration_text(5400)
    ('4.2 ms', '1m 15s', '1h 30m')
    """
    if seconds < 0:
        return "-" + duration_text(-seconds)
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    for unit, size, smaller, small_size in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // small_size
            return f"{whole // size}{unit}" + (f" {rest}{smaller}" if rest else "")
    return f"{whole}s"
