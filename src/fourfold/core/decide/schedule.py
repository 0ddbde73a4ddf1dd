"""Which ticks of a schedule fire now: each once, by (schedule, nominal instant)."""

from __future__ import annotations

from dataclasses import dataclass

from fourfold.core.decide import cron
from fourfold.core.flows import DeployedFlow
from fourfold.core.times import Instant

MOST_CATCH_UP = 100
"""So many missed ticks are made up at most, the latest ones; the others are passed over."""


@dataclass(frozen=True, slots=True)
class Ticks:
    """What is due: the ticks to fire, the latest tick that is dealt with, and when to look again."""

    fire: tuple[Instant, ...]
    last_tick: Instant
    next_at: Instant | None
    passed_over: int
    reason: str


def due(deployment: DeployedFlow, now: Instant) -> Ticks:
    """The ticks after the last one up to now; those missed while nothing ran, by the catch-up rule.

    A tick counts as missed when a later one is due too. A clock that was set back fires nothing twice:
    ticks up to `last_tick` are dealt with.
    """
    since = deployment.last_tick if deployment.last_tick is not None else deployment.created_at
    ticks: list[Instant] = []
    total = 0
    at = next_tick(deployment, since)
    while at is not None and at <= now:
        ticks.append(at)
        total += 1
        if len(ticks) > MOST_CATCH_UP:
            del ticks[0]
        at = next_tick(deployment, at)
    if not ticks:
        return Ticks((), since, at, 0, "nothing is due")
    match deployment.catchup:
        case "all":
            fire = ticks
        case "none":
            # A tick that is due at this moment is not missed; one that is older than a minute is.
            fire = [tick for tick in ticks[-1:] if now - tick < 60_000_000]
        case _:
            fire = ticks[-1:]
    passed = total - len(fire)
    reason = f"{len(fire)} due" + (f", {passed} missed and passed over" if passed else "")
    return Ticks(tuple(fire), ticks[-1], at, passed, reason)


def next_tick(deployment: DeployedFlow, after: Instant) -> Instant | None:
    """The first tick after an instant."""
    return cron.next_after(cron.parse(deployment.cron), deployment.tz, after)
