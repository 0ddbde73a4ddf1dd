"""Flows end to end: the real loop, the real engine, real worker processes."""

from __future__ import annotations

import datetime as dt
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fourfold.core.catalog import acting_as
from fourfold.core.context import Ref
from fourfold.core.errors import Conflict, NotFound, Refused
from fourfold.core.flows import CallKey, FlowCancelled, FlowFailed, FlowRun, RunState
from fourfold.core.jobs import ExitKind
from fourfold.core.times import parse_instant
from fourfold.resources.flows import codec
from fourfold.resources.flows.calls import result_of
from fourfold.testing.clock import MovableClock

from .conftest import Project, opened

SOURCE = """
import datetime as dt
import enum
import os
import subprocess
import sys
import time
from fourfold.core import context
from fourfold.core.context import Ref
from fourfold.core.errors import Refused


def mark(name, text=""):
    with open(name, "a") as file:
        file.write(f"{text}\\n")


@ff.step
def add(a, b):
    print("adding", a, b)
    return a + b


@ff.step
def total(numbers):
    return sum(numbers)


@ff.flow
def sums(n: int = 3):
    parts = [add(i, 1) for i in range(n)]
    whole = total(parts)
    if whole.result() > 5:
        return add(whole, 100)
    return whole.result()


class Size(enum.Enum):
    small = "s"
    large = "l"


@ff.flow
def typed(day: dt.date, depths: list[int] = [3, 5], size: Size = Size.small, share: float = 0.5):
    assert all(type(depth) is int for depth in depths) and type(share) is float
    return [day.isoformat(), depths, size.name, share]


@ff.step(retries=2, backoff="10ms")
def shaky(name, failures):
    mark(name)
    if sum(1 for _ in open(name)) <= failures:
        raise OSError("the line was busy")
    return name


@ff.step(retries=5, backoff="10ms")
def hopeless(name):
    mark(name)
    raise Refused("no such thing", ways_on=["do another thing"])


@ff.flow
def retried(name: str, failures: int):
    return shaky(name, failures)


@ff.flow
def given_up(name: str):
    return hopeless(name)


@ff.step
def apology(text):
    mark("apologies", text)


@ff.flow(on_failure=apology)
def sorry(name: str):
    bad = shaky(name, 99)
    after = total([bad, 1])
    return after.result()


@ff.step(timeout="200ms")
def slow():
    time.sleep(60)


@ff.flow
def overdue():
    return slow()


@ff.step
def sleeper(name):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    mark(name, f"{os.getpid()} {child.pid}")
    time.sleep(60)


@ff.flow
def endless(name: str):
    later = add(sleeper(name), 1)
    return later


@ff.step(cache=True)
def dear(name, x):
    context.record_read(Ref("table", f"raw {name}", "7"))
    mark(name)
    return 2 * x


@ff.flow
def cached(name: str, x: int = 1):
    return add(dear(name, x), 0)


@ff.step(memory="64TiB")
def huge():
    pass


@ff.flow
def impossible():
    return huge()


@ff.step
def wide(n):
    return bytes(n)


@ff.step
def length(data):
    return len(data)


@ff.flow
def large(n: int):
    made = wide(n)
    return [length(made), length(made.result())]


@ff.step
def gate(name, *facts):
    if not os.path.exists(name):
        raise OSError(f"{name} is shut")
    return facts


@ff.flow
def remembers(name: str):
    mark("bodies")
    first = add(1, 1).result()
    both = [f.result() for f in ff.as_completed([add(3, 0), add(4, 0)])]
    return gate(name, first, ff.now(), ff.random(), both)


@ff.flow
def strays(name: str):
    add(time.time(), 1)
    return gate(name)


@ff.flow
def exits():
    @ff.step
    def inner():
        pass
    sys.exit(3)


@ff.flow
def unstorable():
    return opener()


@ff.step
def opener():
    return open(os.devnull)


@ff.flow(schedule=ff.cron("30 3 * * *", tz="America/New_York"))
def nightly(day: dt.date = ff.scheduled_day):
    return add(day.isoformat(), "")
"""


@pytest.fixture(scope="module")
def shop(project: Project) -> ModuleType:
    return project.module("shop", SOURCE)


def newest(project: Project, flow: str) -> Any:
    return project.flows.list(flow, limit=1)[0]


