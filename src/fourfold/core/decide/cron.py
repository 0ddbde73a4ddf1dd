"""Cron lines: read, explained in words, and the instants at which they fire, in any zone.

Five fields (minute, hour, day of month, month, day of week) with names, lists, ranges and steps, 7 as
Sunday, `L`, `LW`, `15W`, `5L`, `5#3`, and nicknames. When both day fields are restricted, either is
enough (as in Vixie cron; a field that starts with `*` does not restrict).

Where clocks change, by Debian's rule: a *fixed-time* line (neither minute nor hour starts with `*`) that
falls into a skipped hour fires once right after it, and in a repeated hour fires the first time only;
other lines follow the wall clock, so they fire in both of two equal hours, and not in one that is not.
"""

from __future__ import annotations

import calendar
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from fourfold.core.errors import Refused, did_you_mean
from fourfold.core.times import Instant, instant, moment

NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_MONTHS = {name.lower(): index for index, name in enumerate(calendar.month_abbr) if name}
_DAYS = {"sun": 0, "mon": 1, "tue": 2, "wed": 3, "thu": 4, "fri": 5, "sat": 6}
_YEARS_AHEAD = 40
"""A line that fires at all fires within so many years (29 February on a given weekday: 28, or 40)."""


@dataclass(frozen=True, slots=True)
class _FieldRule:
    name: str
    low: int
    high: int
    names: dict[str, int]


_FIELDS = (
    _FieldRule("minute", 0, 59, {}),
    _FieldRule("hour", 0, 23, {}),
    _FieldRule("day of month", 1, 31, {}),
    _FieldRule("month", 1, 12, _MONTHS),
    _FieldRule("day of week", 0, 7, _DAYS),
)


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron line that was read."""

    expression: str
    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    last_days: frozenset[int] = frozenset()
    """Days counted from the month's end: 0 is the last (`L`), 3 is `L-3`."""
    near_weekdays: frozenset[int] = frozenset()
    """`15W`: the weekday (Monday to Friday) nearest to the 15th, within the month; 0 is `LW`."""
    nth_weekdays: frozenset[tuple[int, int]] = frozenset()
    """`5#3`: (weekday, which); which is -1 for `5L`, the last."""
    restricts_day: bool = False
    restricts_weekday: bool = False
    is_fixed_time: bool = False

    def fires_on(self, day: date) -> bool:
        """Whether the line fires at all on this day of the calendar."""
        if day.month not in self.months:
            return False
        by_day, by_weekday = self._by_day(day), self._by_weekday(day)
        if self.restricts_day and self.restricts_weekday:
            return by_day or by_weekday
        return by_day and by_weekday

    def _by_day(self, day: date) -> bool:
        if day.day in self.days:
            return True
        length = calendar.monthrange(day.year, day.month)[1]
        if length - day.day in self.last_days:
            return True
        return any(
            _nearest_weekday(day.year, day.month, want or length) == day.day for want in self.near_weekdays
        )

    def _by_weekday(self, day: date) -> bool:
        weekday = day.isoweekday() % 7
        if weekday in self.weekdays:
            return True
        length = calendar.monthrange(day.year, day.month)[1]
        which = (day.day - 1) // 7 + 1
        is_last = day.day + 7 > length
        return (weekday, which) in self.nth_weekdays or (is_last and (weekday, -1) in self.nth_weekdays)


