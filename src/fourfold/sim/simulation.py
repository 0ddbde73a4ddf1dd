"""One simulated project: clients, the production loop in several lives, and a machine that fails.

The loop is `resources.flows.loop.Loop` itself. Around it everything is invented: the clock, the store's
faults, the engine, the workers, the clients. The same seed always gives the same history.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fourfold.core.decide import schedule
from fourfold.core.errors import OutOfSpace, Unavailable
from fourfold.core.flows import Code, DeployedFlow, FlowRun, RunId, RunState
from fourfold.core.jobs import Exit, ExitKind
from fourfold.core.ports.control import Arrival, Gone, Message
from fourfold.core.ports.flow_store import CacheEntry, Changes, Fenced, FlowStore, OpenRun
from fourfold.core.times import Instant, seconds_between
from fourfold.core.wire import plain
from fourfold.resources.flows.crew import Settings
from fourfold.resources.flows.loop import Loop
from fourfold.sim.hands import Hands
from fourfold.sim.ledger import Ledger
from fourfold.sim.machine import AWAY_S, POOLS, Machine
from fourfold.sim.world import Crash, Violation, World
from fourfold.testing.clock import START
from fourfold.testing.flow_store import MemoryFlowStore

MOST_BODIES = 3
MOST_TURNS = 30_000
"""A simulation that takes more is not going to end."""
_CODE = Code("digest", "simulated", "program")
_TICKING = "ticking"
_TICKS_S = 1500.0
"""So long a schedule fires, where there is one."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a simulation came to."""

    seed: int
    runs: int
    attempts: int
    owners: int
    faults: tuple[str, ...]
    turns: int
    seconds: float
    """How long it took by the invented clock."""

    def __str__(self) -> str:
        return (
            f"seed {self.seed}: {self.runs} runs, {self.attempts} attempts, {self.owners} owners, "
            f"{len(self.faults)} faults, {self.turns} turns, {self.seconds:.0f} s of invented time"
        )


class FaultyStore:
    """A flow store behind a database that is slow, refuses, or loses its answers; and tells the ledger."""

    def __init__(self, store: FlowStore, world: World, ledger: Ledger, owner: int) -> None:
        self._store = store
        self._world = world
        self._ledger = ledger
        self._owner = owner

    def take_over(self, owner: str, now: Instant) -> int:
        self._read()
        return self._store.take_over(owner, now)

    def commit(self, epoch: int, changes: Changes) -> None:
        if self._world.fault("owner dies before a commit"):
            raise Crash
        if self._world.fault("commit fails"):
            full = self._world.chance.random() < 0.3
            raise OutOfSpace("the disk is full") if full else Unavailable("the database does not answer")
        if self._world.fault("commit is slow"):
            self._world.move(Instant(self._world.now + 5_000_000))
        self._store.commit(epoch, changes)
        self._world.note(f"owner {self._owner}", _summary(changes))
        self._ledger.committed(changes)
        if self._world.fault("commit's answer is lost"):
            raise Unavailable("the database took it, and its answer was lost")
        if self._world.fault("owner dies after a commit"):
            raise Crash

    def load_open(self) -> tuple[OpenRun, ...]:
        self._read()
        return self._store.load_open()

    def load(self, run: RunId) -> OpenRun | None:
        self._read()
        return self._store.load(run)

    def run_by_key(self, key: str) -> FlowRun | None:
        self._read()
        return self._store.run_by_key(key)

    def cached(self, key: str) -> CacheEntry | None:
        self._read()
        return self._store.cached(key)

    def deployments(self) -> Sequence[DeployedFlow]:
        self._read()
        return self._store.deployments()

    def _read(self) -> None:
        if self._world.fault("read fails"):
            raise Unavailable("the database does not answer")


class Wish:
    """Something a client wants, asked again until it is answered, by a new client each time."""

    def __init__(
        self, sim: Simulation, header: dict[str, Any], answered: Callable[[dict[str, Any]], None]
    ) -> None:
        self._sim = sim
        self._header = header
        self._answered = answered
        self.is_over = False

    def ask(self) -> None:
        if self.is_over:
            return
        name = self._sim.client(self.hear)
        self._sim.machine.ask(self._sim.owner, name, {**self._header, "id": 1})
        self._sim.world.later(self._sim.world.chance.uniform(2, 10), self.ask)

    def hear(self, header: dict[str, Any]) -> None:
        if header["type"] == "reply" and "error" not in header and not self.is_over:
            self.is_over = True
            self._answered(header)


