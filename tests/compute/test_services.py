"""Services are started once, asked, started again when they fail, drained, and given up in the end."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from urllib.request import urlopen

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.compute.test_local_engine import UNIT, eventually, is_gone

from fourfold.adapters.local_engine import LocalEngine
from fourfold.adapters.system_clock import SystemClock
from fourfold.catalog.database import Catalog
from fourfold.core.compute import JobReport
from fourfold.core.decide.serving import (
    Answered,
    Ended,
    Event,
    Running,
    Stop,
    Submit,
    Tick,
    Wanted,
    again,
    decide,
    wait_s,
)
from fourfold.core.errors import NotFound, Refused
from fourfold.core.jobs import Exit, ExitKind
from fourfold.core.ports.engine import Launch
from fourfold.core.serving import Probe, Restarts, ServicePhase, ServiceSpec, ServiceState, service_key
from fourfold.core.times import Instant, after
from fourfold.foundation.compute.serving.keeper import ServiceKeeper
from fourfold.foundation.compute.serving.service import ServiceDesk
from fourfold.foundation.compute.serving.tables import ServiceTables
from fourfold.testing.clock import MovableClock
from fourfold.testing.engine import Course, FakeEngine

SPEC = ServiceSpec("web", ("serve",), probe=Probe(ready_within_s=30), restarts=Restarts(most_in_row=3))
FAILED = Exit(ExitKind.failed, "exit status 1", 1)

EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.booleans().map(Wanted),
    st.just(Running("here:1")),
    st.builds(Ended, st.sampled_from([FAILED, None]), st.booleans()),
    st.booleans().map(Answered),
    st.just(Tick()),
)


@pytest.mark.property
@given(st.lists(st.tuples(EVENTS, st.floats(0, 100)), max_size=60))
def test_a_service_never_has_two_processes_and_none_that_nobody_wants(
    events: list[tuple[Event, float]],
) -> None:
    state, now = ServiceState(), Instant(0)
    live: set[str] = set()
    for event, wait in events:
        now = after(now, wait)
        if isinstance(event, Ended):
            if not state.has_process:
                continue
            live.clear()
        before = state
        state, commands = decide(SPEC, state, event, now)
        for command in commands:
            assert command.reason
            assert command.key == service_key("web", state.generation)
            if isinstance(command, Submit):
                assert not live, "the last one had not ended"
                assert state.is_wanted
                live.add(command.key)
            else:
                assert isinstance(command, Stop)
                assert state.phase is ServicePhase.ending
        assert state.generation - before.generation in (0, 1)
        assert state.failures_in_row <= SPEC.restarts.most_in_row + 1
        assert state.has_process == bool(live)
        assert not (state.phase is ServicePhase.ready and not live)
        if state.phase is ServicePhase.waiting:
            assert state.next_at is not None
            assert state.next_at <= after(now, SPEC.restarts.most_wait_s)
        if not state.is_wanted:
            assert state.phase in (ServicePhase.stopped, ServicePhase.ending, ServicePhase.given_up)
        assert {command.key for command in again(SPEC, state)} <= live


@pytest.mark.property
@given(st.integers(1, 10_000))
def test_the_wait_grows_and_is_bounded(count: int) -> None:
    assert 0 < wait_s(Restarts(), count) <= wait_s(Restarts(), count + 1) <= Restarts().most_wait_s


class World:
    """A keeper over an engine in memory; what services answer is said here."""

    def __init__(self, catalog: Catalog, clock: MovableClock) -> None:
        self.clock = clock
        self.tables = ServiceTables(catalog)
        self.engine = FakeEngine(clock, course=self._course)
        self.desk = ServiceDesk(catalog, clock, engine=lambda: self.engine)
        self.lasts_s = 1e7
        self.is_well = True
        self.reports: list[JobReport] = []
        self.keeper = self.new_keeper("one")

    def new_keeper(self, name: str) -> ServiceKeeper:
        return ServiceKeeper(
            self.tables,
            lambda: self.engine,
            self.clock,
            name=name,
            record=self._record,
            probe=lambda address, probe: (self.is_well, "" if self.is_well else "refused"),
        )

    def _course(self, launch: Launch) -> Course:
        return Course(self.lasts_s, exit_code=1)

    def _record(self, reports: Sequence[JobReport]) -> None:
        self.reports += reports

    def start(self) -> None:
        self.desk.start("web", ("serve",), env={}, cwd="", probe="tcp", path="/", ready_within_s=30)

    def pass_s(self, seconds: float, step_s: float = 0.5) -> None:
        for _ in range(round(seconds / step_s)):
            self.clock.advance(step_s)
            self.keeper.step()

    @property
    def state(self) -> ServiceState:
        return self.desk.service("web").state

    def is_in(self, phase: ServicePhase) -> bool:
        return self.state.phase is phase


@pytest.fixture
def world(catalog: Catalog, clock: MovableClock) -> World:
    return World(catalog, clock)


def test_a_service_is_ready_when_it_answers_and_has_its_address(world: World) -> None:
    world.is_well = False
    world.start()
    world.pass_s(5)
    assert world.is_in(ServicePhase.starting)
    world.is_well = True
    world.pass_s(1)
    assert (world.state.phase, world.state.address) == (ServicePhase.ready, "fake:1024")
    assert world.desk.service("web").is_kept
    world.start()  # asked for twice, started once
    world.pass_s(5)
    assert world.engine.launched == ("service/web/1",)


def test_what_fails_is_started_again_later_each_time_and_given_up_in_the_end(world: World) -> None:
    world.lasts_s = 0.6
    world.start()
    world.pass_s(700)
    assert world.is_in(ServicePhase.given_up)
    assert world.state.reason == "failed 11 times in a row: exit status 1"
    assert len(world.engine.launched) == 11
    starts = [report.started_at for report in world.reports]
    waits = [(two - one) / 1e6 for one, two in pairwise(starts)]
    assert waits == sorted(waits)
    world.lasts_s = 1e7
    world.start()
    world.pass_s(2)
    assert world.is_in(ServicePhase.ready)


def test_what_no_longer_answers_is_ended_and_started_again(world: World) -> None:
    world.start()
    world.pass_s(10)
    world.is_well = False
    world.pass_s(14)
    world.is_well = True
    world.pass_s(10)
    assert world.engine.launched == ("service/web/1", "service/web/2")
    assert world.is_in(ServicePhase.ready)
    assert world.reports[0].exit.kind is ExitKind.cancelled
    assert world.reports[0].kind == "service"


def test_what_is_not_ready_in_time_is_ended_with_what_it_was_told(world: World) -> None:
    world.is_well = False
    world.start()
    world.pass_s(31)
    assert world.is_in(ServicePhase.waiting)
    assert world.state.reason == "it was not ready within 30 s: refused"


def test_one_that_was_steady_starts_counting_anew(world: World) -> None:
    world.lasts_s = 70
    world.start()
    world.pass_s(400)
    assert world.state.failures_in_row <= 1
    assert len(world.engine.launched) >= 5


def test_stopping_drains_and_forgetting_needs_it_stopped(world: World) -> None:
    world.start()
    world.pass_s(2)
    with pytest.raises(Refused, match="stop it first: fourfold service stop web"):
        world.desk.stop("web", remove=True)
    world.desk.stop("web")
    assert world.is_in(ServicePhase.ending)
    world.pass_s(1)
    assert world.is_in(ServicePhase.stopped)
    world.pass_s(100)
    assert world.engine.launched == ("service/web/1",)
    world.desk.stop("web", remove=True)
    with pytest.raises(NotFound, match="there is no service 'web'"):
        world.desk.service("web")


def test_what_somebody_asks_meanwhile_is_not_written_over(world: World) -> None:
    world.start()
    before = world.tables.get("web")
    assert before is not None
    world.desk.stop("web")
    assert world.tables.put(before, replace(before.state, phase=ServicePhase.ready)) is None
    assert not world.tables.remove(before)
    assert world.is_in(ServicePhase.ending)


def test_a_keeper_that_comes_after_one_that_died_starts_nothing_twice(world: World) -> None:
    world.start()
    world.pass_s(2)
    other = world.new_keeper("two")
    other.step()  # the first one's lease still stands
    assert world.tables.all()[0].keeper == "one"
    world.clock.advance(60)
    other.step()
    other.step()
    assert world.tables.all()[0].keeper == "two"
    assert world.engine.launched == ("service/web/1",)
    assert world.is_in(ServicePhase.ready)


def test_a_start_that_was_written_but_not_carried_out_is_carried_out_once(world: World) -> None:
    world.start()
    world.engine.fail_next("submit", effect="after")  # it starts, and the answer is lost
    world.keeper.step()
    world.clock.advance(60)
    world.keeper = world.new_keeper("two")
    world.pass_s(3)
    assert world.engine.launched == ("service/web/1",)
    assert world.is_in(ServicePhase.ready)


def test_what_ends_with_its_keeper_does_not_count_as_failed(world: World) -> None:
    world.start()
    for number in range(20):
        world.pass_s(3)
        assert world.is_in(ServicePhase.ready)
        world.engine.crash()
        world.clock.advance(60)
        world.keeper = world.new_keeper(f"next {number}")
    assert world.state.failures_in_row == 0


def test_a_refusal_of_the_engine_is_told(world: World) -> None:
    desk, tables = world.desk, world.tables
    world.start()
    kept = tables.get("web")
    assert kept is not None
    tables.put(kept, kept.state, replace(kept.spec, argv=("",)))
    world.pass_s(1)
    assert "has no command" in desk.service("web").state.reason


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "Web Server"}, "is no name for a service"),
        ({"argv": ()}, "has no command"),
        ({"probe": "ping"}, "take tcp, http, none"),
    ],
)
def test_what_cannot_be_a_service_is_refused(world: World, change: dict[str, object], words: str) -> None:
    asked: dict[str, object] = {"name": "web", "argv": ("serve",), "probe": "tcp", **change}
    start: Callable[..., object] = world.desk.start
    with pytest.raises(Refused, match=words):
        start(asked["name"], asked["argv"], env={}, cwd="", probe=asked["probe"], path="/", ready_within_s=30)
    world.start()
    with pytest.raises(Refused, match="runs with another command"):
        world.desk.start("web", ("other",), env={}, cwd="", probe="tcp", path="/", ready_within_s=30)


SERVER = (
    "import os, sys; from http.server import HTTPServer, SimpleHTTPRequestHandler as Handler; "
    "print('serving', os.getpid(), flush=True); "
    "HTTPServer(('127.0.0.1', int(os.environ['FOURFOLD_PORT'])), Handler).serve_forever()"
)


@pytest.mark.slow
def test_a_real_server_is_kept_although_it_is_killed(catalog: Catalog, tmp_path: Path) -> None:
    clock = SystemClock()

    def engine() -> LocalEngine:
        return LocalEngine(tmp_path / "jobs", unit=UNIT, cwd=tmp_path)

    desk = ServiceDesk(catalog, clock, engine=engine)
    keeper = ServiceKeeper(ServiceTables(catalog), engine, clock, name="one", record=lambda reports: None)
    keeper.start()
    argv = (sys.executable, "-c", SERVER)
    desk.start("files", argv, env={}, cwd=str(tmp_path), probe="http", path="/", ready_within_s=60)
    try:
        eventually(lambda: desk.service("files").state.phase is ServicePhase.ready, within_s=60)
        (tmp_path / "hello.txt").write_text("hello")
        address = desk.service("files").state.address
        with urlopen(f"http://{address}/hello.txt") as answer:
            assert answer.read() == b"hello"
        first = int(desk.logs("files").text.split()[1])
        os.kill(first, signal.SIGKILL)
        eventually(lambda: desk.service("files").state.generation == 2, within_s=60)
        eventually(lambda: desk.service("files").state.phase is ServicePhase.ready, within_s=60)
        second = int(desk.logs("files").text.split()[1])
        desk.stop("files")
        eventually(lambda: desk.service("files").state.phase is ServicePhase.stopped, within_s=60)
        assert is_gone(second)
    finally:
        keeper.close()
    assert not desk.service("files").is_kept