@lru_cache(maxsize=1024)
def parse(expression: str) -> Cron:
    """Read a cron line, or refuse it with a mark under the fault.

    >>> sorted(parse("*/20 9-17 * * mon-fri").minutes)
    [0, 20, 40]
    >>> parse("61 * * * *")
    Traceback (most recent call last):
    ...
    fourfold.core.errors.Refused: minute 61 is not from 0 to 59
      61 * * * *
      ^^
    """
    text = expression.strip()
    if text.startswith("@"):
        if text == "@reboot":
            raise Refused("@reboot names no time", ways_on=[f"take one of {', '.join(NICKNAMES)}"])
        if text.lower() not in NICKNAMES:
            raise Refused(
                f"'{text}' is not a schedule", ways_on=did_you_mean(text, NICKNAMES, what="nicknames")
            )
        text = NICKNAMES[text.lower()]
    pieces = [(match[0], match.start()) for match in re.finditer(r"\S+", text)]
    if len(pieces) != 5:
        raise Refused(
            f"a cron line has 5 fields, not {len(pieces)}: '{expression}'",
            ways_on=["minute hour day-of-month month day-of-week, such as  30 2 * * mon-fri"],
        )
    extras = _Extras(set(), set(), set())
    values = [
        _field(text, piece, start, rule, extras) for (piece, start), rule in zip(pieces, _FIELDS, strict=True)
    ]
    minute, hour, day, _, weekday = (piece for piece, _ in pieces)
    found = Cron(
        expression.strip(),
        minutes=frozenset(values[0]),
        hours=frozenset(values[1]),
        days=frozenset(values[2]),
        months=frozenset(values[3]),
        weekdays=frozenset(value % 7 for value in values[4]),
        last_days=frozenset(extras.last_days),
        near_weekdays=frozenset(extras.near_weekdays),
        nth_weekdays=frozenset(extras.nth_weekdays),
        restricts_day=not day.startswith(("*", "?")),
        restricts_weekday=not weekday.startswith(("*", "?")),
        is_fixed_time=not minute.startswith("*") and not hour.startswith("*"),
    )
    if not any(found.fires_on(day) for day in _four_hundred_years_of(found)):
        start = pieces[2][1]
        raise Refused(
            f"there is no such day: '{expression.strip()}' never fires",
            ways_on=[text, " " * start + "^" * (pieces[3][1] + len(pieces[3][0]) - start)],
        )
    return found


