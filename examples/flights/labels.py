"""The cases to learn from, each with its outcome and the moment the outcome was known."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc
from examples.flights.data import INSTANT, NEW_YORK

KEYS = ("origin", "carrier", "dest", "tailnum")
"""What features are looked up by."""

CASE = ("flight_id", "day", "hour", "weekday", "distance_mi", "scheduled_min", *KEYS)
"""What is known of a flight long before it leaves."""

ASKED_BEFORE_MIN = 30
"""At the scheduled departure itself more than half of the flights have left already, and their own departure
would answer for them."""


@dataclass(frozen=True, slots=True)
class Span:
    """Days of New York, from `since` to the eve of `before`."""

    since: date
    before: date

    def __str__(self) -> str:
        """
        >>> str(Span(date(2013, 11, 2), date(2013, 12, 2)))
        '2 November to 1 December 2013'
        """
        last = self.before - timedelta(days=1)
        return f"{self.since.day} {self.since:%B} to {last.day} {last:%B %Y}"


@dataclass(frozen=True, slots=True)
class Days:
    """Which days serve what: learn, then choose, then judge, then go live; never backwards."""

    learn: Span
    validate: Span
    test: Span
    live: date

    @classmethod
    def before(cls, live: date) -> Days:
        """The usual split: 30 days to judge by, 31 to choose by, and all before them to learn from.

        It begins on 8 January, when the windows of seven days are full.
        """
        test, validate = live - timedelta(days=30), live - timedelta(days=61)
        return cls(
            Span(date(2013, 1, 8), validate),
            Span(validate, test),
            Span(test, live),
            live,
        )

    @property
    def all_past(self) -> Span:
        """Everything that somebody knows who learns on the eve of the live day."""
        return Span(self.learn.since, self.live)


def cases(flights: pa.Table) -> pa.Table:
    """One row per flight as of `t`, half an hour before its scheduled departure.

    Cancelled and diverted flights are among them: at `t` nobody can tell.
    """
    lead = pa.scalar(ASKED_BEFORE_MIN * 60_000_000, pa.duration("us"))
    return flights.select(CASE).append_column("t", pc.subtract(flights["scheduled_dep_at"], lead))


def labelled(flights: pa.Table, *, late_after_min: int) -> pa.Table:
    """The cases with an outcome: `late`, and `known_at`, when the flight had landed."""
    landed = flights.filter(pc.is_valid(flights["landed_at"]))
    return (
        cases(landed)
        .append_column("known_at", landed["landed_at"])
        .append_column("arr_delay_min", landed["arr_delay_min"])
        .append_column("late", pc.greater(landed["arr_delay_min"], late_after_min))
    )


def split(rows: pa.Table, span: Span, *, known: bool = False) -> pa.Table:
    """The rows of these days; with `known`, only those whose outcome was known at the end of them.

    Somebody who trained at midnight did not know how the evening's flights would land.
    """
    start, end = (pa.scalar(midnight(day), INSTANT) for day in (span.since, span.before))
    chosen = pc.and_(pc.greater_equal(rows["t"], start), pc.less(rows["t"], end))
    if known:
        chosen = pc.and_(chosen, pc.less_equal(rows["known_at"], end))
    return rows.filter(chosen)


def midnight(day: date) -> datetime:
    """The instant at which a day begins in New York.

    >>> midnight(date(2013, 12, 1)).isoformat(), midnight(date(2013, 7, 1)).isoformat()
    ('2013-12-01T05:00:00+00:00', '2013-07-01T04:00:00+00:00')
    """
    return datetime.combine(day, time(), ZoneInfo(NEW_YORK)).astimezone(ZoneInfo("UTC"))
