"""The loop: takes what arrives, asks the rules, commits what changed, then acts.

One thread calls `turn()` whenever something has arrived or a timer is due. A turn handles everything
that waits and makes ONE commit of it; only then are intentions carried out (tasks sent, workers started
or ended, answers given). Each of them may be carried out again without harm, and what was committed but
not carried out is found again by `take_over()`: so the loop may be killed between any two lines.

The simulator drives this same class, with a store in memory and a control that lies.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fourfold.core.context import Ref
from fourfold.core.decide import flow as rules
from fourfold.core.decide.deadline import due_at, passed
from fourfold.core.decide.place import Lease
from fourfold.core.errors import FourfoldError, NotFound, Refused
from fourfold.core.flows import (
    BODY,
    CallKey,
    CallKind,
    CallState,
    Code,
    DeployedFlow,
    FlowRun,
    Policy,
    RunEvent,
    RunId,
    StepCall,
)
from fourfold.core.jobs import ExitKind
from fourfold.core.ports.clock import Clock
from fourfold.core.ports.control import (
    Arrival,
    Away,
    Control,
    Gone,
    Joined,
    Message,
    Placed,
    PoolChanged,
    Preparing,
    PutOff,
    Unready,
)
from fourfold.core.ports.flow_store import CacheEntry, FlowStore
from fourfold.core.times import Instant
from fourfold.core.values import replace
from fourfold.resources.flows import answers, messages
from fourfold.resources.flows.crew import Crew, RunTimesOf, Settings
from fourfold.resources.flows.open_flow import OpenFlow
from fourfold.resources.flows.outbox import Outbox
from fourfold.resources.flows.scheduler import Scheduler
from fourfold.resources.flows.timers import Timers
from fourfold.resources.pools.workers import Worker

MOST_CALLS = 100_000
"""A run that has made so many calls is refused more: a flow that never ends making steps must end."""

Resolve = Callable[[Ref], str | None]
"""The version that a name stands for now; `None` when that cannot be told."""


class Loop:
    """Decides and acts for all open flow runs of a project. Not thread-safe: one thread turns it."""

    def __init__(
        self,
        *,
        store: FlowStore,
        control: Control,
        clock: Clock,
        new_id: Callable[[str], str],
        resolve: Resolve = lambda ref: ref.version if ref.kind == "blob" else None,
        step_code: Callable[[Code, str], str] = lambda code, _module: code.digest,
        settings: Settings | None = None,
        beside: Callable[[], Sequence[Lease]] | None = None,
        run_times: RunTimesOf = lambda _step: None,
    ) -> None:
        """`beside` says what services hold of the pools' units."""
        self._store = store
        self._control = control
        self._clock = clock
        self._new_id = new_id
        self._resolve = resolve
        self._step_code = step_code
        self.scheduler = Scheduler()
        self._timers = Timers()
        self._outbox = Outbox(store)
        self._flows: dict[str, OpenFlow] = {}
        self._by_key: dict[str, str] = {}
        self._ended: list[str] = []
        self._watchers: dict[str, dict[str, bool]] = {}
        self._asked: list[tuple[str, Any]] = []
        self._events: dict[tuple[str, str], RunEvent] = {}
        self._over: list[str] = []
        self._inbox: deque[Arrival] = deque()
        self.crew = Crew(
            self._flows,
            control=control,
            clock=clock,
            new_id=new_id,
            settings=settings or Settings(),
            timers=self._timers,
            apply=self._apply,
            later=lambda act, *, gives_work=False: self._outbox.later(act, gives_work=gives_work),
            beside=beside,
            run_times=run_times,
        )
        self.workers, self.placing = self.crew.workers, self.crew.placing

    # From outside

    def post(self, arrival: Arrival) -> None:
        """Put something that arrived in the inbox, for the next turn."""
        self._inbox.append(arrival)

    def take_over(self, owner: str) -> None:
        """Become the project's loop and go on with all open runs."""
        self._outbox.epoch = self._store.take_over(owner, self._clock.now())
        self.scheduler.load(self._store.deployments())
        for loaded in self._store.load_open():
            flow = self._open(OpenFlow.of(loaded))
            for call in list(flow.calls.values()):
                if (attempt := flow.attempts.get(call.key)) is not None:
                    if self.crew.adopt(flow, call, attempt):
                        continue
                    told = "the loop was restarted; this uses up no try"
                    self._apply(flow, rules.Interrupted(call.key, attempt.n, told))
                elif call.state is CallState.ready and call.kind is not CallKind.effect:
                    self.crew.queue(flow, call)
                elif call.state is CallState.retry_wait:
                    self._wake(flow.run.id, call.key, call.not_before or self._clock.now())

    def turn(self) -> None:
        """Handle all that has arrived and is due."""
        now = self._clock.now()
        if (again_at := self._outbox.waits_until) is not None:
            if now < again_at or not self._outbox.commit(now):
                self._put_off_clients()
                return
            self._outbox.act()
        self._timers.fire(now)
        while self._inbox:
            self._arrived(self._inbox.popleft())
        for run in self.scheduler.due(now, self.new_run):
            self.submit(run)
        for deployed in self.scheduler.drain():
            self._outbox.changes.deployments[deployed.flow] = deployed
        self.crew.place(now)
        self._tell_events()
        if self._outbox.commit(now):
            self._outbox.act()
            self._forget()
        else:
            self._put_off_clients()
        self._asked.clear()

    def next_at(self) -> Instant | None:
        """When the next turn is due if nothing arrives."""
        if (again_at := self._outbox.waits_until) is not None:
            return again_at
        times = (self._timers.next_at(), self.scheduler.next_at())
        return min((at for at in times if at is not None), default=None)

    @property
    def has_work(self) -> bool:
        """Whether anything waits for a turn."""
        return bool(self._inbox) or not self._outbox.is_empty

    @property
    def epoch(self) -> int:
        """The fence of this loop's commits."""
        return self._outbox.epoch

    @property
    def open_runs(self) -> tuple[str, ...]:
        return tuple(key for key, flow in self._flows.items() if flow.run.state.is_open)

    def flow(self, run: str) -> OpenFlow | None:
        """A run as the loop holds it."""
        return self._flows.get(run)

    @property
    def leases(self) -> Mapping[tuple[str, str], Lease]:
        """What live attempts hold."""
        return self.placing.leases

    # What arrives

    def _arrived(self, arrival: Arrival) -> None:
        match arrival:
            case Joined():
                self.crew.joined(arrival)
            case Away(name):
                self.crew.away(name)
            case Placed(name, unit):
                self.crew.placed(name, unit)
            case Preparing(name):
                self.crew.preparing(name)
            case Unready():
                self.crew.unready(arrival)
            case Gone(peer, ended):
                for watchers in self._watchers.values():
                    watchers.pop(peer, None)
                self.crew.gone(peer, ended)
            case PutOff(name, reason):
                self.crew.put_off(name, reason)
            case PoolChanged():
                self.placing.look_again()
            case Message(peer, header, parts):
                if (worker := self.workers.get(peer)) is not None:
                    self._from_worker(worker, header, list(parts))
                else:
                    self._from_client(peer, header)

    def _from_worker(self, worker: Worker, header: dict[str, Any], parts: list[bytes]) -> None:
        """A word from a worker counts only for the task that it was given: its token reaches no further."""
        task = worker.task
        if task is None or header.get("run") != task[0] or header.get("n") != task[2]:
            self._send(worker.name, {"type": "refused", "key": "", "reason": "stale", "is_stale": True})
            return
        flow, key = self._flows[task[0]], CallKey(task[1])  # a run is kept while a worker is busy with it
        try:
            event = messages.event(flow.run, header, parts, key, task[2], self._clock.now())
        except (KeyError, IndexError, TypeError, ValueError, FourfoldError) as error:
            self.crew.stop_task(task, ExitKind.worker_lost, f"it said what cannot be read: {error!r}")
            return
        match event:
            case rules.Failed() if worker.spec.nodes > 1:
                self.crew.rank_failed(worker, event)
            case rules.Finished() | rules.Failed():
                worker.log_end = event.log_end or worker.log_end
                self.crew.idle(worker)
                self._apply(flow, event)
            case rules.CallMade(call, n):
                if flow.run.call_count >= MOST_CALLS:
                    told = f"this run has made {MOST_CALLS} calls, the most a run may make"
                    self._send(worker.name, {"type": "refused", "key": call.key, "reason": told})
                    return
                if call.policy.cache:
                    call = replace(call, code=self._step_code(flow.run.code, call.module))
                self._apply(flow, rules.CallMade(call, n))
            case rules.EffectDone():
                self._apply(flow, event)
            case _:
                pass  # a word that a later version knows

    def _from_client(self, peer: str, header: dict[str, Any]) -> None:
        answer: dict[str, Any] = {"type": "reply", "id": header.get("id")}
        try:
            answer |= answers.answer(self, peer, header, self._clock.now())
        except FourfoldError as error:
            answer["error"] = messages.error_out(error)
        except (KeyError, TypeError, ValueError) as error:
            told = Refused(f"the word {header.get('type')!r} cannot be read: {error!r}")
            answer["error"] = messages.error_out(told)
        self._asked.append((peer, header.get("id")))
        self._send(peer, answer)

    def _put_off_clients(self) -> None:
        """The store cannot take anything now: say so to those who wait for an answer.

        What was decided for them is kept, and done when it can be stored; what came since is not looked at.
        """
        assert self._outbox.fault is not None
        told, left = messages.error_out(self._outbox.fault), deque[Arrival]()
        for arrival in self._inbox:
            if isinstance(arrival, Message) and self.workers.get(arrival.peer) is None:
                self._asked.append((arrival.peer, arrival.header.get("id")))
            else:
                left.append(arrival)
        self._inbox = left
        for peer, number in self._asked:
            self._control.send(peer, {"type": "reply", "id": number, "error": told})
        self._asked.clear()

    # What clients may ask for (see `answers`)

    def new_run(
        self, deployed: DeployedFlow, tick: Instant | None, params: Mapping[str, Any], key: str
    ) -> FlowRun:
        """A run of a deployed flow, not yet submitted."""
        now = self._clock.now()
        return messages.run_of(deployed, RunId(self._new_id("run")), now, tick=tick, params=params, key=key)

    def new_run_id(self) -> RunId:
        return RunId(self._new_id("run"))

    def submit(self, run: FlowRun, steps: Mapping[str, Policy] | None = None) -> FlowRun:
        """Start a run; the run that its key names, when there is one."""
        if run.key:
            if (known := self._by_key.get(run.key)) is not None:
                return self._flows[known].run
            if (stored := self._store.run_by_key(run.key)) is not None:
                return stored
        for name, policy in [("", Policy()), *sorted((steps or {}).items())]:
            if (at := due_at(run, policy)) is not None and at <= self._clock.now():
                who = f"step '{name}' of flow '{run.flow}'" if name else f"flow '{run.flow}'"
                ways_on = ["give it a later one, or none"]
                raise Refused(f"{who} cannot be done in time: {passed(at)}", ways_on=ways_on)
        for name, policy in sorted((steps or {}).items()):
            pool = self.crew.pool_of(run.flow, name, policy)
            refused = self.crew.never(pool, policy, who=f"step '{name}' of flow '{run.flow}'")
            if refused is not None:
                raise refused
        now = self._clock.now()
        body = StepCall(run.id, BODY, 0, CallKind.body, run.flow, CallState.ready, now, ready_at=now)
        flow = self._open(OpenFlow(run, {BODY: replace(body, module=run.code.module)}))
        self._outbox.changes.runs[run.id] = run
        self._outbox.changes.calls[run.id, BODY] = flow.calls[BODY]
        self._event(run.id, "run", state=run.state, reason=run.reason)
        self.crew.queue(flow, flow.calls[BODY])
        return run

    def wanted(self, run: str) -> OpenFlow:
        """A run by its identifier, also one that has ended."""
        if (flow := self._flows.get(run)) is not None:
            return flow
        loaded = self._store.load(RunId(run))
        if loaded is None:
            raise NotFound(f"there is no flow run {run!r}", ways_on=["list them: fourfold flow ls"])
        return self._open(OpenFlow.of(loaded))

    def tell(self, flow: OpenFlow, event: rules.CancelAsked | rules.ResumeAsked) -> None:
        """Apply what a client asked for."""
        self._apply(flow, event)

    def deploy(self, deployed: DeployedFlow) -> DeployedFlow:
        """Keep a deployed flow and its schedule; what is kept."""
        kept = self.scheduler.put(deployed, self._clock.now())
        self._outbox.changes.deployments[kept.flow] = kept
        return kept

    def watch(self, run: str, peer: str, *, with_events: bool) -> bool:
        """Let a peer hear of a run until its end; whether the run is open."""
        flow = self._flows.get(run)
        if flow is None or not flow.run.state.is_open:
            return False
        self._watchers.setdefault(run, {})[peer] = with_events
        return True

    # Deciding

    def _apply(self, flow: OpenFlow, event: rules.Event) -> None:
        """Ask the rules about an event and about all that follows from it."""
        events: deque[rules.Event] = deque([event])
        while events:
            event = events.popleft()
            before = flow.slice(event)
            state, commands = rules.decide(before, event, self._clock.now())
            if state is not before:
                self._keep(flow, before, state)
            for command in commands:
                events.extend(self._command(flow, command))

    def _keep(self, flow: OpenFlow, before: rules.Slice, state: rules.Slice) -> None:
        """Take over what a decision changed, and note it for the commit."""
        changes, run_id = self._outbox.changes, flow.run.id
        if state.run is not before.run:
            flow.run = replace(state.run, version=flow.run.version + 1)
            changes.runs[run_id] = flow.run
            if state.run.state is not before.run.state:
                self._event(run_id, "run", state=flow.run.state, reason=flow.run.reason)
        flow.calls.update(state.calls)
        for key, call in state.calls.items():
            old = before.calls.get(key)
            if call is old:
                continue
            changes.calls[run_id, key] = call
            was = None if old is None else old.state
            if call.state is CallState.blocked and was is not CallState.blocked:
                flow.depend(call)
            if was is not call.state:
                self._event(run_id, "call", key, call.state, call.reason)
        for key, attempt in state.attempts.items():
            if attempt is before.attempts.get(key):
                continue
            changes.attempts[run_id, key, attempt.n] = attempt
            if attempt.ended_at is None:
                flow.attempts[key] = attempt
                continue
            call = flow.calls[key]
            flow.attempts.pop(key, None)
            changes.jobs.append(messages.job(flow.run, call, attempt, self.crew.units(attempt.unit)))
            self.placing.release(run_id, key)
            if call.state is CallState.ready:  # resumed before its last attempt had ended
                self.crew.queue(flow, call)
            if not flow.run.state.is_open and not flow.attempts:
                self._ended.append(run_id)

    def _command(self, flow: OpenFlow, command: rules.Command) -> Iterable[rules.Event]:
        run = flow.run.id
        match command:
            case rules.Queue(key):
                self.crew.queue(flow, flow.calls[key])
            case rules.LookUp(key):
                return (self._look_up(flow, flow.calls[key]),)
            case rules.Wake(key, at):
                self._wake(run, key, at)
            case rules.Tell(key):
                return self._settled(flow, flow.calls[key])
            case rules.Stop(key, n, reason):
                self.crew.stop_task((run, key, n), ExitKind.cancelled, reason)
            case rules.Refuse(key, reason):
                if (body := flow.attempts.get(BODY)) is not None:
                    self._send(body.worker, {"type": "refused", "key": key, "reason": reason})
            case rules.RunOver():
                self._over.append(run)
                if not flow.attempts:
                    self._ended.append(run)
            case rules.Cancel(reason):
                return (rules.CancelAsked(reason),)
        return ()

    def _settled(self, flow: OpenFlow, call: StepCall) -> list[rules.Event]:
        """A call has settled: remember it for the cache, tell the body, and go on with those that waited."""
        if call.cache_key and call.state is CallState.succeeded and call.result is not None:
            source, now = f"{call.run}/{call.key}", self._clock.now()
            self._outbox.changes.cache[call.cache_key] = CacheEntry(
                call.cache_key, source, call.result, call.reads, call.writes, now
            )
        self.placing.forget(call.run, call.key)
        body = flow.attempts.get(BODY)
        if body is not None and (worker := self.workers.get(body.worker)) is not None and worker.is_joined:
            header, parts = messages.settled(call)
            self._send(worker.name, header, parts)
        return [rules.InputSettled(key, call.key) for key in flow.dependents.pop(call.key, ())]

    def _look_up(self, flow: OpenFlow, call: StepCall) -> rules.CacheAnswer:
        """Ask the cache; a hit counts only while all that the first run touched is as it left it."""
        key = messages.cache_key(flow.run, call, [flow.calls[dep] for dep in call.deps])
        entry = self._outbox.changes.cache.get(key) or self._store.cached(key)
        if entry is None:
            return rules.CacheAnswer(call.key, key, reason="not in the cache")
        for ref in (*entry.reads, *entry.writes):
            if (version := self._resolve(ref)) != ref.version:
                moved = f"{ref.kind} {ref.name} was at version {ref.version}, now {version or 'unknown'}"
                return rules.CacheAnswer(call.key, key, reason=f"cached, but {moved}")
        told = f"same code, environment and inputs as {entry.source}"
        return rules.CacheAnswer(call.key, key, entry.source, entry.result, entry.reads, entry.writes, told)

    # Small things

    def _open(self, flow: OpenFlow) -> OpenFlow:
        self._flows[flow.run.id] = flow
        if flow.run.key:
            self._by_key[flow.run.key] = flow.run.id
        if not flow.run.state.is_open:
            self._ended.append(flow.run.id)
        return flow

    def _forget(self) -> None:
        """Let go of runs that have ended and whose processes have too."""
        ended, self._ended = self._ended, []
        for run in ended:
            flow = self._flows.get(run)
            if flow is not None and not flow.run.state.is_open and not flow.attempts:
                del self._flows[run]
                self._by_key.pop(flow.run.key, None)

    def _wake(self, run: str, key: CallKey, at: Instant) -> None:
        def due() -> None:
            flow = self._flows.get(run)
            if flow is not None and flow.run.state.is_open:
                self._apply(flow, rules.Due(key))

        self._timers.at(at, due)

    def _send(self, peer: str, header: dict[str, Any], parts: list[bytes] | None = None) -> None:
        """Send a frame once what was decided is stored."""
        self._outbox.later(lambda: self._control.send(peer, header, parts or ()))

    def _event(self, run: str, what: str, call: str = "", state: str = "", reason: str = "") -> None:
        """Note what happened. Of several moves in one turn only the last was ever to be seen."""
        self._events.pop((run, call), None)
        self._events[run, call] = RunEvent(RunId(run), self._clock.now(), what, call, str(state), reason)

    def _tell_events(self) -> None:
        """Put the turn's events on record, and tell them to who watches."""
        events, self._events = self._events, {}
        self._outbox.changes.events += events.values()
        news: dict[str, list[Any]] = {}
        for (run, _), event in events.items():
            for peer, with_events in self._watchers.get(run, {}).items():
                if with_events:
                    news.setdefault(peer, []).append(messages.plain(event))
        for peer, told in news.items():
            self._send(peer, {"type": "events", "events": told})
        for run in self._over:
            for peer in self._watchers.pop(run, {}):
                self._send(peer, {"type": "ended", "run": run})
        self._over.clear()