def zone(name: str) -> ZoneInfo:
    """A time zone by its name.

    >>> zone("Europe/Berln")
    Traceback (most recent call last):
    ...
    fourfold.core.errors.Refused: 'Europe/Berln' is not a time zone
      did you mean 'Europe/Berlin'?
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        near = did_you_mean(name, available_timezones())[:-1]
        raise Refused(
            f"'{name}' is not a time zone", ways_on=near or ["write it like Europe/Berlin or UTC"]
        ) from error


def next_after(cron: Cron, tz: str, after: Instant) -> Instant | None:
    """The first instant after `after` at which the line fires; `None` if there is none for decades.

    >>> from fourfold.core.times import iso, parse_instant
    >>> iso(next_after(parse("30 2 * * *"), "Europe/Berlin", parse_instant("2026-03-28T12:00:00Z")))
    '2026-03-29T01:00:00Z'
    """
    place = zone(tz)
    # A day earlier in wall time: a fixed-time tick of a skipped hour is at another wall time than its own.
    first = (moment(after).astimezone(place) - timedelta(days=1)).date()
    for offset in range(366 * _YEARS_AHEAD):
        try:
            day = first + timedelta(days=offset)
        except OverflowError:
            return None
        if not cron.fires_on(day) and not cron.fires_on(day - timedelta(days=1)):
            continue
        found = _instants_of(cron, place, day)
        first_after = bisect_right(found, after)
        if first_after < len(found):
            return found[first_after]
    return None


def ticks(cron: Cron, tz: str, after: Instant, count: int) -> list[Instant]:
    """The next `count` instants."""
    found: list[Instant] = []
    at: Instant | None = after
    while len(found) < count and at is not None:
        at = next_after(cron, tz, at)
        if at is not None:
            found.append(at)
    return found


@lru_cache(maxsize=256)
def _instants_of(cron: Cron, place: ZoneInfo, day: date) -> tuple[Instant, ...]:
    """The instants of all wall times of a day that match, in order.

    Kept, because one tick follows another: a line that fires each minute has 1,440 of them.
    """
    if not cron.fires_on(day):
        return ()
    walls = (
        datetime(day.year, day.month, day.day, hour, minute, tzinfo=place)
        for hour in sorted(cron.hours)
        for minute in sorted(cron.minutes)
    )
    return tuple(sorted(at for wall in walls for at in _instants_at(cron, wall)))


def _instants_at(cron: Cron, wall: datetime) -> Iterator[Instant]:
    first, second = wall.replace(fold=0), wall.replace(fold=1)
    early, late = first.utcoffset(), second.utcoffset()
    assert early is not None
    assert late is not None
    if early == late:
        yield instant(first)
    elif early > late:  # this wall time comes twice
        yield instant(first)
        if not cron.is_fixed_time:
            yield instant(second)
    elif cron.is_fixed_time:  # this wall time is skipped: once, right after the jump
        yield _end_of_gap(wall)


def _end_of_gap(wall: datetime) -> Instant:
    """The instant of the jump over this wall time."""
    low, high = wall.replace(fold=1).astimezone(UTC), wall.replace(fold=0).astimezone(UTC)
    place = wall.tzinfo
    before = low.astimezone(place).utcoffset()
    low_s, high_s = int(low.timestamp()), int(high.timestamp())
    while high_s - low_s > 1:
        middle = (low_s + high_s) // 2
        if datetime.fromtimestamp(middle, UTC).astimezone(place).utcoffset() == before:
            low_s = middle
        else:
            high_s = middle
    return instant(datetime.fromtimestamp(high_s, UTC))


def _four_hundred_years_of(cron: Cron) -> Iterator[date]:
    """Days that stand for all: every month of a leap year cycle of weekdays (28 years)."""
    for year in range(2000, 2028):
        for month in sorted(cron.months):
            for day in range(1, calendar.monthrange(year, month)[1] + 1):
                yield date(year, month, day)


@dataclass(slots=True)
class _Extras:
    last_days: set[int]
    near_weekdays: set[int]
    nth_weekdays: set[tuple[int, int]]


def _field(text: str, field: str, start: int, rule: _FieldRule, extras: _Extras) -> set[int]:
    values: set[int] = set()
    at = start
    for item in field.split(","):
        if not _special(text, item, at, rule, extras):
            values |= _item(text, item, at, rule)
        at += len(item) + 1
    return values


def _special(text: str, item: str, at: int, rule: _FieldRule, extras: _Extras) -> bool:
    upper = item.upper()
    if rule.name == "day of month":
        if upper == "L":
            extras.last_days.add(0)
        elif upper == "LW":
            extras.near_weekdays.add(0)
        elif match := re.fullmatch(r"L-(\d+)", upper):
            if not 1 <= int(match[1]) <= 30:
                raise _fault(text, at, item, f"'{item}' lies before every month")
            extras.last_days.add(int(match[1]))
        elif match := re.fullmatch(r"(\d+)W", upper):
            extras.near_weekdays.add(_number(text, match[1], at, rule))
        else:
            return False
        return True
    if rule.name == "day of week":
        if match := re.fullmatch(r"(\w+)#(\d)", item):
            if not 1 <= int(match[2]) <= 5:
                raise _fault(text, at, item, f"a month has a weekday 1 to 5 times, not {match[2]}")
            extras.nth_weekdays.add((_number(text, match[1], at, rule) % 7, int(match[2])))
        elif match := re.fullmatch(r"(\w+)L", upper):
            extras.nth_weekdays.add((_number(text, match[1], at, rule) % 7, -1))
        else:
            return False
        return True
    return False


def _item(text: str, item: str, at: int, rule: _FieldRule) -> set[int]:
    body, slash, step_text = item.partition("/")
    step = 1
    if slash:
        if not step_text.isdigit() or int(step_text) == 0:
            raise _fault(
                text, at + len(body) + 1, step_text or "/", f"'{step_text}' is not a step of 1 or more"
            )
        step = int(step_text)
    top = 6 if rule.name == "day of week" else rule.high
    if body in ("*", "?"):
        low, high = rule.low, top
    elif "-" in body:
        first, _, last = body.partition("-")
        low = _number(text, first, at, rule)
        high = _number(text, last, at + len(first) + 1, rule)
        if rule.name == "day of week" and high == 0 and low > 0:
            high = 7
        if high < low:
            raise _fault(text, at, body, f"{rule.name} '{body}' runs from more to less")
    else:
        low = _number(text, body, at, rule)
        high = top if slash else low
    return set(range(low, high + 1, step))


def _number(text: str, word: str, at: int, rule: _FieldRule) -> int:
    if word.lower() in rule.names:
        return rule.names[word.lower()]
    if not word.isascii() or not word.isdigit():
        known = f" or {', '.join(rule.names)}" if rule.names else ""
        raise _fault(
            text, at, word, f"{rule.name} '{word}' is not a number from {rule.low} to {rule.high}{known}"
        )
    if not rule.low <= int(word) <= rule.high:
        raise _fault(text, at, word, f"{rule.name} {word} is not from {rule.low} to {rule.high}")
    return int(word)


def _fault(text: str, at: int, word: str, message: str) -> Refused:
    return Refused(message, ways_on=[text, " " * at + "^" * max(1, len(word))], expression=text)


def _nearest_weekday(year: int, month: int, want: int) -> int:
    """The day from Monday to Friday nearest to a day of the month, without leaving the month."""
    length = calendar.monthrange(year, month)[1]
    if want > length:
        return 0
    weekday = date(year, month, want).isoweekday()
    if weekday == 6:
        return want - 1 if want > 1 else want + 2
    if weekday == 7:
        return want + 1 if want < length else want - 2
    return want
