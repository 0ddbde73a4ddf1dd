"""A deadline: urgent work goes first, what cannot be done in time is told, what is late is ended."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.flows.conftest import Project

from fourfold.core.compute import Held, JobReport
from fourfold.core.decide import flow as rules
from fourfold.core.decide.deadline import Due, RunTimes, due_at
from fourfold.core.decide.place import NO_HURRY_S, Hold, Start, Waiting, place, turn
from fourfold.core.errors import Refused
from fourfold.core.flows import (
    BODY,
    CallKind,
    CallState,
    Code,
    FlowFailed,
    FlowRun,
    Policy,
    RunId,
    RunState,
    StepCall,
)
from fourfold.core.jobs import Exit, ExitKind, Resources, UnitCapacity, Usage
from fourfold.core.times import SECOND_US, Instant, after
from fourfold.resources.flows.api import flow, step

UNIT = UnitCapacity("local", 1, 8 << 30)
NOW = Instant(100_000 * SECOND_US)
RUN = FlowRun(RunId("run-1"), "nightly", RunState.running, Code("c", "m", "f"), "env", created_at=NOW)

seconds = st.integers(-10_000, 10_000)
dues = st.none() | st.builds(
    lambda s, p: Due(after(NOW, s), p),
    seconds,
    st.none() | st.builds(RunTimes, st.floats(0, 9e3), st.just(9)),
)
waits = st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 1), dues), min_size=1, max_size=12).map(
    lambda rows: [
        Waiting(f"w{i}", Resources(), after(NOW, -waited), priority, due=due)
        for i, (waited, priority, due) in enumerate(rows)
    ]
)


def asks(holder: str, waited_s: float, due: Due | None = None, *, priority: int = 0) -> Waiting:
    return Waiting(holder, Resources(), after(NOW, -waited_s), priority, due=due)


# The rule.


def test_what_must_start_soon_passes_what_can_wait() -> None:
    urgent = asks("urgent", 0, Due(after(NOW, 600), RunTimes(500.0, 20)))
    relaxed = asks("relaxed", 1, Due(after(NOW, 90_000)))
    old = asks("old", 900)
    decisions = place([UNIT], [], [relaxed, old, urgent], NOW)
    assert [each.holder for each in decisions] == ["urgent", "old", "relaxed"]
    assert isinstance(decisions[0], Start)
    assert all(isinstance(each, Hold) for each in decisions[1:])


def test_a_higher_priority_comes_before_any_deadline() -> None:
    urgent = asks("urgent", 0, Due(NOW))
    assert place([UNIT], [], [urgent, asks("first", 0, priority=1)], NOW)[0].holder == "first"


@given(waits)
def test_a_deadline_never_makes_work_wait_longer_nor_passes_by_more_than_an_hour(
    waiting: list[Waiting],
) -> None:
    for each in waiting:
        assert turn(each) <= turn(Waiting(each.holder, each.resources, each.ready_at, each.priority))
    order = sorted(waiting, key=turn)
    for index, late in enumerate(order):
        for early in order[:index]:
            if early.priority == late.priority and late.due is None and early.due is None:
                assert early.ready_at <= late.ready_at
            if early.priority == late.priority and late.due is None:
                start = early.due.latest_start if early.due is not None else early.ready_at
                assert min(start, early.ready_at) <= after(late.ready_at, NO_HURRY_S)


def test_who_waits_is_told_that_its_deadline_cannot_be_met_by_its_record() -> None:
    due = Due(after(NOW, 600), RunTimes(2400.0, 37))
    full = UnitCapacity("local", 0.5, 8 << 30)
    (held,) = place([full], [], [asks("a", 0, due)], NOW)
    assert held.reason == (
        "needs 1 cpu; local has 0.5 cpu, 8.0 GiB free; its deadline 1970-01-02T03:56:40Z cannot be met: "
        "95 % of its 37 recorded runs took up to 40m, 10m left"
    )
    (start,) = place([UNIT], [], [asks("a", 0, due)], NOW)
    assert "cannot be met" in start.reason
    (start,) = place([UNIT], [], [asks("a", 0, Due(after(NOW, 9000), due.times))], NOW)
    assert start.reason == "1 cpu free on local"


def test_a_step_is_due_by_its_own_deadline_or_its_runs() -> None:
    own, of_run = Policy(deadline_s=60), after(NOW, 90)
    assert due_at(RUN, own) == after(NOW, 60)
    limited = FlowRun(**{**fields(RUN), "deadline_at": of_run})
    assert due_at(limited, Policy()) == of_run
    assert due_at(limited, own) == after(NOW, 60)
    scheduled = FlowRun(**{**fields(RUN), "scheduled_for": after(NOW, -30)})
    assert due_at(scheduled, own) == after(NOW, 30)
    resumed = FlowRun(**{**fields(limited), "resumed_at": after(NOW, 70)})
    assert due_at(resumed, own) == of_run  # its own had passed when somebody went on with it
    assert due_at(RUN, Policy()) is None


def fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__slots__}


def test_a_run_whose_body_is_late_has_failed_and_its_calls_are_cancelled() -> None:
    body = StepCall(RUN.id, BODY, 0, CallKind.body, "nightly", CallState.ready, NOW)
    late = rules.Unmet(BODY, "its deadline has passed", ExitKind.over_time)
    state, commands = rules.decide(rules.Slice(RUN, {BODY: body}), late, NOW)
    assert (state.run.state, state.run.reason) == (RunState.failed, "its deadline has passed")
    assert state.run.failure is not None
    assert state.run.failure.kind is ExitKind.over_time
    assert [type(each) for each in commands] == [rules.Cancel, rules.RunOver]


# The words.


@pytest.mark.parametrize(
    ("deadline", "told"),
    [
        ("tonight", "'tonight' is not a duration"),
        ("2026-11-26T06:00", "is no time with a zone"),
        ("2026-13-26T06:00Z", "is no time with a zone"),
        (True, "deadline True is not an amount"),
    ],
)
def test_a_wrong_deadline_is_refused(deadline: Any, told: str) -> None:
    for make in (step, flow):
        with pytest.raises(Refused) as refused:
            make(deadline=deadline)(lambda: None)
        assert told in str(refused.value)


# The house.

SOURCE = """
import threading

