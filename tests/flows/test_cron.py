"""Cron lines against a slow, obvious reference that looks at every minute."""

from __future__ import annotations

import calendar
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fourfold.core.decide import cron
from fourfold.core.errors import Refused
from fourfold.core.times import Instant, instant, iso, moment, parse_instant

pytestmark = pytest.mark.property

MINUTE = timedelta(minutes=1)

# The reference


def matches(token: str, value: int, low: int, high: int) -> bool:
    """Whether one item of a plain field takes a value."""
    body, _, step = token.partition("/")
    if body in ("*", "?"):
        first, last = low, high
    elif "-" in body:
        first, last = (int(each) for each in body.split("-"))
    else:
        first, last = int(body), high if step else int(body)
    return first <= value <= last and (value - first) % int(step or 1) == 0


def matches_day(token: str, day: date) -> bool:
    length = calendar.monthrange(day.year, day.month)[1]
    if token == "LW" or token.endswith("W"):
        want = length if token == "LW" else int(token[:-1])
        if want > length:
            return False
        weekdays = [each for each in range(1, length + 1) if day.replace(day=each).isoweekday() < 6]
        return day.day == min(weekdays, key=lambda each: abs(each - want))
    if token.startswith("L"):
        return day.day == length - int(token[2:] or 0)
    return matches(token, day.day, 1, 31)


def matches_weekday(token: str, day: date) -> bool:
    weekday = day.isoweekday() % 7
    if token.endswith("L"):
        return weekday == int(token[:-1]) % 7 and (day + timedelta(days=7)).month != day.month
    if "#" in token:
        wanted, nth = (int(each) for each in token.split("#"))
        return weekday == wanted % 7 and (day.day + 6) // 7 == nth
    return matches(token, weekday, 0, 6) or (weekday == 0 and "/" not in token and matches(token, 7, 0, 7))


def matches_wall(line: str, wall: datetime) -> bool:
    """Whether a line names this wall time."""
    minute, hour, *date_fields = line.split()
    if not any(matches(token, wall.minute, 0, 59) for token in minute.split(",")):
        return False
    if not any(matches(token, wall.hour, 0, 23) for token in hour.split(",")):
        return False
    return matches_date(*date_fields, wall.date())


@lru_cache
def matches_date(day: str, month: str, weekday: str, at: date) -> bool:
    """Whether the three date fields take a day."""
    if not any(matches(token, at.month, 1, 12) for token in month.split(",")):
        return False
    by_day = any(matches_day(token, at) for token in day.split(","))
    by_weekday = any(matches_weekday(token, at) for token in weekday.split(","))
    if day[0] not in "*?" and weekday[0] not in "*?":
        return by_day or by_weekday
    return by_day and by_weekday


def reference(line: str, tz: str, begin: datetime, end: datetime) -> Iterator[Instant]:
    """Every firing in [begin, end), by looking at each minute of UTC and at what a wall clock shows then."""
    zone = ZoneInfo(tz)
    is_fixed = not line.split()[0].startswith("*") and not line.split()[1].startswith("*")
    at = begin
    while at < end:
        wall, before = at.astimezone(zone), (at - MINUTE).astimezone(zone)
        fires = matches_wall(line, wall) and not (is_fixed and wall.fold == 1)
        skipped = (wall.replace(tzinfo=None) - before.replace(tzinfo=None)) // MINUTE - 1
        if is_fixed and skipped > 0:  # the clock was set forward over some minutes just now
            fires |= any(matches_wall(line, wall - back * MINUTE) for back in range(1, skipped + 1))
        if fires:
            yield instant(at)
        at += MINUTE


def fired(line: str, tz: str, begin: datetime, end: datetime) -> list[Instant]:
    """The same, as the rule says."""
    found = []
    at = cron.next_after(cron.parse(line), tz, Instant(instant(begin) - 1))
    while at is not None and at < instant(end):
        found.append(at)
        at = cron.next_after(cron.parse(line), tz, at)
    return found


# Lines and places