class Watch:
    """Somebody waits for a run's end: asks once, and then hears of it; asks again when the owner is gone."""

    def __init__(self, sim: Simulation, run: str) -> None:
        self._sim = sim
        self._run = run
        self._owner = 0
        self.is_over = False

    def ask(self) -> None:
        """Ask the present owner; each new one is asked again."""
        sim = self._sim
        if self.is_over or sim.loop is None or self._owner == sim.owner:
            return
        self._owner = sim.owner
        header = {"type": "watch", "id": 1, "run": self._run, "with_events": sim.world.chance.random() < 0.5}
        sim.machine.ask(sim.owner, sim.client(self.hear), header)

    def hear(self, header: dict[str, Any]) -> None:
        run = self._sim.ledger.runs[self._run]
        match header["type"]:
            case "reply" if "error" in header:
                self._owner = 0
                self._sim.world.later(1.0, self.ask)
            case "reply":
                self.is_over = not header["is_open"]
            case "ended":
                self.is_over = True
                if run.state.is_open and not self._sim.ledger.resumed.get(run.id):
                    raise Violation(f"{run.id} was said to have ended, and it has not")
            case _:
                pass


class Simulation:
    """A project with a seed's flows and a seed's faults. `run()` raises `Violation` or tells how it went."""

    def __init__(
        self,
        seed: int,
        *,
        store: FlowStore | None = None,
        make_loop: Callable[..., Loop] = Loop,
        make_machine: Callable[..., Machine] = Machine,
    ) -> None:
        """The three parts can be swapped, so that a test may show that a broken one is caught."""
        self.seed = seed
        self.world = World(seed)
        self.store: FlowStore = MemoryFlowStore() if store is None else store
        self.ledger = Ledger(Machine.units, most_bodies=MOST_BODIES)
        self.machine = make_machine(self.world, self.ledger, self._post)
        self.owner = 0
        self.loop: Loop | None = None
        self._hands: Hands | None = None
        self.machine.present = lambda: 0 if self.loop is None else self.owner  # type: ignore[method-assign]
        self._make_loop = make_loop
        self._asleep: list[tuple[int, Loop]] = []
        self._id_count = 0
        self._client_count = 0
        self._wishes: list[Wish | Watch] = []
        self._turns = 0
        self._runs_of: dict[str, str] = {}
        self._deployed: DeployedFlow | None = None
        self._plan()

    # What people want

    def _plan(self) -> None:
        chance = self.world.chance
        for index in range(chance.randint(1, 6)):
            program, at_s = chance.randrange(10_000), chance.choice((0.0, chance.uniform(0, 60)))
            run = FlowRun(
                RunId(""), "program", RunState.queued, _CODE, "env", START,
                {"seed": program}, key=f"wish {index}", priority=chance.choice((0, 0, 5)),
            )  # fmt: skip
            self.world.later(at_s, lambda key=run.key, run=run: self._submit(key, run))  # type: ignore[misc]
        if chance.random() < 0.3:
            catchup = chance.choice(("latest", "all", "none"))
            deployed = DeployedFlow(
                _TICKING,
                _CODE,
                START,
                {"seed": chance.randrange(10_000)},
                cron="*/5 * * * *",
                catchup=catchup,
            )
            self.world.later(1.0, lambda: self._deploy(deployed))
        if chance.random() < 0.5:
            self.world.later(chance.uniform(1, 90), self._jump)

    def _submit(self, key: str, run: FlowRun) -> None:
        def answered(reply: dict[str, Any]) -> None:
            run_id = reply["run"]["id"]
            if self._runs_of.setdefault(key, run_id) != run_id:
                raise Violation(f"{key!r} was answered with {run_id} and with {self._runs_of[key]}")
            if run_id not in self.ledger.runs:
                raise Violation(f"{key!r} was answered with {run_id} before that was stored")
            self._change_mind(run_id)
            if self.world.chance.random() < 0.5:
                watch = Watch(self, run_id)
                self._wishes.append(watch)
                watch.ask()

        self._wish({"type": "submit", "run": plain(run)}, answered)
        if self.world.chance.random() < 0.2:  # impatient: the same from another terminal
            self._wish({"type": "submit", "run": plain(run)}, answered)

    def _change_mind(self, run_id: str) -> None:
        chance = self.world.chance
        if chance.random() < 0.25:
            wait_s = chance.choice((0.1, 5.0, 40.0))
            self.world.later(wait_s * chance.random(), lambda: self._cancel(run_id))
        if chance.random() < 0.25:
            self.world.later(chance.uniform(0.1, 120), lambda: self._resume(run_id))

    def _cancel(self, run_id: str) -> None:
        self.ledger.cancelled.add(run_id)

        def answered(_reply: dict[str, Any]) -> None:
            if self.world.chance.random() < 0.5:  # and changes it again, while processes still end
                wait_s = self.world.chance.choice((0.01, 0.5, 3.0))
                self.world.later(wait_s, lambda: self._resume(run_id))

        self._wish({"type": "cancel", "run": run_id, "why": "somebody changed their mind"}, answered)

    def _resume(self, run_id: str) -> None:
        self.ledger.resumed[run_id] = self.ledger.resumed.get(run_id, 0) + 1
        self._wish({"type": "resume", "run": run_id}, _ignore)

    def _deploy(self, deployed: DeployedFlow) -> None:
        self._deployed = deployed

        def answered(_reply: dict[str, Any]) -> None:
            self.world.later(_TICKS_S, pause)

        def pause() -> None:
            self._wish({"type": "pause_schedule", "flow": _TICKING, "is_paused": True}, _ignore)

        self._wish({"type": "deploy", "deployed": plain(deployed)}, answered)

    def _wish(self, header: dict[str, Any], answered: Callable[[dict[str, Any]], None]) -> None:
        wish = Wish(self, header, answered)
        self._wishes.append(wish)
        self.world.note(
            "client", f"wants {header['type']} {header.get('flow') or header.get('run', '')}"[:70]
        )
        wish.ask()

    def client(self, hear: Callable[[dict[str, Any]], None]) -> str:
        """A new client's name."""
        self._client_count += 1
        name = f"client_{self._client_count}"
        self.machine.clients[name] = hear
        return name

    def _jump(self) -> None:
        if self.world.fault("clock jumps"):
            self.world.jump()
        if self.world.now - START < 600_000_000:
            self.world.later(self.world.chance.uniform(1, 30), self._jump)

    # The loop's lives

    def _post(self, owner: int, arrival: Arrival) -> None:
        """Something arrives, if the life of the loop that it was meant for still lasts."""
        if self.loop is not None and owner == self.owner:
            assert self._hands is not None
            gangs = self._hands.gangs
            self._living(lambda: gangs.arrived(arrival))  # it answers some by itself

    def _new_id(self, kind: str) -> str:
        self._id_count += 1
        return f"{kind}_{self._id_count:05d}"

    def _start(self) -> None:
        self.owner += 1
        owner = self.owner
        self.world.note(f"owner {owner}", "starts")
        self.machine.reap()
        inbox: list[Loop] = []
        hands = Hands(
            self.machine, owner, lambda asked: asked == self.owner, lambda arrival: inbox[0].post(arrival)
        )
        loop = self._make_loop(
            store=FaultyStore(self.store, self.world, self.ledger, owner),
            control=hands,
            clock=self.world.clock,
            new_id=self._new_id,
            settings=Settings(most_bodies=MOST_BODIES, most_idle=2, idle_s=30.0, away_s=AWAY_S, pools=POOLS),
        )
        loop.scheduler.is_firing = True
        inbox.append(loop)
        self.loop, self._hands = loop, hands
        for wish in self._wishes:
            if isinstance(wish, Watch):
                self.world.later(0.1, wish.ask)
        self._living(lambda: loop.take_over(f"owner {owner}"))
        if self.loop is not None:
            for worker in loop.workers:
                hands.gangs.expect(worker.name, worker.spec.nodes)
            self.machine.keep_only(owner, {worker.name for worker in loop.workers})

    def _living(self, act: Callable[[], None]) -> None:
        """Let the loop act; it may die of it."""
        try:
            act()
        except Fenced as error:
            raise Violation("the present owner was fenced off") from error
        except Crash:
            self._die("is killed")
        except Unavailable as error:
            self._die(f"ends: {error.message}")

    def _die(self, how: str) -> None:
        self.world.note(f"owner {self.owner}", how)
        self.loop = None
        self.machine.owner_died()
        self.world.later(self.world.chance.choice((0.0, 0.5, 8.0)), self._start)

    def _sleep(self) -> None:
        """The owner's machine is put to sleep; another takes over, and then the first wakes up."""
        assert self.loop is not None
        sleeper = (self.owner, self.loop)
        self._die("falls asleep")
        self.world.later(20.0, lambda: self._wake(*sleeper))

    def _wake(self, owner: int, loop: Loop) -> None:
        self.world.note(f"owner {owner}", "wakes up")
        for worker in list(loop.workers):
            loop.post(Gone(worker.name, Exit(ExitKind.worker_lost, "ended while the owner slept")))
        run = FlowRun(RunId(""), "program", RunState.queued, _CODE, "env", START, {"seed": 0})
        loop.post(Message("client_0", {"type": "submit", "id": 1, "run": plain(run)}))
        try:
            loop.turn()
        except Fenced:
            return
        except (Crash, Unavailable):
            return
        if loop.has_work and loop.next_at() is not None:
            return  # its commit was refused for another reason, and it would try again
        raise Violation(f"owner {owner} woke up after another had taken over, and could still write")

    # Time

    def run(self) -> Report:
        """Let it happen, to the end."""
        try:
            return self._run()
        except Exception as fault:
            fault.add_note(f"the history again: python -m fourfold.sim --seed {self.seed}")
            raise

    def _run(self) -> Report:
        self._start()
        while not self._is_over():
            self._turns += 1
            if self._turns > MOST_TURNS:
                raise Violation(f"it does not end: after {MOST_TURNS} turns {self._unfinished()}")
            self._step()
        self._at_rest()
        return Report(
            self.seed,
            len(self.ledger.runs),
            self.ledger.begun_count,
            self.owner,
            tuple(self.world.faults),
            self._turns,
            seconds_between(START, self.world.now),
        )

    def _step(self) -> None:
        """Go to the next moment at which something happens or is due, and let the loop take its turn."""
        world = self.world
        times = [at] if (at := world.next_at()) is not None else []
        if self.loop is not None:
            due = self.loop.next_at()
            if due is not None:
                times.append(world.true(due))
            elif self.loop.has_work:
                times.append(world.now)
        if not times:
            raise Violation(f"nothing will ever happen again, but {self._unfinished()}")
        world.move(min(times))
        slack = world.chance.choice((0, 0, 20_000))  # now and then much arrives at once
        world.move(Instant(world.now + slack))
        while world.happen():
            pass
        if self.loop is None:
            return
        if world.fault("owner sleeps"):
            self._sleep()
            return
        if world.fault("all workers die"):
            self.machine.all_die()
        if world.fault("pool does not answer"):
            self.machine.fail_lab(lambda arrival: self._post(self.owner, arrival))
        if world.fault("connection is lost"):
            self.machine.lose_a_connection()
        self._living(self.loop.turn)

    def _is_over(self) -> bool:
        return (
            self.loop is not None
            and bool(self.ledger.runs)
            and not self.ledger.open_runs
            and not self.ledger.is_busy
            and all(wish.is_over for wish in self._wishes)
            and not self.loop.has_work
            and self.world.next_at() is None  # nobody means to do anything more
        )

    def _unfinished(self) -> str:
        words = []
        for run_id in self.ledger.open_runs:
            calls = self.ledger.calls[run_id].values()
            open_calls = [f"{call.key} {call.state} ({call.reason})" for call in calls if call.state.is_open]
            words.append(
                f"{run_id} is {self.ledger.runs[run_id].state}: {'; '.join(open_calls) or 'no open call'}"
            )
        return "\n  ".join(words) or "no run is open"

    # At the end

    def _at_rest(self) -> None:
        assert self.loop is not None
        self.ledger.at_rest(self.store)
        if self.loop.leases:
            raise Violation(f"nothing runs, but units are held: {dict(self.loop.leases)}")
        of_key: dict[str, str] = {}
        for run in self.ledger.runs.values():
            if run.key and of_key.setdefault(run.key, run.id) != run.id:
                raise Violation(f"{run.key!r} made two runs: {of_key[run.key]} and {run.id}")
        for key, run_id in self._runs_of.items():
            if of_key.get(key) != run_id:
                raise Violation(f"{key!r} was answered with {run_id}, which is lost")
        self._ticks_fired_once()

    def _ticks_fired_once(self) -> None:
        if self._deployed is None:
            return
        fired = sorted(
            run.scheduled_for for run in self.ledger.runs.values() if run.scheduled_for is not None
        )
        if len(set(fired)) != len(fired):
            raise Violation(f"a tick fired twice: {fired}")
        if self._deployed.catchup != "all" or not fired:
            return
        at: Instant | None = fired[0]
        for tick in fired:
            if tick != at:
                raise Violation(f"the tick of {at} never fired")
            at = schedule.next_tick(self._deployed, tick)


def _ignore(_reply: dict[str, Any]) -> None:
    pass


def _summary(changes: Changes) -> str:
    words = [f"{run.id} {run.state}" for run in changes.runs.values()]
    words += [f"{call.run}/{call.key} {call.state}" for call in changes.calls.values()]
    words += [f"{attempt.key} over" for attempt in changes.attempts.values() if attempt.ended_at is not None]
    words += [f"{name} deployed" for name in changes.deployments]
    return "commits " + ", ".join(words)


def simulate(seed: int) -> Report:
    """Simulate a seed.

    >>> simulate(1) == simulate(1)
    True
    """
    return Simulation(seed).run()
