"""Services are started once, asked, started again when they fail, drained, and given up in the end."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourfold.catalog.database import Catalog
from fourfold.core.compute import JobReport
from fourfold.core.decide.serving import (
    Answered,
    Ended,
    Event,
    Held,
    Renewed,
    Running,
    Stop,
    Submit,
    Tick,
    Wanted,
    again,
    decide,
    wait_s,
)
from fourfold.core.errors import NotFound, Refused, Unavailable
from fourfold.core.jobs import Exit, ExitKind
from fourfold.core.ports.engine import Launch, Offer
from fourfold.core.serving import (
    MOST_STARTS,
    Probe,
    Restarts,
    ServicePhase,
    ServiceSpec,
    ServiceState,
    service_key,
)
from fourfold.core.times import Instant, after
from fourfold.foundation.compute.serving.asking import asked
from fourfold.foundation.compute.serving.keeper import ServiceKeeper
from fourfold.foundation.compute.serving.pools import ServicePool, ServicePools
from fourfold.foundation.compute.serving.service import ServiceDesk
from fourfold.foundation.compute.serving.tables import ServiceTables
from fourfold.testing.clock import MovableClock
from fourfold.testing.engine import Course, FakeEngine

SPEC = ServiceSpec("web", ("serve",), probe=Probe(ready_within_s=30), restarts=Restarts(most_in_row=3))
HERE = Offer("local", 4, 16 << 30)
LAB_UNIT = Offer("node1", 8, 64 << 30, price_usd_per_hour=2.0)
FAILED = Exit(ExitKind.failed, "exit status 1", 1)

EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.booleans().map(Wanted),
    st.just(Renewed("changed")),
    st.builds(Running, st.sampled_from(["", "here:1"]), st.sampled_from(["", "lab/node1"])),
    st.sampled_from(["", "the pool is away"]).map(Held),
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
        assert state.generation == sum(isinstance(each, Submit) for each in commands) + before.generation
        assert [each.generation for each in state.starts] == sorted(each.generation for each in state.starts)
        assert len(state.starts) == min(state.generation, MOST_STARTS)
        if state.starts:
            present = state.starts[-1]
            assert present.generation == state.generation
            assert (present.ended_at is None) == state.has_process
            assert (present.end != "") == (not state.has_process)
        if before.fault and state.fault:
            assert state.failures_in_row == before.failures_in_row or isinstance(
                event, Ended | Wanted | Renewed
            )
            assert isinstance(event, Ended | Wanted | Renewed) or not commands
        assert {command.key for command in again(SPEC, state)} <= live


@pytest.mark.property
@given(st.integers(1, 10_000))
def test_the_wait_grows_and_is_bounded(count: int) -> None:
    assert 0 < wait_s(Restarts(), count) <= wait_s(Restarts(), count + 1) <= Restarts().most_wait_s


LONG_S = 60.0
"""A look of an engine in memory is awaited so long, on however busy a machine."""


class World:
    """A keeper over engines in memory; what services answer is said here."""

    def __init__(self, catalog: Catalog, clock: MovableClock) -> None:
        self.clock = clock
        self.tables = ServiceTables(catalog)
        self.engine = FakeEngine(clock, offers=(HERE,), course=self._course)
        self.lab = FakeEngine(clock, offers=(LAB_UNIT,), course=self._course)
        self.away = ""
        self.pools = ServicePools(
            {
                "local": ServicePool("local", lambda: self.engine),
                "lab": ServicePool("lab", self._open_lab, is_here=False, listens_at="0.0.0.0"),
            },
            here="local",
        )
        self.desk = ServiceDesk(catalog, clock, self.pools)
        self.lasts_s = 1e7
        self.is_well = True
        self.reports: list[JobReport] = []
        self.keeper = self.new_keeper("one")

    def new_keeper(self, name: str) -> ServiceKeeper:
        return ServiceKeeper(
            self.tables,
            self.pools,
            self.clock,
            name=name,
            record=self._record,
            ask=lambda address, probe: (self.is_well, "" if self.is_well else "refused"),
            patience_s=LONG_S,
        )

    def _open_lab(self) -> FakeEngine:
        if self.away:
            raise Unavailable(self.away)
        return self.lab

    def _course(self, launch: Launch) -> Course:
        return Course(self.lasts_s, exit_code=1)

    def _record(self, reports: Sequence[JobReport]) -> None:
        self.reports += reports

    def start(self, *argv: str, **words: str) -> None:
        self.desk.start(asked("web", argv or ("serve",), ready_within_s=30, **words))  # type: ignore[arg-type]

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
    world.pass_s(700, step_s=1.0)
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
    world.pass_s(31.5)
    assert world.is_in(ServicePhase.waiting)
    assert world.state.reason == "it was not ready within 30 s: refused"


def test_one_that_was_steady_starts_counting_anew(world: World) -> None:
    world.lasts_s = 70
    world.start()
    world.pass_s(400, step_s=1.0)
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


def test_two_keepers_at_once_start_each_service_once(world: World) -> None:
    names = [f"web-{number}" for number in range(8)]
    for name in names:
        world.desk.start(asked(name, ("serve",)))
    keepers = [world.new_keeper("one"), world.new_keeper("two")]
    at_once = threading.Barrier(2)

    def keep(keeper: ServiceKeeper) -> None:
        for _ in range(4):
            at_once.wait(LONG_S)
            keeper.step()

    threads = [threading.Thread(target=keep, args=(keeper,)) for keeper in keepers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(world.engine.launched) == [f"service/{name}/1" for name in names]
    kept = world.tables.all()
    assert len({each.keeper for each in kept}) == 1, "who came first has them all"
    assert {each.state.generation for each in kept} == {1}


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
        ({"path": "/a b"}, "is no path to ask for"),
        ({"path": "/\r\nHost: other"}, "is no path to ask for"),
        ({"drain_s": -1.0}, "cannot be drained for -1 s"),
        ({"ready_within_s": float("nan")}, "cannot become ready within nan s"),
        ({"cpu": "two"}, "is not a number or a range"),
        ({"arch": "x86_46"}, "did you mean 'x86_64'"),
    ],
)
def test_what_cannot_be_a_service_is_refused(change: dict[str, object], words: str) -> None:
    given: dict[str, object] = {"name": "web", "argv": ("serve",), **change}
    with pytest.raises(Refused, match=words):
        asked(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cpu": "100"}, "service 'web' asks for 100 cores, but no unit can ever give more than 8"),
        ({"gpu": "h100"}, "asks for 1 GPUs, but no unit can ever give more than 0"),
        ({"pool": "lap"}, "the settings name no pool 'lap'\n  did you mean 'lab'"),
    ],
)
def test_what_no_unit_of_its_pool_can_give_is_refused_at_once(
    world: World, change: dict[str, str], words: str
) -> None:
    with pytest.raises(Refused, match=words):
        world.start(**{"pool": "lab", **change})
    assert world.desk.services() == ()


def test_a_service_runs_on_the_pool_it_names_and_is_paid_for_there(world: World) -> None:
    world.start(pool="lab", memory="2GiB")
    world.pass_s(2)
    assert (world.state.phase, world.state.unit) == (ServicePhase.ready, "lab/node1")
    assert (world.engine.launched, world.lab.launched) == ((), ("service/web/1",))
    world.desk.stop("web")
    world.pass_s(4)
    (report,) = world.reports
    assert (report.unit, report.held.memory_bytes) == ("lab/node1", 2 << 30)
    assert report.whole is not None
    assert report.whole.cpu == 8


def test_services_wait_while_their_pool_is_away_and_others_go_on(world: World) -> None:
    world.away = "the head does not answer"
    world.start(pool="lab")
    world.desk.start(asked("here", ("serve",)))
    world.pass_s(100, step_s=1.0)
    assert world.is_in(ServicePhase.starting)
    assert world.state.fault == "pool 'lab' cannot be used now: the head does not answer"
    assert world.desk.service("here").state.phase is ServicePhase.ready
    world.away = ""
    world.pass_s(5)
    assert (world.state.phase, world.state.fault, world.state.failures_in_row) == (ServicePhase.ready, "", 0)
    assert world.lab.launched == ("service/web/1",)


def test_one_that_is_ready_stays_so_while_its_engine_cannot_be_asked(world: World) -> None:
    world.start(pool="lab")
    world.pass_s(5)
    for _ in range(40):
        world.lab.fail_next("status")
        world.pass_s(3)
    assert (world.state.phase, world.state.generation) == (ServicePhase.ready, 1)
    assert "answer to 'status' was lost" in world.state.fault
    world.is_well = False  # nor does it answer: nobody knows whether it lives, so nobody starts another
    for _ in range(40):
        world.lab.fail_next("status")
        world.pass_s(3)
    assert world.lab.launched == ("service/web/1",)


def test_a_start_that_a_pool_does_not_take_yet_is_asked_again(world: World) -> None:
    for _ in range(3):
        world.lab.fail_next("submit")
        if not world.desk.services():
            world.start(pool="lab")
        world.pass_s(3)
        assert world.is_in(ServicePhase.starting)
        assert "answer to 'submit' was lost" in world.state.fault
    world.pass_s(10)
    assert (world.state.phase, world.state.fault, world.state.generation) == (ServicePhase.ready, "", 1)


def test_a_stop_that_a_pool_did_not_hear_is_said_again(world: World) -> None:
    world.start(pool="lab")
    world.pass_s(5)
    world.lab.fail_next("stop")
    world.desk.stop("web")
    world.pass_s(12)
    assert world.is_in(ServicePhase.stopped)


def test_a_changed_service_is_drained_and_started_anew_also_on_another_pool(world: World) -> None:
    world.start()
    world.pass_s(2)
    world.start("serve", "--better", pool="lab")
    assert world.is_in(ServicePhase.ending)
    world.pass_s(10)
    assert (world.state.phase, world.state.unit, world.state.generation) == (
        ServicePhase.ready,
        "lab/node1",
        2,
    )
    assert (world.engine.launched, world.lab.launched) == (("service/web/1",), ("service/web/2",))
    assert world.state.failures_in_row == 0
    one, two = world.state.starts
    assert (one.why, one.unit, one.end) == ("asked for", "local", "it was changed")
    assert (two.why, two.pool, two.unit, two.end) == ("it was changed", "lab", "lab/node1", "")


def test_a_service_is_started_again_when_asked_and_the_last_start_has_ended_before(world: World) -> None:
    world.start()
    world.pass_s(2)
    world.desk.restart("web")
    world.desk.restart("web")
    world.pass_s(3)
    assert world.engine.launched == ("service/web/1", "service/web/2")
    assert world.is_in(ServicePhase.ready)
    one, two = world.reports[0], world.state.starts[1]
    assert one.ended_at <= two.asked_at
    world.desk.stop("web")
    world.pass_s(2)
    world.desk.restart("web")
    world.pass_s(2)
    assert world.is_in(ServicePhase.ready)


def test_a_service_that_is_forgotten_and_asked_for_again_uses_no_key_twice(world: World) -> None:
    world.start()
    world.pass_s(2)
    world.desk.stop("web")
    world.pass_s(2)
    world.desk.stop("web", remove=True)
    world.start()
    world.pass_s(2)
    assert world.engine.launched == ("service/web/1", "service/web/2")
    assert world.is_in(ServicePhase.ready)
    assert len(world.state.starts) == 1


def test_a_service_of_a_pool_that_the_settings_no_longer_name_waits_for_it(
    world: World, catalog: Catalog
) -> None:
    world.start(pool="lab")
    world.pass_s(3)
    world.clock.advance(60)
    world.pools = ServicePools({"local": ServicePool("local", lambda: world.engine)}, here="local")
    world.keeper = world.new_keeper("two")
    world.pass_s(3)
    assert "the settings name no pool 'lab'" in world.state.fault
    assert world.is_in(ServicePhase.ready)


def test_a_keeper_that_lost_its_services_ends_what_only_it_can_see(world: World) -> None:
    own = FakeEngine(world.clock, course=world._course)
    own.capabilities = lambda: replace(world.engine.capabilities(), survives_control_restart=False)  # type: ignore[method-assign]
    world.pools = ServicePools({"local": ServicePool("local", lambda: own)}, here="local")
    slept = world.new_keeper("slept")
    world.start()
    slept.step()
    slept.step()
    world.clock.advance(60)
    world.keeper = world.new_keeper("two")
    world.keeper.step()
    assert own.launched == ("service/web/1",)
    slept.step()
    slept.step()
    assert own.status(["service/web/1"])["service/web/1"].exit is not None


def test_what_waits_in_its_engines_queue_is_not_late(world: World) -> None:
    world.start()
    world.pass_s(1)
    kept = world.tables.get("web")
    assert kept is not None
    state = replace(kept.state, phase=ServicePhase.starting, late_from=None)
    for seconds in (1, 100, 10_000):
        later, commands = decide(kept.spec, state, Tick(), after(world.clock.now(), seconds))
        assert (later, commands) == (state, ())
    running, _ = decide(kept.spec, state, Running("here:1"), world.clock.now())
    late, (stop,) = decide(kept.spec, running, Tick(), after(world.clock.now(), 31))
    assert isinstance(stop, Stop)
    assert late.reason == "it was not ready within 30 s"


def test_a_unit_that_went_away_after_the_start_is_waited_for(world: World) -> None:
    world.start(pool="lab")
    world.pass_s(3)
    world.lab._offers = (Offer("small", 0.5, 1 << 30),)
    world.lab.lose("service/web/1")
    world.pass_s(120, step_s=1.0)
    assert (world.state.phase, world.state.failures_in_row) == (ServicePhase.starting, 1)
    assert world.state.fault == "no unit of pool 'lab' can give now what it asks for"
    world.lab._offers = (LAB_UNIT,)
    world.pass_s(8)
    assert (world.state.phase, world.state.fault) == (ServicePhase.ready, "")