def test_a_flow_of_steps_loops_and_conditions_gives_its_result(project: Project, shop: ModuleType) -> None:
    assert shop.sums.run(n=3) == 106
    assert shop.sums.run(n=1) == 1
    run = project.flows.list("sums")[1]
    assert run.state is RunState.succeeded
    assert project.calls(run.id) == {
        "flow": "succeeded",
        "add#0": "succeeded",
        "add#1": "succeeded",
        "add#2": "succeeded",
        "total#0": "succeeded",
        "add#3": "succeeded",
    }
    graph = project.flows.graph(run.id)
    assert {call.key: call.deps for call in graph.calls}[CallKey("total#0")] == ("add#0", "add#1", "add#2")
    assert project.flows.logs(run.id, call="add#1").text == "adding 1 1\n"


def test_every_attempt_is_a_metered_job_with_its_cost(project: Project, shop: ModuleType) -> None:
    shop.sums.run(n=2)
    run = newest(project, "sums")
    graph = project.flows.graph(run.id)
    jobs = {job.report.key: job for job in project.compute.jobs(run.id)}
    assert set(jobs) == {attempt.key for attempt in graph.attempts}
    for job in jobs.values():
        assert job.report.usage.wall_s > 0
        assert job.report.usage.memory_peak_bytes
        assert job.report.exit.kind is ExitKind.ok
        assert (job.account.cost_nanousd > 0) is (job.report.kind == "step")
    assert all(attempt.cost_nanousd == jobs[attempt.key].account.cost_nanousd for attempt in graph.attempts)


def test_parameters_are_converted_by_annotation(shop: ModuleType) -> None:
    assert shop.typed.run(day="2013-01-05") == ["2013-01-05", [3, 5], "small", 0.5]
    made = shop.typed.run(day=dt.date(2013, 1, 6), depths=[1], size=shop.Size.large, share=1)
    assert made == ["2013-01-06", [1], "large", 1.0]


def test_a_wrong_parameter_is_refused_before_anything_is_written(project: Project, shop: ModuleType) -> None:
    before = project.flows.list()
    with pytest.raises(Refused, match=r"flow 'typed' has no parameter 'dya'\n  did you mean 'day'\?"):
        shop.typed.run(dya="2013-01-05")
    with pytest.raises(Refused, match="'day' of flow 'typed' takes date, not 'yesterday'"):
        shop.typed.run(day="yesterday")
    with pytest.raises(Refused, match="flow 'typed' needs a value for 'day'"):
        shop.typed.run()
    assert project.flows.list() == before


def test_a_failed_step_is_tried_again_as_often_as_allowed(project: Project, shop: ModuleType) -> None:
    assert shop.retried.run(name="shaky-2", failures=2) == "shaky-2"
    run = newest(project, "retried")
    attempts = [each for each in project.flows.graph(run.id).attempts if each.call == "shaky#0"]
    exits = [each.exit.kind.value for each in attempts if each.exit is not None]
    assert exits == ["failed", "failed", "ok"]
    with pytest.raises(FlowFailed, match="OSError: the line was busy") as caught:
        shop.retried.run(name="shaky-3", failures=3)
    assert isinstance(caught.value.__cause__, OSError)
    assert project.count("shaky-3") == 3


def test_what_trying_again_cannot_help_is_not_tried_again(project: Project, shop: ModuleType) -> None:
    with pytest.raises(FlowFailed, match="no such thing"):
        shop.given_up.run(name="hopeless")
    assert project.count("hopeless") == 1


def test_a_failure_shows_its_traceback_and_reaches_those_who_wait_for_it(
    project: Project, shop: ModuleType
) -> None:
    with pytest.raises(FlowFailed, match="the line was busy"):
        shop.sorry.run(name="sorry")
    run = newest(project, "sorry")
    calls = {call.key: call for call in project.flows.graph(run.id).calls}
    assert calls[CallKey("total#0")].state.value == "upstream_failed"
    failure = calls[CallKey("shaky#0")].failure
    assert failure is not None
    assert 'raise OSError("the line was busy")' in failure.traceback
    assert "runner" not in failure.traceback
    assert "the line was busy" in project.flows.logs(run.id, call="shaky#0").text
    assert project.count("apologies") == 1
    told = {reason.call: reason.reason for reason in project.flows.why(run.id)}
    assert told["shaky#0"] == "OSError: the line was busy (try 3 of 3)"
    assert told["total#0"] == "its input shaky#0 failed"


def test_a_step_over_its_time_is_ended(project: Project, shop: ModuleType) -> None:
    with pytest.raises(FlowFailed, match="it ran longer than 200 ms"):
        shop.overdue.run()
    (attempt,) = [
        each for each in project.flows.graph(newest(project, "overdue").id).attempts if each.call == "slow#0"
    ]
    assert attempt.exit is not None
    assert attempt.exit.kind is ExitKind.over_time


