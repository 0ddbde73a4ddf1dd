"""Who carries calls out: their turns, the workers that get them, and what these are told.

The loop decides about calls; the crew finds each its worker: a warm one, else a new one of the call's pool.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from fourfold.core.decide import flow as rules
from fourfold.core.decide.deadline import Due, RunTimes, due_at, outlook, passed
from fourfold.core.decide.match import meets, refusal
from fourfold.core.decide.place import Lease, too_many
from fourfold.core.decide.pools import PoolRules, choose_pool, pool_of, units_of, unknown_pool
from fourfold.core.decide.rejoin import Rejoin, Standing, rejoin
from fourfold.core.errors import FourfoldError, Refused
from fourfold.core.flows import BODY, Attempt, CallKey, CallKind, CallState, Failure, Policy, StepCall
from fourfold.core.jobs import Exit, ExitKind, Resources, UnitCapacity
from fourfold.core.pools import PoolLoad
from fourfold.core.ports.clock import Clock
from fourfold.core.ports.control import Control, Joined, Unready, WorkerSpec
from fourfold.core.times import Instant, after, duration_text, seconds_between
from fourfold.core.values import replace
from fourfold.resources.flows import messages
from fourfold.resources.flows.open_flow import OpenFlow
from fourfold.resources.flows.placing import Placing, Turn
from fourfold.resources.flows.timers import Timers
from fourfold.resources.pools.workers import Task, Worker, Workers


@dataclass(frozen=True, slots=True)
class Settings:
    """Bounds of the loop, and what the settings say about pools."""

    most_bodies: int = 8
    most_idle: int = 8
    most_idle_in: Mapping[str, int] = field(default_factory=dict)
    """Where a pool keeps another number of idle workers than `most_idle`."""
    idle_s: float = 300.0
    idle_s_in: Mapping[str, float] = field(default_factory=dict)
    """Where a pool keeps idle workers for another time than `idle_s`."""
    away_s: float = 300.0
    """So long may a worker that outlives its connection be out of reach before its attempt is given up."""
    stop_grace_s: float = 2.0
    pools: PoolRules = PoolRules("local")
    body_pool: str = "local"
    """Where bodies run: on this machine, because they talk to the loop all the time."""


BESIDE_FRESH_S = 2.0
"""While a step waits, it is asked so often what services hold: they come and go without a word to us."""
TIMES_KEPT_S = 60.0
"""So long what the record tells of a step's run times is taken for true."""
MOST_TIMES = 1_000
"""Of so many steps it is kept."""

RunTimesOf = Callable[[str], RunTimes | None]
"""How long a step of this name takes, by its record."""

AWAY_MARGIN_S = 30.0
"""A worker that nobody has heard of ends itself within `away_s`; so much later its place is given away.

It covers how late either end notices, and that what was said last may have arrived later.
"""


class Later(Protocol):
    """Does something once all that was decided is stored."""

    def __call__(self, act: Callable[[], None], *, gives_work: bool = False) -> None: ...


