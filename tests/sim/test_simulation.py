"""The production loop under seeded faults; and proof that the simulator sees what it is there to see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pytest

from fourfold.catalog.database import Catalog
from fourfold.core.decide import flow as rules
from fourfold.core.decide.place import Lease, place
from fourfold.core.decide.rejoin import Rejoin, rejoin
from fourfold.core.decide.retry import Again
from fourfold.core.flows import (
    CallKey,
    CallKind,
    CallState,
    Code,
    Failure,
    FlowRun,
    RunId,
    RunState,
    StepCall,
)
from fourfold.core.jobs import Exit, ExitKind
from fourfold.core.ports.control import Joined, Message, WorkerSpec
from fourfold.core.ports.flow_store import Changes, FlowStore, OpenRun
from fourfold.core.times import Instant
from fourfold.core.values import replace
from fourfold.resources.flows import crew, messages, placing
from fourfold.resources.flows.gangs import Gangs, worker_of
from fourfold.resources.flows.loop import Loop
from fourfold.resources.flows.open_flow import OpenFlow
from fourfold.resources.flows.outbox import Outbox
from fourfold.resources.flows.tables import FlowTables
from fourfold.resources.pools.workers import Worker
from fourfold.sim.__main__ import main
from fourfold.sim.machine import AWAY_S, Machine
from fourfold.sim.simulation import Simulation, simulate
from fourfold.sim.world import FAULTS, Violation
from fourfold.testing.flow_store import MemoryFlowStore

reports = cache(simulate)


@pytest.mark.parametrize("seed", range(35))
def test_whatever_fails_nothing_is_lost_or_done_twice_and_everything_ends(seed: int) -> None:
    reports(seed)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 2000, 100))
def test_the_same_for_many_more_seeds(first: int) -> None:
    for seed in range(first, first + 100):
        simulate(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5000, 5015))
def test_the_same_on_the_real_tables(seed: int, sqlite_catalog: Catalog) -> None:
    on_tables = Simulation(seed, store=FlowTables(sqlite_catalog)).run()
    assert on_tables == simulate(seed), "the store in memory is no easier than the real one"


@pytest.mark.parametrize("seed", [326, 370, 2002])
def test_a_warm_worker_elsewhere_takes_work_only_where_there_is_room(seed: int) -> None:
    """Each of these put a lease on the unit of a warm worker, which was full."""
    simulate(seed)


def test_a_seed_is_one_history() -> None:
    first, second = Simulation(7), Simulation(7)
    assert first.run() == second.run()
    assert first.world.trace == second.world.trace


@pytest.mark.slow
def test_every_fault_happens_somewhere() -> None:
    seen: set[str] = set()
    for seed in range(60):
        seen.update(reports(seed).faults)
    assert seen == set(FAULTS)


def test_the_command_tells_a_history(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", "3"]) == 0
    out = capsys.readouterr().out
    assert "owner 1    starts" in out
    assert "begins run_00001/flow@1" in out
    assert out.splitlines()[-1].startswith("seed 3: ")
    assert main(["--seeds", "1:3"]) == 0
    assert capsys.readouterr().out == "2 of 2 seeds hold\n"


# What is broken on purpose


class DropsACommit(MemoryFlowStore):
    """Says that it has kept what it has not, now and then."""

    count = 0

    def commit(self, epoch: int, changes: Changes) -> None:
        self.count += 1
        if self.count % 10:
            super().commit(epoch, changes)


class WritesHalf(MemoryFlowStore):
    """A commit of which only the runs and calls arrive."""

    def commit(self, epoch: int, changes: Changes) -> None:
        super().commit(
            epoch, Changes(runs=changes.runs, calls=changes.calls, deployments=changes.deployments)
        )


class TakesFromAnybody(MemoryFlowStore):
    """Has no fence between owners."""

    def commit(self, epoch: int, changes: Changes) -> None:
        super().commit(self.rows.epoch, changes)


class KnowsNoKeys(MemoryFlowStore):
    """Does not know the run that an idempotency key names."""

    def run_by_key(self, key: str) -> FlowRun | None:
        return None

    def commit(self, epoch: int, changes: Changes) -> None:
        self.rows.run_of_key.clear()
        super().commit(epoch, changes)


class StartsTwice(Machine):
    """An engine that ignores its idempotency key."""

    def submit(self, name: str, spec: WorkerSpec, owner: int) -> None:
        self._started.discard(name)
        super().submit(name, spec, owner)


class LeavesWorkers(Machine):
    """An engine whose workers outlive their owner."""

    def reap(self) -> None:
        pass

    def owner_died(self) -> None:
        pass


class TakesAnyWord(Loop):
    """Takes each word of a worker for one about its present task."""

    def _from_worker(self, worker: Worker, header: dict[str, Any], parts: list[bytes]) -> None:
        if worker.task is not None and header["type"] in ("finished", "failed"):
            run, key, n = worker.task
            header = {**header, "run": run, "key": key, "n": n}
        super()._from_worker(worker, header, parts)


class ActsAtOnce(Loop):
    """Carries out what it decided before that is stored."""

    class Hasty(Outbox):
        def commit(self, now: Instant) -> bool:
            self.act()
            return super().commit(now)

    def __init__(self, *, store: FlowStore, **options: Any) -> None:
        super().__init__(store=store, **options)
        self._outbox = self.Hasty(store)


class ForgetsWhatItHeld(Loop):
    """Takes over without looking at what is open."""

    def take_over(self, owner: str) -> None:
        self._outbox.epoch = self._store.take_over(owner, self._clock.now())
        self.scheduler.load(self._store.deployments())


class GivesUpOnTheStore(Loop):
    """Goes on as if a commit that failed had been made."""

    class Careless(Outbox):
        def commit(self, now: Instant) -> bool:
            if not super().commit(now):
                self.changes, self._again_at = Changes(), None
            return True

    def __init__(self, *, store: FlowStore, **options: Any) -> None:
        super().__init__(store=store, **options)
        self._outbox = self.Careless(store)


def _no_leases(units: Any, leases: Sequence[Lease], waiting: Any, now: Instant) -> Any:
    return place(units, (), waiting, now)


def _tries_for_ever(call: StepCall, failure: Failure, now: Instant) -> Again:
    return Again(now, "once more", uses_try=True)


def _first_seed_that_sees(make: Callable[[int], Simulation]) -> str:
    for seed in range(300):
        try:
            make(seed).run()
        except (Violation, KeyError) as fault:
            return f"{fault} {fault.__notes__}"
    return "nothing was seen"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (lambda seed: Simulation(seed, store=DropsACommit()), ""),
        (lambda seed: Simulation(seed, store=WritesHalf()), ""),
        (lambda seed: Simulation(seed, store=TakesFromAnybody()), ""),
        (lambda seed: Simulation(seed, store=KnowsNoKeys()), "wish"),
        (lambda seed: Simulation(seed, make_machine=StartsTwice), "still runs"),
        (lambda seed: Simulation(seed, make_machine=LeavesWorkers), "still runs"),
        (lambda seed: Simulation(seed, make_loop=ActsAtOnce), ""),
        (lambda seed: Simulation(seed, make_loop=ForgetsWhatItHeld), "nothing will ever happen again"),
        (lambda seed: Simulation(seed, make_loop=GivesUpOnTheStore), ""),
    ],
    ids=lambda each: "" if isinstance(each, str) else each.__code__.co_names[-1],
)
def test_a_broken_part_is_caught(broken: Callable[[int], Simulation], words: str) -> None:
    seen = _first_seed_that_sees(broken)
    assert words in seen
    assert "python -m fourfold.sim --seed" in seen, "it says how to see it again"


@pytest.mark.slow
def test_a_loop_that_takes_any_word_is_caught() -> None:
    def with_many_echoes(seed: int) -> Simulation:
        simulation = Simulation(seed, make_loop=TakesAnyWord)
        simulation.world._rates["word comes twice"] = 0.3
        return simulation

    seen = _first_seed_that_sees(with_many_echoes)
    # A call whose end is believed too early gives its place away too.
    assert any(words in seen for words in ("begins on", "that is not its own", "more than it has"))


def test_a_worker_is_heard_only_about_the_call_that_it_was_given() -> None:
    """An echo of the last call's end, when the worker is busy with the next one of the same run."""
    run = FlowRun(RunId("run"), "flow", RunState.running, Code("d", "m", "f"), "env", Instant(0))
    word = {"type": "finished", "run": "run", "key": "a#0", "n": 1, "result": None}
    assert messages.event(run, word, [], CallKey("b#0"), 1, Instant(0)) is None
    assert messages.event(run, word, [], CallKey("a#0"), 1, Instant(0)) is not None