@ff.step({of_step})
def fit() -> int:
    {does}
    return 7

@ff.flow({of_flow})
def main() -> int:
    return fit().result()
"""
WAITS = "threading.Event().wait()"


def run(project: Project, *, does: str = "", of_step: str = "", of_flow: str = "") -> Any:
    source = SOURCE.format(
        does=does or "pass", of_step=of_step or "retries=0", of_flow=of_flow or "priority=0"
    )
    return project.module("in_time", source).main.run(show=False)


@pytest.mark.slow
def test_a_step_that_runs_past_its_deadline_is_ended_and_not_tried_again(project: Project) -> None:
    with pytest.raises(FlowFailed, match=r"its deadline .* has passed"):
        run(project, does=WAITS, of_step='deadline="3s", retries=5')
    (failed,) = project.flows.list(limit=1)
    graph = project.flows.graph(failed.id)
    (call,) = (call for call in graph.calls if call.name == "fit")
    assert (call.state, call.failure.kind) == (CallState.failed, ExitKind.over_time)  # type: ignore[union-attr]
    assert call.attempt <= 1
    assert "has passed" in {reason.call: reason.reason for reason in project.flows.why(failed.id)}["fit#0"]


@pytest.mark.slow
def test_a_run_that_is_not_done_by_its_deadline_is_ended_as_a_whole(project: Project) -> None:
    with pytest.raises(FlowFailed, match=r"its deadline .* has passed"):
        run(project, does=WAITS, of_flow='deadline="3s"')
    (failed,) = project.flows.list(limit=1)
    assert failed.state is RunState.failed
    assert not any(call.state.is_open for call in project.flows.graph(failed.id).calls)


@pytest.mark.slow
def test_a_run_that_is_done_in_time_never_hears_of_its_deadline(project: Project) -> None:
    assert run(project, of_flow='deadline="1h"', of_step='deadline="2030-01-01T00:00+01:00"') == 7
    with pytest.raises(Refused, match="step 'fit' of flow 'main' cannot be done in time: its deadline 2001"):
        run(project, of_step='deadline="2001-01-01T00:00Z"')


@pytest.mark.slow
def test_a_step_whose_record_says_that_it_will_be_late_says_so(project: Project) -> None:
    at = Instant(10**15)
    report = JobReport(
        "old/slow#0@1", "slow", "local", at, after(at, 7200), Exit(ExitKind.ok), Usage(7200.0), Held(1.0)
    )
    project.compute.record((report,))
    assert run(project, of_step='name="slow", deadline="1h"') == 7
    (done,) = project.flows.list(limit=1)
    reasons = [event.reason for event in project.flows.events(done.id) if event.call == "slow#0"]
    assert any("cannot be met: 95 % of its" in reason for reason in reasons), reasons