def test_cancellation_reaches_every_process(project: Project, shop: ModuleType) -> None:
    run = shop.endless.submit(name="sleepers")
    while project.count("sleepers") == 0:
        time.sleep(0.005)
    pids = (project.folder / "sleepers").read_text().split()
    cancelled = project.flows.cancel(run.id, why="enough")
    assert (cancelled.state, cancelled.reason) == (RunState.cancelled, "enough")
    assert project.flows.cancel(run.id).reason == "enough"
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        time.sleep(0.005)
    assert project.calls(run.id) == {"flow": "cancelled", "sleeper#0": "cancelled", "add#0": "cancelled"}
    while any(attempt.ended_at is None for attempt in project.flows.graph(run.id).attempts):
        time.sleep(0.005)
    run = project.flows.get(run.id)
    with pytest.raises(FlowCancelled, match="enough"):
        result_of(shop.endless, run)


def test_an_equal_call_is_answered_from_the_record(project: Project, shop: ModuleType) -> None:
    assert shop.cached.run(name="dear", x=4) == 8
    assert shop.cached.run(name="dear", x=4) == 8
    run = newest(project, "cached")
    call = project.flows.graph(run.id).calls[1]
    assert (call.state.value, project.count("dear")) == ("cached", 1)
    assert call.cached_from.endswith("/dear#0")
    assert call.reads == (Ref("table", "raw dear", "7"),)
    assert shop.cached.run(name="dear", x=5) == 10
    assert project.count("dear") == 2


def test_a_call_whose_table_has_moved_is_run_again(project: Project, shop: ModuleType) -> None:
    shop.cached.run(name="moved")
    project.versions[Ref("table", "raw moved")] = "8"
    shop.cached.run(name="moved")
    assert project.count("moved") == 2


@pytest.mark.slow
def test_a_call_whose_code_has_changed_is_run_again(project: Project) -> None:
    source = """
from kitchen_part import factor

@ff.step(cache=True)
def cook(x):
    open("cooked", "a").write(".\\n")
    return x * factor

@ff.flow
def meal(x: int = 1):
    return cook(x)
"""
    project.module("kitchen_part", "factor = 2")
    assert project.module("kitchen", source).meal.run() == 2
    assert project.module("kitchen", source).meal.run() == 2
    assert project.count("cooked") == 1
    project.module("kitchen_part", "factor = 30")
    assert project.module("kitchen", source).meal.run() == 30
    assert project.count("cooked") == 2


def test_what_no_unit_can_give_is_refused_at_the_door(project: Project, shop: ModuleType) -> None:
    before = project.flows.list()
    with pytest.raises(Refused, match=r"step 'huge' of flow 'impossible' asks for 64.0 TiB memory") as caught:
        shop.impossible.run()
    assert "nearest unit: local (2 cores, 4.0 GiB)" in str(caught.value)
    assert project.flows.list() == before


@pytest.mark.slow
def test_large_values_travel_by_digest(project: Project, shop: ModuleType) -> None:
    size = 300_000
    assert shop.large.run(n=size) == [size, size]
    calls = {call.key: call for call in project.flows.graph(newest(project, "large").id).calls}
    result = calls[CallKey("wide#0")].result
    assert result is not None
    assert result.inline is None
    assert codec.decode(project.flows.result(newest(project, "large").id, call="wide#0")) == bytes(size)


def test_a_resumed_run_redoes_nothing_and_sees_the_same_time_and_chance(
    project: Project, shop: ModuleType
) -> None:
    run = shop.remembers.submit(name="remembers.gate")
    assert project.flows.wait(run.id).state is RunState.failed
    before = {call.key: call for call in project.flows.graph(run.id).calls}
    (project.folder / "remembers.gate").touch()
    assert project.flows.resume(run.id).state is RunState.queued
    assert project.flows.wait(run.id).state is RunState.succeeded
    after = {call.key: call for call in project.flows.graph(run.id).calls}
    again = {key for key, call in after.items() if call.attempt != before[key].attempt}
    assert again == {"flow", "gate#0"}
    assert project.count("bodies") == 2
    facts = codec.decode(project.flows.result(run.id))
    told = [codec.decode(project.flows.result(run.id, call=call)) for call in ("now#0", "random#0")]
    assert list(facts[:3]) == [2, *told]
    assert sorted(facts[3]) == [3, 4]


