"""Which ticks of a schedule fire now: each once, by (schedule, nominal instant)."""

from __future__ import annotations

from dataclasses import dataclass

from fourfold.core.decide import cron
from fourfold.core.flows import DeployedFlow
from fourfold.core.times import SECOND_US, Instant

MOST_CATCH_UP = 100
"""So many missed ticks are made up at most, the latest ones; the others are passed over."""


@dataclass(frozen=True, slots=True)
class Ticks:
    """What is due: the ticks to fire, the latest tick that is dealt with, and when to look again.

    `passed_over` counts the missed ticks that were met on the way and do not fire.
    """

    fire: tuple[Instant, ...]
    last_tick: Instant
    next_at: Instant | None
    passed_over: int
    reason: str


def due(deployed: DeployedFlow, now: Instant) -> Ticks:
    """The ticks after the last one up to now; those missed while nothing ran, by the catch-up rule.

    A tick counts as missed when a later one is due too. A clock that was set back fires nothing twice:
    ticks up to `last_tick` are dealt with. The missed ones are looked for from now backwards, no further
    than they are wanted: after a year of silence a line of every minute costs no more than any other.
    """
    since = deployed.last_tick if deployed.last_tick is not None else deployed.created_at
    wanted = MOST_CATCH_UP if deployed.catchup == "all" else 1
    back_us = 86_400 * SECOND_US
    while True:
        start = Instant(max(since, now - back_us))
        ticks, next_at = _ticks_between(deployed, start, now)
        if len(ticks) >= wanted or start == since:
            break
        back_us *= 8
    if not ticks:
        return Ticks((), since, next_at, 0, "nothing is due")
    match deployed.catchup:
        case "all":
            fire = ticks[-MOST_CATCH_UP:]
        case "none":
            # A tick that is due at this moment is not missed; one that is older than a minute is.
            fire = [tick for tick in ticks[-1:] if now - tick < 60 * SECOND_US]
        case _:
            fire = ticks[-1:]
    passed = len(ticks) - len(fire)
    more = " or more" if start > since else ""
    reason = f"{len(fire)} due" + (f", {passed}{more} missed and passed over" if passed or more else "")
    return Ticks(tuple(fire), ticks[-1], next_at, passed, reason)


def _ticks_between(
    deployed: DeployedFlow, start: Instant, end: Instant
) -> tuple[list[Instant], Instant | None]:
    """The ticks after `start` up to `end`, and the one after those."""
    ticks: list[Instant] = []
    at = next_tick(deployed, start)
    while at is not None and at <= end:
        ticks.append(at)
        at = next_tick(deployed, at)
    return ticks, at


def next_tick(deployed: DeployedFlow, after: Instant) -> Instant | None:
    """The first tick after an instant."""
    return cron.next_after(cron.parse(deployed.cron), deployed.tz, after)
