"""The cases to learn from, each with its outcome and the moment the outcome was known."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc

from examples.flights.data import INSTANT, NEW_YORK

CASE = (
    "flight_id", "day", "hour", "weekday", "distance_mi", "scheduled_min",
    "origin", "carrier", "dest", "tailnum",
)  # fmt: skip
"""What is known of a flight long before it leaves."""


def cases(flights: pa.Table, *, since: date, before: date) -> pa.Table:
    """One row per flight scheduled on these days of New York, as of `t`: its scheduled departure.

    Cancelled and diverted flights are among them: at `t` nobody can tell.
    """
    days = flights["day"]
    chosen = flights.filter(pc.and_(pc.greater_equal(days, since), pc.less(days, before)))
    return chosen.select(CASE).append_column("t", chosen["scheduled_dep_at"])


def labelled(flights: pa.Table, *, since: date, before: date, late_after_min: int) -> pa.Table:
    """The cases with an outcome: `late`, and `known_at`, when the flight had landed.

    `t_naive` is a microsecond before `t`. The naive join treats a flight as known when it was scheduled,
    so at `t` it would find the flight's own arrival among the events; a tick earlier it does not, and what
    leaks is only what leaks in earnest: other flights that are still in the air.
    """
    landed = flights.filter(pc.is_valid(flights["landed_at"]))
    found = cases(landed, since=since, before=before)
    days = landed["day"]
    outcome = landed.filter(pc.and_(pc.greater_equal(days, since), pc.less(days, before)))
    tick = pa.scalar(1, pa.duration("us"))
    return (
        found.append_column("t_naive", pc.subtract(found["t"], tick))
        .append_column("known_at", outcome["landed_at"])
        .append_column("arr_delay_min", outcome["arr_delay_min"])
        .append_column("late", pc.greater(outcome["arr_delay_min"], late_after_min))
    )


def midnight(day: date) -> datetime:
    """The instant at which a day begins in New York.

    >>> midnight(date(2013, 12, 1)).isoformat(), midnight(date(2013, 7, 1)).isoformat()
    ('2013-12-01T05:00:00+00:00', '2013-07-01T04:00:00+00:00')
    """
    return datetime.combine(day, time(), ZoneInfo(NEW_YORK)).astimezone(ZoneInfo("UTC"))


def split(rows: pa.Table, *, since: date, before: date, known: bool) -> pa.Table:
    """The rows of these days; with `known`, only those whose outcome was known at the end of them.

    Somebody who trained at midnight did not know how the evening's flights would land.
    """
    start, end = (pa.scalar(midnight(day), INSTANT) for day in (since, before))
    chosen = pc.and_(pc.greater_equal(rows["t"], start), pc.less(rows["t"], end))
    if known:
        chosen = pc.and_(chosen, pc.less_equal(rows["known_at"], end))
    return rows.filter(chosen)


def after(day: date) -> date:
    """The day after."""
    return day + timedelta(days=1)