def test_a_call_that_waits_again_after_a_resume_is_told_once_of_each_input() -> None:
    """Told twice of one input it would begin without the other."""
    calls = [
        StepCall(
            RunId("run"), CallKey(key), seq, CallKind.step, "a", CallState.blocked, Instant(0), deps=deps
        )
        for seq, (key, deps) in enumerate(
            [("a#0", ()), ("a#1", ()), ("b#0", (CallKey("a#0"), CallKey("a#1")))]
        )
    ]
    run = FlowRun(RunId("run"), "flow", RunState.running, Code("d", "m", "f"), "env", Instant(0))
    flow = OpenFlow.of(OpenRun(run, tuple(calls), ()))
    flow.depend(calls[2])
    assert {dep: list(keys) for dep, keys in flow.dependents.items()} == {"a#0": ["b#0"], "a#1": ["b#0"]}


@pytest.mark.slow
def test_gangs_that_are_done_with_their_first_rank_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def said(self: Gangs, gang: Any, rank: Any, message: Message) -> None:
        self._post(replace(message, peer=worker_of(rank.peer)))

    monkeypatch.setattr(Gangs, "_said", said)
    assert "still works on it" in _first_seed_that_sees(Simulation)


@pytest.mark.slow
def test_gangs_that_may_be_put_together_from_two_starts_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    joined = Gangs._joined

    def any_group(self: Gangs, gang: Any, rank: Any, arrival: Joined) -> None:
        joined(self, gang, rank, replace(arrival, group="any"))

    def with_twins(seed: int) -> Simulation:
        simulation = Simulation(seed)
        simulation.world._rates["engine starts a job twice"] = 1.0
        return simulation

    monkeypatch.setattr(Gangs, "_joined", any_group)
    for seed in range(100):
        try:
            with_twins(seed).run()
        except Violation as fault:
            if "of two starts" in str(fault):
                return
    raise AssertionError("nothing was seen")


