"""`fourfold cron`: the schedules of deployed flows, and when a cron line fires."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from fourfold.cli.main import Verbs
from fourfold.cli.opened import services
from fourfold.cli.output import Column, note, output_option, show, when

if TYPE_CHECKING:
    from fourfold.core.decide.cron import Cron
    from fourfold.core.flows import ScheduleInfo

DAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
WHICH = {1: "first", 2: "second", 3: "third", 4: "fourth", 5: "fifth", -1: "last"}


@click.group(cls=Verbs, name="cron")
def command() -> None:
    """Schedules of deployed flows, and when a cron line fires."""


@command.command("ls")
@output_option
def ls(output: str) -> None:
    """All schedules: when each fires next, and whether anything is there to fire it."""
    with services() as opened:
        found = opened.flows.schedules()
    show(
        found,
        [
            Column("FLOW", lambda s: s.flow),
            Column("CRON", lambda s: s.cron),
            Column("ZONE", lambda s: s.tz),
            Column("MISSED", lambda s: s.catchup),
            Column("LAST", lambda s: when(s.last_tick)),
            Column("NEXT", lambda s: when(s.next_at)),
            Column("STATE", _state),
        ],
        output,
        nothing="no schedules; deploy a flow that has one: fourfold flow deploy FILE",
    )
    if output == "table" and any(_state(each).startswith("waits") for each in found):
        note("schedules fire only while this runs: fourfold up")


@command.command("pause")
@click.argument("flow")
@click.option("--off", is_flag=True, help="Let it fire again.")
def pause(flow: str, off: bool) -> None:
    """Stop a deployed flow's schedule from firing."""
    with services() as opened:
        made = opened.flows.pause_schedule(flow, is_paused=not off)
    note(f"schedule of '{made.flow}' is {'paused' if made.is_paused else 'no longer paused'}")


def _state(schedule: ScheduleInfo) -> str:
    if schedule.is_paused:
        return "paused"
    return "fires" if schedule.is_firing else "waits for: fourfold up"


@command.command("next")
@click.argument("expression")
@click.option("--tz", default="UTC", show_default=True, help="The time zone, such as America/New_York.")
@click.option("--from", "start", default="", metavar="TIME", help="ISO 8601 with a zone [default: now].")
@click.option("--count", default=5, show_default=True, type=click.IntRange(1, 1000))
@output_option
def next_(expression: str, tz: str, start: str, count: int, output: str) -> None:
    """The next ticks of EXPRESSION, such as '0 3 * * mon-fri' or @daily."""
    from datetime import UTC, datetime

    from fourfold.core.decide import cron as rule
    from fourfold.core.times import instant, iso, moment, parse_instant

    line, place = rule.parse(expression), rule.zone(tz)
    begin = parse_instant(start) if start else instant(datetime.now(UTC))
    ticks = [
        {"at": iso(at), "local": moment(at).astimezone(place).isoformat()}
        for at in rule.ticks(line, tz, begin, count)
    ]
    show(
        ticks,
        [Column("UTC", lambda t: t["at"]), Column("LOCAL", lambda t: t["local"])],
        output,
        nothing="it never fires again",
    )


@command.command("explain")
@click.argument("expression")
@click.option("--tz", default="UTC", show_default=True)
def explain(expression: str, tz: str) -> None:
    """EXPRESSION in words."""
    from fourfold.core.decide import cron as rule

    rule.zone(tz)
    click.echo(f"{in_words(rule.parse(expression))} ({tz})")


def in_words(cron: Cron) -> str:
    """A cron line in words.

    >>> from fourfold.core.decide.cron import parse
    >>> in_words(parse("30 2 * * mon-fri"))
    'at 02:30 on Monday, Tuesday, Wednesday, Thursday and Friday'
    >>> in_words(parse("*/15 * L * *"))
    'at minutes 0, 15, 30 and 45 of every hour on the last day of the month'
    >>> in_words(parse("0 9 1 1 5#2"))
    'at 09:00 on day 1 of the month or on the second Friday of the month, in January'
    """
    by_month = [f"day {day}" for day in sorted(cron.days)] if len(cron.days) < 31 else []
    by_month += ["the last day" if n == 0 else f"the day {n} before the last" for n in sorted(cron.last_days)]
    by_month += [
        f"the weekday nearest to day {day}" if day else "the last weekday"
        for day in sorted(cron.near_weekdays)
    ]
    by_week = [DAYS[day] for day in sorted(cron.weekdays)] if len(cron.weekdays) < 7 else []
    nth = [f"the {WHICH[which]} {DAYS[day]}" for day, which in sorted(cron.nth_weekdays)]
    days = [f"on {_and(by_month)} of the month"] if by_month else []
    week = [f"on {_and(by_week)}"] if by_week else []
    week += [f"on {_and(nth)} of the month"] if nth else []
    joint = " or " if cron.restricts_day and cron.restricts_weekday else " and "
    when = joint.join([*days, *week])
    months = f", in {_and([MONTHS[m - 1] for m in sorted(cron.months)])}" if len(cron.months) < 12 else ""
    return _time(cron) + (f" {when}" if when else " every day" if cron.is_fixed_time else "") + months


def _time(cron: Cron) -> str:
    minutes, hours = sorted(cron.minutes), sorted(cron.hours)
    if len(minutes) * len(hours) <= 6:
        return "at " + _and([f"{hour:02}:{minute:02}" for hour in hours for minute in minutes])
    if len(minutes) == 60:
        told = "every minute"
    else:
        told = f"at minute{'s' if len(minutes) > 1 else ''} {_and([str(m) for m in minutes])}"
    return told + (" of every hour" if len(hours) == 24 else f" of the hours {_and([str(h) for h in hours])}")


def _and(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