class Crew:
    """The workers of all pools, and the calls that wait for one."""

    def __init__(
        self,
        flows: Mapping[str, OpenFlow],
        *,
        control: Control,
        clock: Clock,
        new_id: Callable[[str], str],
        settings: Settings,
        timers: Timers,
        apply: Callable[[OpenFlow, rules.Event], None],
        later: Later,
        beside: Callable[[], Sequence[Lease]] | None = None,
        run_times: RunTimesOf = lambda _step: None,
    ) -> None:
        """`apply` asks the rules about an event of a run; `later` keeps what is done after the commit.

        `beside` says what services hold of the pools' units; `run_times` how long a step takes by its record.
        """
        self._run_times = run_times
        self._known_times: dict[str, tuple[Instant, RunTimes | None]] = {}
        self._flows = flows
        self._control = control
        self._clock = clock
        self._new_id = new_id
        self._settings = settings
        self._timers = timers
        self._apply = apply
        self._later = later
        self.workers = Workers(
            most_idle=settings.most_idle,
            idle_s=settings.idle_s,
            most_idle_in=settings.most_idle_in,
            idle_s_in=settings.idle_s_in,
        )
        self.placing = Placing(most_bodies=settings.most_bodies)
        self._looks_at_idle_at: Instant | None = None
        self._beside = beside
        self._asks_beside_at: Instant | None = None

    def __repr__(self) -> str:
        return f"<Crew: {self.workers!r}>"

    def joined(self, arrival: Joined) -> None:
        """A worker has connected: for the first time, or again."""
        worker = self.workers.get(arrival.worker)
        if arrival.unit:
            self.placed(arrival.worker, arrival.unit)
        if arrival.life:
            self._rejoined(worker, arrival)
        elif worker is not None:
            worker.is_joined = True
            if worker.task is not None and worker.stopping is None:
                self._begin(worker, worker.task)

    def _rejoined(self, worker: Worker | None, arrival: Joined) -> None:
        """One that outlives its connection is told what the loop makes of what it has; of a gang, each."""
        answers: dict[str, Rejoin] = {}
        for each in arrival.ranks or (arrival,):
            known = None
            if worker is not None:
                known = Standing(worker.task, worker.lives.get(each.worker, ""), worker.may_have_begun)
            answer, reason = rejoin(known, life=each.life, has=each.has, is_done=each.is_done)
            answers[each.worker] = answer
            if answer is Rejoin.refuse:
                refused = {"type": "refused", "key": "", "reason": reason, "is_stale": True}
                self._control.send(each.worker, refused)
        if worker is None or Rejoin.refuse in answers.values():
            return
        if worker.stopping is not None and worker.task is not None:
            # Its engine could not end it while it was out of reach; busy, it would not hear a polite word.
            told = f"it was to end: {worker.stopping[1]}"
            self._control.send(worker.name, {"type": "refused", "key": "", "reason": told, "is_stale": True})
            self._later(lambda: self._control.stop(arrival.worker, grace_s=self._settings.stop_grace_s))
            return
        worker.is_joined, worker.away_since = True, None
        worker.lives = {each.worker: each.life for each in arrival.ranks or (arrival,)}
        worker.join_count += 1
        for name, answer in answers.items():
            tells = answer is Rejoin.tell_result
            welcome = {"type": "welcome", "tell_result": tells, "away_s": self._settings.away_s}
            self._control.send(name, welcome)
        without = [name for name, answer in answers.items() if answer is Rejoin.take_task]
        if worker.stopping is not None:
            self._control.send(worker.name, {"type": "exit"})
        elif without and worker.task is not None:
            self._begin(worker, worker.task, to=without)

    def placed(self, name: str, unit: str) -> None:
        """An engine tells where a worker is. What it does, and will do, is on record there."""
        if (worker := self.workers.get(name)) is None or worker.unit == unit:
            return
        worker.unit = unit
        if worker.task is not None and (flow := self._flows.get(worker.task[0])) is not None:
            self._is_at(flow, CallKey(worker.task[1]), worker.task[2], unit)

    def _is_at(self, flow: OpenFlow, key: CallKey, n: int, unit: str) -> None:
        self._apply(flow, rules.Placed(key, n, unit))
        if self.units(unit):  # else it is one of those beyond the pool's bound: the lease stays
            self.placing.move(flow.run.id, key, unit)

    def preparing(self, name: str) -> None:
        """A worker that has not begun was heard of: it is not away."""
        if (worker := self.workers.get(name)) is not None:
            worker.away_since = None

    def unready(self, told: Unready) -> None:
        """A worker's machine cannot be made ready for it: its attempt has failed, and it is no loss."""
        worker = self.workers.get(told.worker)
        if worker is None or worker.task is None or worker.stopping is not None:
            return
        worker.stopping, name = (ExitKind.failed, told.reason), worker.name
        _, key, n = worker.task
        failure = Failure(ExitKind.failed, told.error, told.reason, call=key, is_permanent=told.is_permanent)
        worker.failed = rules.Failed(CallKey(key), n, failure)
        self._later(lambda: self._control.stop(name, grace_s=self._settings.stop_grace_s))

    def rank_failed(self, worker: Worker, failed: rules.Failed) -> None:
        """A rank of a gang has failed its attempt, which is over when the others have ended too."""
        if worker.stopping is None:
            worker.stopping, worker.failed = (ExitKind.failed, failed.failure.message), failed
            name = worker.name
            self._later(lambda: self._control.stop(name, grace_s=self._settings.stop_grace_s))

    def away(self, name: str) -> None:
        """A worker cannot be reached. It goes on, and ends itself after `away_s`: it is waited for."""
        worker = self.workers.get(name)
        if worker is None or worker.away_since is not None:
            return
        worker.is_joined, since = False, self._clock.now()
        worker.away_since = since
        patience_s = self._settings.away_s + AWAY_MARGIN_S

        def over() -> None:
            if self.workers.get(name) is worker and worker.away_since == since:
                self._later(lambda: self._control.stop(name, grace_s=0.0))
                reason = f"nothing was heard of it for {duration_text(patience_s)}"
                self.gone(name, Exit(ExitKind.worker_lost, reason))

        self._timers.at(after(since, patience_s), over)

    def adopt(self, flow: OpenFlow, call: StepCall, attempt: Attempt) -> bool:
        """Go on with an attempt of an earlier loop, whose worker may have outlived that; whether it may."""
        view = self._control.pools().get(pool_of(attempt.unit)) if attempt.unit else None
        if view is None or not view.outlives or not call.state.is_live:
            return False
        worker = Worker(attempt.worker, self._spec(flow, call, view.name), attempt.unit)
        worker.may_have_begun = attempt.started_at is not None
        task = (flow.run.id, call.key, attempt.n)
        self.workers.add(worker)
        self.workers.give(worker, task)
        self.placing.lease(flow.run.id, call, attempt.unit)
        self._end_in_time(flow, call, self._due(flow, call))
        self.away(worker.name)
        if attempt.started_at is not None:
            self._limit_time(flow, call.key, task, since=attempt.started_at)
        return True

    def gone(self, peer: str, ended: Exit | None) -> None:
        """A worker's process has ended: what it was busy with is a loss, or what it was ended for."""
        worker = self.workers.remove(peer)
        if worker is None or worker.task is None:
            return
        run, key, n = worker.task
        if (flow := self._flows.get(run)) is None:
            return
        kind, text, code = ExitKind.worker_lost, "its process ended", None
        if ended is not None:
            text, code = ended.reason or text, ended.code
            if ended.kind not in (ExitKind.ok, ExitKind.failed):  # a worker that ends by itself is lost
                kind = ended.kind
        if worker.stopping is not None:
            kind, text = worker.stopping
        at = due_at(flow.run, flow.calls[CallKey(key)].policy)
        is_late = at is not None and at <= self._clock.now()
        failure = Failure(kind, "", text, call=key, is_permanent=is_late)
        failed = worker.failed or rules.Failed(CallKey(key), n, failure)
        self._apply(flow, replace(failed, exit_code=code))

    def put_off(self, name: str, reason: str) -> None:
        """A pool did not take a worker: its call waits again, and has used up nothing."""
        worker = self.workers.remove(name)
        if worker is None or worker.task is None or (flow := self._flows.get(worker.task[0])) is None:
            return
        if worker.stopping is not None:
            kind, reason = worker.stopping
            failure = Failure(kind, "", reason, call=worker.task[1])
            self._apply(flow, rules.Failed(CallKey(worker.task[1]), worker.task[2], failure))
            return
        self._apply(flow, rules.Interrupted(CallKey(worker.task[1]), worker.task[2], reason))

    def loads(self) -> tuple[PoolLoad, ...]:
        """What goes on in each pool."""
        return tuple(
            PoolLoad(
                view.name,
                view.units,
                view.fault,
                self.workers.count(view.name, is_busy=True),
                self.workers.count(view.name, is_busy=False),
                self.placing.waiting_count(view.name),
            )
            for view in self._control.pools().values()
        )

    def queue(self, flow: OpenFlow, call: StepCall) -> None:
        pool, due = self._settings.body_pool, self._due(flow, call)
        if due is not None and due.at <= self._clock.now():
            self._apply(flow, rules.Unmet(call.key, passed(due.at), ExitKind.over_time))
            return
        self._end_in_time(flow, call, due)
        if call.kind is CallKind.step:
            pool = self.pool_of(flow.run.flow, call.name, call.policy)
            if (refused := self.never(pool, call.policy, who=f"step '{call.name}'")) is not None:
                self._apply(flow, rules.Unmet(call.key, "; ".join([refused.message, *refused.ways_on])))
                return
        priority, now = flow.run.priority, self._clock.now()
        self.placing.queue(call, pool=pool, priority=priority, now=now, due=due)

    def _due(self, flow: OpenFlow, call: StepCall) -> Due | None:
        """By when a call must be done, and how long it takes as far as that is on record."""
        at = due_at(flow.run, call.policy)
        if at is None:
            return None
        return Due(at, self._times_of(call.name) if call.kind is CallKind.step else None)

    def _times_of(self, step: str) -> RunTimes | None:
        """How long a step takes, read from the record at most every `TIMES_KEPT_S`."""
        now = self._clock.now()
        at, known = self._known_times.get(step, (None, None))
        if at is None or seconds_between(at, now) >= TIMES_KEPT_S:
            if len(self._known_times) >= MOST_TIMES:
                self._known_times.clear()
            known = self._run_times(step)
            self._known_times[step] = (now, known)
        return known

    def _end_in_time(self, flow: OpenFlow, call: StepCall, due: Due | None) -> None:
        """At its deadline a call that waits fails, and one that runs is ended."""
        if due is None:
            return
        run, key, at = flow.run.id, call.key, due.at

        def over() -> None:
            flow = self._flows.get(run)
            call = None if flow is None else flow.calls.get(key)
            if flow is None or call is None or due_at(flow.run, call.policy) != at:
                return  # resumed after it
            if call.state is CallState.ready:
                self._apply(flow, rules.Unmet(key, passed(at), ExitKind.over_time))
            elif call.state.is_live:
                self.stop_task((run, key, call.attempt), ExitKind.over_time, passed(at))

        self._timers.at(at, over)

    def pool_of(self, flow: str, step: str, policy: Policy) -> str:
        return choose_pool(self._settings.pools, flow=flow, step=step, asked=policy.pool)

    def never(self, pool: str, policy: Policy, *, who: str) -> Refused | None:
        """Why a step can never run in its pool; nothing when it can, or when that is not known yet."""
        pools, asked = self._control.pools(), policy.resources
        if (view := pools.get(pool)) is None:
            return unknown_pool(pool, pools, who=who)
        if view.fault and not view.units:
            return None
        if any(meets(asked, unit) for unit in view.units):
            told = too_many(view.units, asked, policy.nodes) if policy.nodes > 1 else ""
            return (
                Refused(f"{who} {told}", ways_on=["ask for fewer nodes, or for less of each"])
                if told
                else None
            )
        elsewhere = {
            name: other.units for name, other in pools.items() if name != pool and other.is_for_steps
        }
        return refusal(asked, view.units, who=who, pool=pool, elsewhere=elsewhere)

    def units(self, name: str) -> tuple[UnitCapacity, ...]:
        """What an attempt ran on, one for each node; none of it where one is not known any more."""
        view = self._control.pools().get(pool_of(name)) if name else None
        known = {} if view is None else {unit.name: unit for unit in view.units}
        names = units_of(name)
        return tuple(known[each] for each in names) if all(each in known for each in names) else ()

    def place(self, now: Instant) -> None:
        """Give free units to those whose turn it is."""
        self._ask_beside(now)
        turns = self.placing.turns(
            self._control.pools(),
            now,
            body_pool=self._settings.body_pool,
            body_count=self.workers.body_count(),
            ready=self._ready_call,
        )
        for turn in turns:
            self._lease(self._flows[turn.run], turn)

    def _ask_beside(self, now: Instant) -> None:
        """Hear what services hold, while a step waits for room."""
        if self._beside is None or not self.placing.has_waiting:
            return
        if self._asks_beside_at is not None and now < self._asks_beside_at:
            return
        with contextlib.suppress(FourfoldError):  # what was known stays until it can be asked again
            self.placing.hold_beside(self._beside())
        self._asks_beside_at = after(now, BESIDE_FRESH_S)
        self._timers.at(self._asks_beside_at, lambda: None)  # so that there is a turn then

    def _ready_call(self, run: str, key: CallKey) -> StepCall | None:
        """The call, if it still wants a worker. The end of an earlier attempt queues it again."""
        flow = self._flows.get(run)
        call = None if flow is None else flow.calls.get(key)
        if flow is None or call is None or call.state is not CallState.ready:
            return None
        if key in flow.attempts:
            self.placing.hold(run, key, "its earlier attempt has not ended yet")
            return None
        return call

    def _lease(self, flow: OpenFlow, turn: Turn) -> None:
        self.placing.forget(turn.run, turn.key)
        call, run = flow.calls[turn.key], flow.run
        spec = self._spec(flow, call, turn.pool)
        worker = self.workers.warm(
            spec, turn.unit, has_room=lambda unit: self.placing.has_room(self.units(unit), call)
        )
        is_new = worker is None
        if worker is None:
            worker = Worker(self._new_id("worker"), spec, turn.unit)
            self.workers.add(worker)
        task = (run.id, turn.key, call.attempt + 1)
        self.workers.give(worker, task)
        self._apply(flow, rules.Leased(turn.key, worker.name, turn.unit, worker.log_end, turn.reason))
        if worker.unit != turn.unit:
            self._is_at(flow, turn.key, task[2], worker.unit)
        if is_new:
            name = worker.name
            self._later(lambda: self._launch(name))
        elif worker.is_joined:
            self._begin(worker, task)

    @staticmethod
    def _spec(flow: OpenFlow, call: StepCall, pool: str) -> WorkerSpec:
        run, is_body = flow.run, call.kind is CallKind.body
        return WorkerSpec(
            "body" if is_body else "step",
            run.python,
            replace(run.code, module="", flow=""),  # any flow of the bundle may have it
            Resources() if is_body else call.policy.resources,
            run.cwd,
            pool,
            run.environment,
            1 if is_body else call.policy.nodes,
        )

    def _launch(self, name: str) -> None:
        if (worker := self.workers.get(name)) is not None:
            self._make_room(worker)
            self._control.launch(name, worker.spec)

    def _make_room(self, new: Worker) -> None:
        """Where idle workers hold what they asked for, end those that stand in the way of a new one."""
        view = self._control.pools().get(new.spec.pool)
        if view is None or not view.keeps_what_idles:
            return
        for worker in self.workers.in_the_way(new, view.units):
            worker.stopping = (ExitKind.cancelled, "it was idle, and other work needed its place")
            self._control.send(worker.name, {"type": "exit"})

    def _begin(self, worker: Worker, task: Task, *, to: Sequence[str] = ()) -> None:
        """Tell a worker that is there what to do: all of it, or (of a gang) those who must be told.

        Its time counts from here: a warm one is told at once.
        """
        flow, key = self._flows[task[0]], CallKey(task[1])
        late = outlook(self._due(flow, flow.calls[key]), self._clock.now())
        self._apply(flow, rules.Began(key, task[2], late))
        self._limit_time(flow, key, task)

        join_count = worker.join_count

        def send() -> None:
            flow = self._flows.get(task[0])
            if flow is None or worker.task != task or worker.stopping is not None:
                return
            if worker.join_count != join_count:
                return  # it has joined again meanwhile, and what it is sent was decided then
            key = CallKey(task[1])
            if (attempt := flow.attempts.get(key)) is None:
                return
            for header, parts in messages.task(flow.run, flow.calls[key], attempt, flow.calls):
                for peer in to or (worker.name,):
                    self._control.send(peer, header, parts)

        # A body's task keeps its place: a refusal of that worker's last word must not come after it.
        self._later(send, gives_work=key != BODY)

    def _limit_time(self, flow: OpenFlow, key: CallKey, task: Task, *, since: Instant | None = None) -> None:
        """A step's time is counted from when it began, not from when its process was asked for."""
        if (limit_s := flow.calls[key].policy.timeout_s) is None:
            return
        reason = f"it ran longer than {duration_text(limit_s)}"
        at = after(self._clock.now() if since is None else since, limit_s)
        self._timers.at(at, lambda: self.stop_task(task, ExitKind.over_time, reason))

    def idle(self, worker: Worker) -> None:
        """A worker has done its task: keep it warm, within bounds.

        A gang is not kept: it would hold several units idle, and the next one wants a group that is new.
        """
        self.workers.give_back(worker, self._clock.now())
        if worker.spec.nodes > 1:
            worker.stopping = (ExitKind.cancelled, "its step is done")
            self._later(partial(self._control.send, worker.name, {"type": "exit"}))
        self._end_surplus()
        self._look_at_idle_later()

    def _look_at_idle(self) -> None:
        self._looks_at_idle_at = None
        self._end_surplus()
        self._look_at_idle_later()

    def _look_at_idle_later(self) -> None:
        """Set a timer for the worker that is over first, unless one is set for then or before."""
        at = self.workers.next_over_at()
        if at is not None and (self._looks_at_idle_at is None or at < self._looks_at_idle_at):
            self._looks_at_idle_at = at
            self._timers.at(at, self._look_at_idle)

    def _end_surplus(self) -> None:
        for old in self.workers.surplus(self._clock.now()):
            old.stopping = (ExitKind.cancelled, "it was idle")
            self._later(partial(self._control.send, old.name, {"type": "exit"}))

    def stop_task(self, task: Task, kind: ExitKind, reason: str) -> None:
        """End the worker that is busy with a task, if one is."""
        worker = self.workers.busy_with(task)
        if worker is None or worker.stopping is not None:
            return
        worker.stopping, name = (kind, reason), worker.name
        self._later(lambda: self._control.stop(name, grace_s=self._settings.stop_grace_s))