def test_a_loop_that_counts_no_capacity_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placing, "place", _no_leases)
    assert "more than it has" in _first_seed_that_sees(Simulation)


def test_a_loop_that_never_gives_up_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "after_failure", _tries_for_ever)
    assert "was tried" in _first_seed_that_sees(Simulation)


def test_a_loop_that_takes_any_process_for_its_worker_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine may start a job twice: two processes that both carry a task out are one too many."""

    def with_twins(seed: int) -> Simulation:
        simulation = Simulation(seed)
        simulation.world._rates |= {"engine starts a job twice": 0.5, "connection is lost": 0.05}
        return simulation

    def believes(known: Any, *, life: str, has: Any, is_done: bool) -> Any:
        if known is None or known.task is None or has == known.task:
            return rejoining(known, life=life, has=has, is_done=is_done)
        return Rejoin.take_task, "it has none"

    rejoining = rejoin
    monkeypatch.setattr(crew, "rejoin", believes)
    seen = _first_seed_that_sees(with_twins)
    assert "still runs" in seen or "begins on" in seen


def test_a_loop_without_patience_for_workers_that_are_away_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who gives a worker's place away before that has ended itself lets its task run twice at once."""
    monkeypatch.setattr(crew, "AWAY_MARGIN_S", -AWAY_S)

    def with_losses(seed: int) -> Simulation:
        simulation = Simulation(seed)
        simulation.world._rates["connection is lost"] = 0.1
        return simulation

    assert "still runs" in _first_seed_that_sees(with_losses)


@pytest.mark.slow
def test_workers_on_other_machines_outlive_the_loop_and_their_results_count_once() -> None:
    """That it happens in these seeds; that nothing is lost or done twice is checked in each of them."""
    seen: set[str] = set()
    for seed in range(60):
        simulation = Simulation(seed)
        simulation.world._rates["connection is lost"] = 0.1
        simulation.run()
        for attempt in simulation.ledger.attempts.values():
            if attempt.exit is not None and attempt.exit.reason.startswith("nothing was heard of it"):
                seen.add("given up")
            connects = [each for each in simulation.world.trace if f"{attempt.worker}one connects" in each]
            if len({each.rpartition(" ")[2] for each in connects}) > 1 and attempt.exit == Exit(ExitKind.ok):
                seen.add("finished for a later loop")
    assert seen == {"given up", "finished for a later loop"}
