"""Each tick of a schedule fires once, whatever restarts, sleeps and clocks do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourfold.core.decide import cron, schedule
from fourfold.core.flows import Code, DeployedFlow, FlowRun, RunId
from fourfold.core.times import Instant, after, parse_instant
from fourfold.resources.flows import messages
from fourfold.resources.flows.scheduler import Scheduler

pytestmark = pytest.mark.property

START = parse_instant("2026-03-28T12:00:00Z")
"""A day before clocks change in Berlin."""
CODE = Code("digest", "module", "flow")
MINUTE_S = 60.0


def deployed(
    line: str = "*/5 * * * *", *, catchup: str = "latest", tz: str = "Europe/Berlin"
) -> DeployedFlow:
    return DeployedFlow("nightly", CODE, START, cron=line, tz=tz, catchup=catchup, last_tick=START)


class Life:
    """What a project keeps of a schedule while servers come and go."""

    def __init__(self, flow: DeployedFlow) -> None:
        self.kept = flow
        self.fired: list[Instant] = []

    def look(self, times: Sequence[Instant]) -> None:
        """One server starts, looks at these times, and is gone; what it committed stays."""
        scheduler = Scheduler()
        scheduler.load([self.kept])
        scheduler.is_firing = True
        for now in times:
            runs = scheduler.due(now, self.run)
            for each in scheduler.drain():
                self.kept = each
            self.fired += [run.scheduled_for for run in runs if run.scheduled_for is not None]
            assert (scheduler.next_at() or now + 1) > now, "it looks again later, not at once"

    @staticmethod
    def run(flow: DeployedFlow, tick: Instant | None, params: object, key: str) -> FlowRun:
        return messages.run_of(flow, RunId(f"run_{tick}"), START, tick=tick, params={}, key=key)


def all_ticks(flow: DeployedFlow, until: Instant) -> list[Instant]:
    found = []
    at = schedule.next_tick(flow, START)
    while at is not None and at <= until:
        found.append(at)
        at = schedule.next_tick(flow, at)
    return found


lines = st.sampled_from(["*/5 * * * *", "30 2 * * *", "0 * * * *", "*/30 1-3 * * *", "17 */6 * * sun"])
moments = st.lists(st.floats(0, 40 * 3600.0), min_size=1, max_size=12).map(
    lambda offsets: [after(START, offset) for offset in sorted(offsets)]
)


@given(line=lines, looks=moments, restarts=st.sets(st.integers(0, 11)))
def test_with_all_every_tick_fires_once_in_order_across_restarts(
    line: str, looks: list[Instant], restarts: set[int]
) -> None:
    flow = deployed(line, catchup="all")
    life = Life(flow)
    begun: list[Instant] = []
    for index, now in enumerate(looks):
        begun.append(now)
        if index in restarts:
            life.look(begun)
            begun = []
    life.look(begun)
    wanted = all_ticks(flow, looks[-1])
    made_up = life.fired
    assert made_up == sorted(set(made_up))
    assert set(made_up) <= set(wanted)
    gaps = [
        len([t for t in wanted if low < t <= high]) for low, high in zip([START, *looks], looks, strict=False)
    ]
    if max(gaps) <= schedule.MOST_CATCH_UP:
        assert made_up == wanted


@given(
    line=lines, looks=moments, catchup=st.sampled_from(["latest", "none", "all"]), back_s=st.floats(0, 9e4)
)
def test_a_clock_that_is_set_back_fires_nothing_twice(
    line: str, looks: list[Instant], catchup: str, back_s: float
) -> None:
    life = Life(deployed(line, catchup=catchup))
    life.look(looks)
    life.look([after(now, -back_s) for now in looks])
    life.look(looks)
    assert len(life.fired) == len(set(life.fired))


@given(line=lines, offset_s=st.floats(0, 40 * 3600.0))
def test_with_latest_only_the_last_missed_tick_is_made_up(line: str, offset_s: float) -> None:
    flow = deployed(line, catchup="latest")
    now = after(START, offset_s)
    answer = schedule.due(flow, now)
    missed = all_ticks(flow, now)
    assert list(answer.fire) == missed[-1:]
    assert answer.passed_over == max(0, len(missed) - 1) or (
        offset_s > 86_400 and 0 <= answer.passed_over < len(missed) and "or more missed" in answer.reason
    )
    assert answer.last_tick == (missed[-1] if missed else START)
    assert answer.next_at == schedule.next_tick(flow, answer.last_tick)


def test_with_none_a_missed_tick_is_passed_over_and_one_that_is_due_now_fires() -> None:
    flow = deployed("0 * * * *", catchup="none")
    hour = after(START, 3600)
    assert schedule.due(flow, hour).fire == (hour,)
    assert schedule.due(flow, after(hour, 59)).fire == (hour,)
    late = schedule.due(flow, after(hour, MINUTE_S))
    assert late.fire == ()
    assert (late.passed_over, late.last_tick) == (1, hour)
    assert "1 missed and passed over" in late.reason


def test_no_more_than_the_latest_hundred_are_made_up() -> None:
    flow = deployed("* * * * *", catchup="all")
    answer = schedule.due(flow, after(START, 600 * MINUTE_S))
    assert len(answer.fire) == schedule.MOST_CATCH_UP
    assert answer.fire[-1] == after(START, 600 * MINUTE_S)
    assert answer.passed_over == 500


def test_a_tick_fires_once_though_two_servers_look_at_it() -> None:
    """Both make a run, with one key: the store keeps the first."""
    flow = deployed("0 * * * *")
    tick = after(START, 3600)
    first, second = (messages.run_of(flow, RunId(each), tick, tick=tick, params={}, key="") for each in "ab")
    assert first.key == second.key != ""


@pytest.mark.parametrize(
    ("is_firing", "is_paused", "fires"), [(True, False, 1), (True, True, 0), (False, False, 0)]
)
def test_ticks_fire_only_where_somebody_fires_them_and_nobody_paused(
    is_firing: bool, is_paused: bool, fires: int
) -> None:
    scheduler = Scheduler()
    scheduler.load([replace(deployed(), is_paused=is_paused)])
    scheduler.is_firing = is_firing
    assert len(scheduler.due(after(START, 3600), Life.run)) == fires
    assert (scheduler.next_at() is not None) == bool(fires)


def test_a_schedule_that_goes_on_after_a_pause_passes_over_what_it_missed() -> None:
    scheduler = Scheduler()
    scheduler.is_firing = True
    scheduler.load([replace(deployed(catchup="all"), is_paused=True)])
    now = after(START, 3600)
    scheduler.put(replace(scheduler.get("nightly"), is_paused=False, last_tick=now), now)
    assert scheduler.due(now, Life.run) == []
    assert len(scheduler.due(after(now, 300), Life.run)) == 1


@pytest.mark.parametrize("catchup", ["latest", "all", "none"])
def test_nothing_is_due_before_the_first_tick(catchup: str) -> None:
    flow = deployed("0 3 * * *", catchup=catchup)
    answer = schedule.due(flow, after(START, 60))
    assert answer.fire == ()
    assert answer.next_at == cron.next_after(cron.parse("0 3 * * *"), "Europe/Berlin", START)