def plain_field(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    spans = st.tuples(number, number).map(lambda pair: f"{min(pair)}-{max(pair)}")
    steps = st.integers(1, max(2, high // 2))
    item = st.one_of(
        st.just("*"),
        number.map(str),
        number.map(str),
        spans,
        steps.map(lambda step: f"*/{step}"),
        st.tuples(spans, steps).map(lambda pair: f"{pair[0]}/{pair[1]}"),
        st.tuples(number, steps).map(lambda pair: f"{pair[0]}/{pair[1]}"),
    )
    return st.lists(item, min_size=1, max_size=3).map(",".join)


days = st.one_of(
    st.just("*"),
    plain_field(1, 31),
    st.sampled_from(["L", "LW", "L-3", "1W", "15W", "31W", "30W,L", "1,L-1"]),
)
weekdays = st.one_of(
    st.just("*"), plain_field(0, 6), st.sampled_from(["7", "5-7", "1L", "0L", "7L", "2#1", "5#3,1", "0#5"])
)
lines = st.tuples(plain_field(0, 59), plain_field(0, 23), days, plain_field(1, 12), weekdays).map(" ".join)


def jumps(tz: str, first: int, last: int) -> list[datetime]:
    """The days (midnight, UTC) on which a zone's clocks change."""
    zone, found = ZoneInfo(tz), []
    at = datetime(first, 1, 1, tzinfo=UTC)
    while at.year <= last:
        if at.astimezone(zone).utcoffset() != (at + timedelta(days=1)).astimezone(zone).utcoffset():
            found.append(at)
        at += timedelta(days=1)
    return found


CHANGES = [
    (tz, at)
    for tz, first, last in (
        ("America/New_York", 2025, 2026),
        ("Europe/Berlin", 2026, 2026),
        ("Australia/Lord_Howe", 2026, 2026),  # by half an hour
        ("America/St_Johns", 2010, 2010),  # a minute after midnight
        ("America/Sao_Paulo", 2017, 2017),  # at midnight, southern
        ("Asia/Beirut", 2024, 2024),  # midnight does not exist
        ("Africa/Casablanca", 2026, 2026),  # around Ramadan
        ("Pacific/Apia", 2011, 2011),  # a whole day does not exist
    )
    for at in jumps(tz, first, last)
]


@given(line=lines, change=st.sampled_from(CHANGES))
def test_lines_fire_as_a_watcher_of_the_wall_clock_says_where_clocks_change(
    line: str, change: tuple[str, datetime]
) -> None:
    tz, at = change
    begin, end = at, at + timedelta(hours=27)
    assert _parsed(line) == [] or fired(line, tz, begin, end) == list(reference(line, tz, begin, end))


@given(line=lines, month=st.integers(0, 47))
def test_lines_fire_as_the_calendar_says(line: str, month: int) -> None:
    """A month of days at noon: the day fields, wherever the month begins and ends."""
    line = " ".join(["0", "12", *line.split()[2:]])
    begin = datetime(2024 + month // 12, month % 12 + 1, 1, tzinfo=UTC)
    noons = [begin + timedelta(days=day, hours=12) for day in range(35)]
    wanted = [instant(at) for at in noons if matches_wall(line, at)]
    assert _parsed(line) == [] or fired(line, "UTC", begin, begin + timedelta(days=35)) == wanted


def _parsed(line: str) -> list[cron.Cron]:
    """The line read; or nothing where it is refused, which may only be because no day is ever meant."""
    try:
        return [cron.parse(line)]
    except Refused:
        years = (date(2000, 1, 1) + timedelta(days=day) for day in range(28 * 366))
        noon = " ".join(["*", "*", *line.split()[2:]])
        assert not any(
            matches_wall(noon, datetime(day.year, day.month, day.day, tzinfo=UTC)) for day in years
        )
        return []


@pytest.mark.slow
@pytest.mark.parametrize("tz", ["America/New_York", "Australia/Lord_Howe"])
@pytest.mark.parametrize("line", ["*/15 * * * *", "15 1-3 * * 0", "5 1 1,15 * 1#2"])
def test_a_whole_year_minute_by_minute(tz: str, line: str) -> None:
    begin, end = datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
    assert fired(line, tz, begin, end) == list(reference(line, tz, begin, end))


# The stated rule, by example


def times(line: str, tz: str, after: str, count: int) -> list[str]:
    return [iso(at) for at in cron.ticks(cron.parse(line), tz, parse_instant(after), count)]


def test_a_fixed_time_in_a_skipped_hour_fires_once_right_after_it() -> None:
    """New York, 8 March 2026: 02:00 EST is 03:00 EDT, at 07:00 UTC."""
    assert times("30 2 * * *", "America/New_York", "2026-03-07T12:00:00Z", 2) == [
        "2026-03-08T07:00:00Z",
        "2026-03-09T06:30:00Z",
    ]


def test_a_fixed_time_in_a_repeated_hour_fires_the_first_time_only() -> None:
    assert times("30 1 * * *", "America/New_York", "2026-10-31T12:00:00Z", 2) == [
        "2026-11-01T05:30:00Z",
        "2026-11-02T06:30:00Z",
    ]


def test_other_lines_follow_the_wall_clock() -> None:
    assert times("30 * * * *", "America/New_York", "2026-03-08T06:00:00Z", 2) == [
        "2026-03-08T06:30:00Z",
        "2026-03-08T07:30:00Z",
    ]
    assert times("*/30 1 * * *", "America/New_York", "2026-11-01T04:59:00Z", 4) == [
        "2026-11-01T05:00:00Z",
        "2026-11-01T05:30:00Z",
        "2026-11-01T06:00:00Z",
        "2026-11-01T06:30:00Z",
    ]


@pytest.mark.parametrize(("name", "line"), sorted(cron.NICKNAMES.items()))
def test_a_nickname_is_its_line(name: str, line: str) -> None:
    after = parse_instant("2026-02-10T11:12:13Z")
    by_name = cron.ticks(cron.parse(name.upper()), "Asia/Tokyo", after, 5)
    assert by_name == cron.ticks(cron.parse(line), "Asia/Tokyo", after, 5)


def test_leap_days_are_found_years_ahead() -> None:
    found = times("0 0 29 2 *", "UTC", "2096-03-01T00:00:00Z", 1)
    assert found == ["2104-02-29T00:00:00Z"]  # 2100 is no leap year


def test_names_of_months_and_days_are_read() -> None:
    assert cron.parse("0 0 * jan-mar SUN,mon").months == {1, 2, 3}
    assert cron.parse("0 0 * jan-mar SUN,mon").weekdays == {0, 1}
    assert cron.parse("0 0 * * fri-sun").weekdays == {5, 6, 0}


@given(line=lines, start=st.integers(0, 4 * 10**15))
def test_the_next_firing_is_later_and_at_a_whole_minute(line: str, start: int) -> None:
    for parsed in _parsed(line):
        at = cron.next_after(parsed, "Europe/Berlin", Instant(start))
        assert at is not None
        assert at > start
        assert moment(at).second == moment(at).microsecond == 0


# What is refused, and with which words


@pytest.mark.parametrize(
    ("line", "words", "marked"),
    [
        ("61 * * * *", "minute 61 is not from 0 to 59", "61"),
        ("0 24 * * *", "hour 24 is not from 0 to 23", "24"),
        ("0 0 0 * *", "day of month 0 is not from 1 to 31", "0"),
        ("0 0 * 13 *", "month 13 is not from 1 to 12", "13"),
        ("0 0 * * 8", "day of week 8 is not from 0 to 7", "8"),
        ("0 0 * * fry", "day of week 'fry' is not a number from 0 to 7 or sun, mon", "fry"),
        ("0 5-3 * * *", "hour '5-3' runs from more to less", "5-3"),
        ("*/0 * * * *", "'0' is not a step of 1 or more", "0"),
        ("*/x * * * *", "'x' is not a step of 1 or more", "x"),
        ("0 0 * * 2#6", "a month has a weekday 1 to 5 times, not 6", "2#6"),
        ("0 0 L-31 * *", "'L-31' lies before every month", "L-31"),
        ("0 0 -3 * *", "day of month '' is not a number", ""),
        ("1,,2 * * * *", "minute '' is not a number", ""),
        ("0 0 31 2 *", "there is no such day: '0 0 31 2 *' never fires", "31 2"),
        ("0 0 30W 2 *", "there is no such day", "30W 2"),
        ("0 0 31 4,6,9,11 *", "there is no such day", "31 4,6,9,11"),
    ],
)
def test_an_impossible_line_is_refused_with_a_mark_under_the_fault(
    line: str, words: str, marked: str
) -> None:
    with pytest.raises(Refused) as caught:
        cron.parse(line)
    assert words in caught.value.message
    shown, marks = caught.value.ways_on
    assert shown == line
    begin, end = marks.index("^"), len(marks)
    assert shown[begin:end] == marked or marked == ""


@pytest.mark.parametrize("line", ["", "0 3 * *", "0 3 * * * *", "@reboot", "@dayly", "every day"])
def test_what_is_no_line_is_refused_with_what_would_be_one(line: str) -> None:
    with pytest.raises(Refused) as caught:
        cron.parse(line)
    assert caught.value.ways_on


def test_an_unknown_zone_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(Refused) as caught:
        cron.next_after(cron.parse("@daily"), "Europe/Berln", Instant(0))
    assert "'Europe/Berln' is not a time zone" in caught.value.message
    assert any("Europe/Berlin" in way for way in caught.value.ways_on)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="0123456789*/-,LW#@ amonjf?", max_size=20))
def test_any_text_is_read_or_refused_with_words(text: str) -> None:
    with suppress(Refused):
        cron.parse(text)