def test_a_body_that_strays_from_its_record_is_told_the_line(project: Project, shop: ModuleType) -> None:
    run = shop.strays.submit(name="strays.gate")
    project.flows.wait(run.id)
    (project.folder / "strays.gate").touch()
    project.flows.resume(run.id)
    ended = project.flows.wait(run.id)
    line = next(i for i, text in enumerate(("\n" + SOURCE).splitlines(), 1) if "time.time()" in text)
    assert ended.failure is not None
    assert f"line {line}: add is called with other arguments than on record" in ended.failure.message
    assert "use ff.now()" in ended.failure.traceback + ended.failure.message


def test_a_result_that_cannot_be_stored_is_a_failure_with_words(project: Project, shop: ModuleType) -> None:
    with pytest.raises(FlowFailed, match="the result of step 'opener' holds a 'TextIOWrapper'"):
        shop.unstorable.run()


def test_a_body_that_exits_has_failed(project: Project, shop: ModuleType) -> None:
    with pytest.raises(FlowFailed, match=r"called exit\(3\)"):
        shop.exits.run()


def test_a_key_names_one_run(project: Project, shop: ModuleType) -> None:
    first = shop.sums.submit(key="mine", n=1)
    assert shop.sums.submit(key="mine", n=1).id == first.id
    project.flows.wait(first.id)
    assert shop.sums.submit(key="mine", n=1).id == first.id


def test_a_second_loop_is_refused_and_its_process_becomes_a_client(
    project: Project, shop: ModuleType
) -> None:
    shop.sums.run(n=1)
    other = project.another()
    with pytest.raises(
        Conflict, match=r"process \d+ runs this project's loop already; there is one at a time"
    ):
        other.start_loop()
    run = newest(project, "sums")
    assert other.resume(run.id).state is RunState.succeeded
    started = other.wait(shop.sums.submit(n=1).id)
    assert started.state is RunState.succeeded


def test_a_run_acts_for_who_asked_at_the_door(project: Project, shop: ModuleType) -> None:
    with acting_as("bob"):
        asked = shop.sums.submit(n=1)
    assert project.flows.wait(asked.id).user == "bob"


def test_unknown_names_are_answered_with_near_ones(project: Project, shop: ModuleType) -> None:
    shop.sums.run(n=1)
    run = newest(project, "sums").id
    with pytest.raises(NotFound, match="there is no flow run 'run_nope'"):
        project.flows.get("run_nope")
    with pytest.raises(NotFound, match=r"has made no call 'ad#0'\n  did you mean 'add#0'\?"):
        project.flows.logs(run, call="ad#0")
    with pytest.raises(NotFound, match="no flow 'nightyl' is deployed"):
        project.flows.start("nightyl")


def test_outside_a_flow_a_step_is_its_function(shop: ModuleType) -> None:
    assert shop.add(1, 2) == 3
    assert shop.sums.test(n=3) == 106


@pytest.mark.slow
def test_a_schedule_fires_each_tick_once_while_up_runs(tmp_path: Path) -> None:
    clock = MovableClock(parse_instant("2013-01-01T08:00:00Z"))
    with opened(tmp_path, clock) as project:
        nightly = project.module("nights", SOURCE).nightly
        made = nightly.deploy()
        assert (made.cron, made.tz, made.scheduled_param) == ("30 3 * * *", "America/New_York", "day")
        (listed,) = project.flows.schedules()
        assert (listed.is_firing, listed.next_at) == (False, parse_instant("2013-01-01T08:30:00Z"))
        clock.advance(3600)
        project.flows.schedules()
        assert project.flows.list() == ()
        project.flows.start_loop()
        assert project.flows.schedules()[0].is_firing
        assert [run.params for run in ended(project)] == [{"day": "2013-01-01"}]
        clock.advance(3600)
        project.flows.stop_loop()
        project.flows.start_loop()
        clock.advance(2 * 86400)
        project.flows.schedules()
        assert [run.params["day"] for run in ended(project)] == ["2013-01-03", "2013-01-01"]
        project.flows.pause_schedule("nightly")
        clock.advance(86400)
        assert project.flows.schedules()[0].is_paused
        project.flows.pause_schedule("nightly", is_paused=False)
        assert len(ended(project)) == 2
        with pytest.raises(Refused, match=r"has no parameter 'dya'\n  did you mean 'day'\?"):
            project.flows.start("nightly", params={"dya": "2012-02-03"})
        started = project.flows.wait(project.flows.start("nightly", params={"day": "2012-02-03"}).id)
        assert codec.decode(project.flows.result(started.id)) == "2012-02-03"


def ended(project: Project) -> tuple[FlowRun, ...]:
    """All runs, once they have ended; the newest first."""
    runs = project.flows.list()
    return tuple(project.flows.wait(run.id) for run in runs)
