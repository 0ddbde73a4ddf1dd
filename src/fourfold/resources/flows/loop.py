"""The loop: takes what arrives, asks the rules, commits what changed, then acts.

One thread calls `turn()` whenever something has arrived or a timer is due. A turn handles everything
that waits and makes ONE commit of it; only then are intentions carried out (tasks sent, workers started
or ended, answers given). Each of them may be carried out again without harm, and what was committed but
not carried out is found again by `recover()`: so the loop may be killed between any two lines.

The simulator drives this same class, with a store in memory and a control that lies.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fourfold.core.context import Ref
from fourfold.core.decide import flow as rules
from fourfold.core.decide.place import HEADS, Lease, Start, Waiting, never_fits, place
from fourfold.core.errors import FourfoldError, NotFound, Refused
from fourfold.core.flows import (
    BODY,
    Attempt,
    CallKey,
    CallKind,
    CallState,
    Code,
    Failure,
    FlowRun,
    RunEvent,
    RunId,
    StepCall,
)
from fourfold.core.ports.clock import Clock
from fourfold.core.ports.control import Arrival, Control, Gone, Joined, Message, WorkerSpec
from fourfold.core.ports.engine import Exit, ExitKind, Resources
from fourfold.core.ports.flow_store import CacheEntry, Changes, Fenced, FlowStore, OpenRun
from fourfold.core.times import Instant, after, duration_text
from fourfold.resources.flows import messages, values
from fourfold.resources.flows.scheduler import Scheduler
from fourfold.resources.pools.workers import Worker, Workers

MOST_OPEN_CALLS = 100_000
"""A run that has made so many calls is refused more: a flow that never ends making steps must end."""
LAZY_S = 0.02
"""So long may the word that an attempt began wait for the next commit."""

Resolve = Callable[[Ref], str | None]
"""The version that a name stands for now; `None` when that cannot be told."""


@dataclass(slots=True)
class OpenFlow:
    """A run that the loop holds in memory, with all its calls."""

    run: FlowRun
    calls: dict[CallKey, StepCall] = field(default_factory=dict)
    attempts: dict[CallKey, Attempt] = field(default_factory=dict)
    dependents: dict[CallKey, list[CallKey]] = field(default_factory=dict)

    @classmethod
    def of(cls, loaded: OpenRun) -> OpenFlow:
        flow = cls(loaded.run, {call.key: call for call in loaded.calls})
        flow.attempts = {attempt.call: attempt for attempt in loaded.attempts}
        for call in loaded.calls:
            if call.state is CallState.blocked:
                flow.depend(call)
        return flow

    def depend(self, call: StepCall) -> None:
        for dep in set(call.deps):
            self.dependents.setdefault(dep, []).append(call.key)


@dataclass(frozen=True, slots=True)
class Settings:
    """Bounds of the loop."""

    most_bodies: int = 8
    most_idle: int = 8
    idle_s: float = 300.0
    stop_grace_s: float = 2.0
    log_folder: str = ""


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
        settings: Settings = Settings(),
    ) -> None:
        self._store = store
        self._control = control
        self._clock = clock
        self._new_id = new_id
        self._resolve = resolve
        self._step_code = step_code
        self._settings = settings
        self.workers = Workers(
            most_bodies=settings.most_bodies, most_idle=settings.most_idle, idle_s=settings.idle_s
        )
        self.scheduler = Scheduler()
        self.epoch = 0
        self._flows: dict[str, OpenFlow] = {}
        self._leases: dict[tuple[str, str], Lease] = {}
        self._ready: list[tuple[int, Instant, str, str]] = []
        self._bodies_ready: deque[tuple[str, str]] = deque()
        self._holds: dict[tuple[str, str], str] = {}
        self._timers: list[tuple[Instant, int, Callable[[], None]]] = []
        self._timer_count = 0
        self._watchers: dict[str, set[str]] = {}
        self._inbox: deque[Arrival] = deque()
        self._changes = Changes()
        self._is_urgent = False
        self._flush_at: Instant | None = None
        self._acts: deque[tuple[str, tuple[Any, ...]]] = deque()
        self._retry_commit_at: Instant | None = None
        self._commit_failures = 0

    # From outside

    def post(self, arrival: Arrival) -> None:
        """Put something that arrived in the inbox, for the next turn."""
        self._inbox.append(arrival)

    def take_over(self, owner: str) -> None:
        """Become the project's loop and go on with all open runs."""
        self.epoch = self._store.take_over(owner, self._clock.now())
        self.scheduler.load(self._store.deployments())
        for loaded in self._store.load_open():
            flow = self._flows[loaded.run.id] = OpenFlow.of(loaded)
            for call in list(flow.calls.values()):
                attempt = flow.attempts.get(call.key)
                if attempt is not None:
                    told = "the loop was restarted; this uses up no try"
                    self._apply(flow, rules.Interrupted(call.key, attempt.n, told))
                elif call.state is CallState.ready and call.kind is not CallKind.effect:
                    self._queue(flow, call)
                elif call.state is CallState.retry_wait:
                    self._wake(flow.run.id, call.key, call.not_before or self._clock.now())
        self._is_urgent = True

    def turn(self) -> None:
        """Handle all that has arrived and is due."""
        now = self._clock.now()
        if self._retry_commit_at is not None:
            if now < self._retry_commit_at:
                return
            self._commit(now)
            if self._retry_commit_at is not None:
                return
        self._act()
        self._fire(now)
        while self._inbox:
            self._arrived(self._inbox.popleft())
        for run in self.scheduler.due(now, self._new_run):
            self._submit(run)
        for deployment in self.scheduler.drain():
            self._changes.deployments[deployment.flow] = deployment
            self._is_urgent = True
        self._place(now)
        self._commit(now)
        if self._retry_commit_at is None:
            self._act()
            self._forget()

    def next_at(self) -> Instant | None:
        """When the next turn is due if nothing arrives."""
        if self._retry_commit_at is not None:
            return self._retry_commit_at
        times = [self._timers[0][0]] if self._timers else []
        times += [at for at in (self._flush_at, self.scheduler.next_at()) if at is not None]
        return min(times, default=None)

    @property
    def has_work(self) -> bool:
        """Whether anything waits for a turn."""
        return bool(self._inbox or self._acts or self._changes)

    @property
    def open_runs(self) -> tuple[str, ...]:
        return tuple(key for key, flow in self._flows.items() if flow.run.state.is_open)

    def flow(self, run: str) -> OpenFlow | None:
        """A run as the loop holds it (for the simulator's eyes)."""
        return self._flows.get(run)

    @property
    def leases(self) -> Mapping[tuple[str, str], Lease]:
        return self._leases

    # What arrives

    def _arrived(self, arrival: Arrival) -> None:
        match arrival:
            case Joined(name):
                if (worker := self.workers.get(name)) is not None:
                    worker.is_joined = True
                    if worker.task is not None and worker.stopping is None:
                        self._later("task", worker.name, worker.task)
            case Gone(peer, ended):
                self._gone(peer, ended)
            case Message(peer, header, parts):
                worker = self.workers.get(peer)
                if worker is not None:
                    self._from_worker(worker, header, list(parts))
                else:
                    self._from_client(peer, header)

    def _gone(self, peer: str, ended: Exit | None) -> None:
        for watchers in self._watchers.values():
            watchers.discard(peer)
        worker = self.workers.remove(peer)
        if worker is None or worker.task is None:
            return
        run, key, n = worker.task
        if (flow := self._flows.get(run)) is None:
            return
        if worker.stopping is not None:
            kind, text = worker.stopping
        else:
            kind = ended.kind if ended is not None and ended.kind is not ExitKind.ok else ExitKind.worker_lost
            kind = ExitKind.worker_lost if kind is ExitKind.failed else kind
            text = (ended.reason if ended is not None else "") or "its process ended"
        failure = Failure(kind, "", text, call=key)
        self._apply(flow, rules.Failed(CallKey(key), n, failure, exit_code=ended.code if ended else None))

    def _from_worker(self, worker: Worker, header: dict[str, Any], parts: list[bytes]) -> None:
        """A word from a worker counts only for the task that it was given: its token reaches no further."""
        if worker.task is None or header.get("run") != worker.task[0] or header.get("n") != worker.task[2]:
            self._later(
                "send", worker.name, {"type": "refused", "key": "", "reason": "stale", "is_stale": True}, ()
            )
            return
        flow = self._flows[worker.task[0]]
        key, n = CallKey(worker.task[1]), worker.task[2]
        kind = header["type"]
        if kind in ("call", "effect"):
            if key == BODY:
                self._from_body(worker, flow, kind, header, parts, n)
            return
        if header.get("key") != key:
            return
        match kind:
            case "began":
                self._apply(flow, rules.Began(key, n), is_urgent=False)
            case "finished":
                self._idle(worker)
                usage = messages.usage(header)
                reads, writes = messages.refs(header, "reads"), messages.refs(header, "writes")
                result = values.from_wire(header["result"], parts)
                self._apply(flow, rules.Finished(key, n, result, usage, reads, writes))
            case "failed":
                self._idle(worker)
                failure = messages.failure(header["failure"], parts)
                self._apply(flow, rules.Failed(key, n, failure, messages.usage(header)))
            case _:
                pass

    def _from_body(
        self, worker: Worker, flow: OpenFlow, kind: str, header: dict[str, Any], parts: list[bytes], n: int
    ) -> None:
        now = self._clock.now()
        if flow.run.call_count >= MOST_OPEN_CALLS:
            reason = f"this run has made {MOST_OPEN_CALLS} calls, the most a run may make"
            self._later("send", worker.name, {"type": "refused", "key": header["key"], "reason": reason}, ())
            return
        call = messages.call(flow.run, kind, header, parts, now)
        if kind == "effect":
            self._apply(flow, rules.EffectDone(call, n))
            return
        if call.policy.cache:
            call = replace(call, code=self._step_code(flow.run.code, call.module))
        self._apply(flow, rules.CallMade(call, n))

    def _from_client(self, peer: str, header: dict[str, Any]) -> None:
        answer: dict[str, Any] = {"type": "reply", "id": header.get("id")}
        try:
            answer |= self._ask(peer, header)
        except FourfoldError as error:
            answer["error"] = messages.error_out(error)
        self._later("send", peer, answer, ())

    def _ask(self, peer: str, header: dict[str, Any]) -> dict[str, Any]:
        match header["type"]:
            case "submit":
                run = messages.new_run(header["run"], RunId(self._new_id("run")), self._clock.now())
                steps = messages.resources(header.get("steps") or {})
                return {"run": messages.plain(self._submit(run, steps))}
            case "watch":
                self._watchers.setdefault(header["run"], set()).add(peer)
                return {"is_open": header["run"] in self.open_runs}
            case "cancel":
                flow = self._wanted(header["run"])
                self._apply(flow, rules.CancelAsked(header.get("why") or "cancelled"))
                return {"run": messages.plain(flow.run)}
            case "resume":
                flow = self._wanted(header["run"])
                self._apply(flow, rules.ResumeAsked())
                return {"run": messages.plain(flow.run)}
            case "deploy":
                deployment = messages.deployment(header["deployment"], self._clock.now())
                self._deploy(deployment)
                return {"deployment": messages.plain(deployment)}
            case "start":
                found = self.scheduler.get(header["flow"])
                run = self._new_run(found, None, header.get("params") or {}, header.get("key", ""))
                return {"run": messages.plain(self._submit(run))}
            case "pause_schedule":
                found = replace(self.scheduler.get(header["flow"]), is_paused=bool(header["is_paused"]))
                self._deploy(found)
                return {"deployment": messages.plain(found)}
            case "why":
                run_id = header["run"]
                holds = {key: told for (run, key), told in self._holds.items() if run == run_id}
                return {"holds": holds, "is_firing": self.scheduler.is_firing}
            case other:
                raise Refused(f"the owner does not know what {other!r} means; is it of another version?")

    def _wanted(self, run: str) -> OpenFlow:
        if (flow := self._flows.get(run)) is not None:
            return flow
        loaded = self._store.load(RunId(run))
        if loaded is None:
            raise NotFound(f"there is no flow run {run!r}", ways_on=["list them: fourfold flow ls"])
        flow = self._flows[run] = OpenFlow.of(loaded)
        return flow

    def _deploy(self, deployment: Any) -> None:
        self.scheduler.put(deployment, self._clock.now())
        self._changes.deployments[deployment.flow] = deployment
        self._is_urgent = True

    def _new_run(self, deployment: Any, tick: Instant | None, params: Mapping[str, Any], key: str) -> FlowRun:
        return messages.run_of(
            deployment, RunId(self._new_id("run")), self._clock.now(), tick=tick, params=params, key=key
        )

    def _submit(self, run: FlowRun, steps: Mapping[str, Resources] | None = None) -> FlowRun:
        if run.key:
            for flow in self._flows.values():
                if flow.run.key == run.key:
                    return flow.run
            if (known := self._store.run_by_key(run.key)) is not None:
                return known
        for name, resources in sorted((steps or {}).items()):
            if told := never_fits(self._control.units(), resources):
                raise Refused(
                    f"step '{name}' of flow '{run.flow}' {told}",
                    ways_on=[f"lower what step '{name}' asks for, or add a larger unit"],
                    step=name,
                )
        now = self._clock.now()
        body = StepCall(run.id, BODY, 0, CallKind.body, run.flow, CallState.ready, now, ready_at=now)
        flow = self._flows[run.id] = OpenFlow(run, {BODY: replace(body, module=run.code.module)})
        self._changes.runs[run.id] = run
        self._changes.calls[run.id, BODY] = flow.calls[BODY]
        self._event(run.id, "run", state=run.state, reason=run.reason)
        self._queue(flow, flow.calls[BODY])
        self._is_urgent = True
        return run

    # Deciding

    def _apply(self, flow: OpenFlow, event: rules.Event, *, is_urgent: bool = True) -> None:
        """Ask the rules about an event and about all that follows from it."""
        events: deque[rules.Event] = deque([event])
        while events:
            event = events.popleft()
            before = self._slice(flow, event)
            state, commands = rules.decide(before, event, self._clock.now())
            self._keep(flow, before, state, is_urgent=is_urgent)
            for command in commands:
                events.extend(self._command(flow, command))

    def _slice(self, flow: OpenFlow, event: rules.Event) -> rules.Slice:
        keys: Iterable[CallKey]
        match event:
            case rules.CallMade(call, _) | rules.EffectDone(call, _):
                keys = (BODY, call.key, *call.deps)
            case rules.InputSettled(key, dep):
                keys = (key, dep)
            case rules.CancelAsked():
                keys = [key for key, call in flow.calls.items() if call.state.is_open]
            case rules.ResumeAsked():
                keys = flow.calls
            case _:
                keys = (event.key,)
        calls = {key: flow.calls[key] for key in keys if key in flow.calls}
        attempts = {key: flow.attempts[key] for key in calls if key in flow.attempts}
        return rules.Slice(flow.run, calls, attempts)

    def _keep(self, flow: OpenFlow, before: rules.Slice, state: rules.Slice, *, is_urgent: bool) -> None:
        """Take over what a decision changed, and note it for the commit."""
        if state is before:
            return
        self._is_urgent = self._is_urgent or is_urgent
        run_id = flow.run.id
        if state.run is not before.run:
            flow.run = replace(state.run, version=flow.run.version + 1)
            self._changes.runs[run_id] = flow.run
            if state.run.state is not before.run.state:
                self._event(run_id, "run", state=flow.run.state, reason=flow.run.reason)
        for key, call in state.calls.items():
            old = before.calls.get(key)
            if call is old:
                continue
            flow.calls[key] = call
            self._changes.calls[run_id, key] = call
            if (old is None and call.state is CallState.blocked) or (
                old is not None and old.state is not CallState.blocked and call.state is CallState.blocked
            ):
                flow.depend(call)
            if old is None or old.state is not call.state:
                self._event(run_id, "call", key, call.state, call.reason)
        for key, attempt in state.attempts.items():
            if attempt is before.attempts.get(key):
                continue
            if attempt.ended_at is not None:
                flow.attempts.pop(key, None)
                lease = self._leases.pop((run_id, key), None)
                self._changes.jobs.append(messages.job(flow.run, flow.calls[key], attempt, lease))
            else:
                flow.attempts[key] = attempt
            self._changes.attempts[run_id, key, attempt.n] = attempt

    def _command(self, flow: OpenFlow, command: rules.Command) -> Iterable[rules.Event]:
        run = flow.run.id
        match command:
            case rules.Queue(key):
                self._queue(flow, flow.calls[key])
            case rules.LookUp(key):
                return (self._look_up(flow, flow.calls[key]),)
            case rules.Wake(key, at):
                self._wake(run, key, at)
            case rules.Tell(key):
                return self._tell(flow, flow.calls[key])
            case rules.Stop(key, n, reason):
                self._stop_task((run, key, n), ExitKind.cancelled, reason)
            case rules.Refuse(key, reason):
                self._refuse(flow, key, reason)
            case rules.RunOver():
                for peer in sorted(self._watchers.pop(run, ())):
                    self._later("send", peer, {"type": "ended", "run": run, "state": str(flow.run.state)}, ())
            case rules.Cancel(reason):
                return (rules.CancelAsked(reason),)
        return ()

    def _tell(self, flow: OpenFlow, call: StepCall) -> list[rules.Event]:
        """A call has settled: remember it for the cache, tell the body, and go on with those that waited."""
        if call.cache_key and call.state is CallState.succeeded and call.result is not None:
            self._changes.cache[call.cache_key] = CacheEntry(
                call.cache_key,
                f"{call.run}/{call.key}",
                call.result,
                call.reads,
                call.writes,
                self._clock.now(),
            )
        self._holds.pop((call.run, call.key), None)
        body = flow.attempts.get(BODY)
        if body is not None and (worker := self.workers.get(body.worker)) is not None and worker.is_joined:
            self._later("send", worker.name, *messages.settled(call))
        waiting = flow.dependents.pop(call.key, ())
        return [rules.InputSettled(key, call.key) for key in waiting]

    def _look_up(self, flow: OpenFlow, call: StepCall) -> rules.CacheAnswer:
        """Ask the cache; a hit counts only while all that the first run touched is as it left it."""
        key = messages.cache_key(flow.run, call, [flow.calls[dep] for dep in call.deps])
        entry = self._store.cached(key)
        if entry is None:
            return rules.CacheAnswer(call.key, key, reason="not in the cache")
        for ref in (*entry.reads, *entry.writes):
            if (version := self._resolve(ref)) != ref.version:
                moved = f"{ref.kind} {ref.name} was at version {ref.version}, now {version or 'unknown'}"
                return rules.CacheAnswer(call.key, key, reason=f"cached, but {moved}")
        return rules.CacheAnswer(
            call.key,
            key,
            entry.source,
            entry.result,
            entry.reads,
            entry.writes,
            f"same code, environment and inputs as {entry.source}",
        )

    def _refuse(self, flow: OpenFlow, key: str, reason: str) -> None:
        body = flow.attempts.get(BODY)
        if body is not None:
            self._later("send", body.worker, {"type": "refused", "key": key, "reason": reason}, ())

    # Placing

    def _queue(self, flow: OpenFlow, call: StepCall) -> None:
        if call.kind is CallKind.body:
            self._bodies_ready.append((call.run, call.key))
            return
        told = never_fits(self._control.units(), call.policy.resources)
        if told:
            self._apply(flow, rules.Unmet(call.key, f"step '{call.name}' {told}"))
            return
        entry = (-flow.run.priority, call.ready_at or self._clock.now(), call.run, call.key)
        heapq.heappush(self._ready, entry)

    def _place(self, now: Instant) -> None:
        """Give free units to those whose turn it is."""
        self._place_bodies()
        heads: list[tuple[int, Instant, str, str]] = []
        waiting: list[Waiting] = []
        while self._ready and len(heads) < HEADS:
            entry = heapq.heappop(self._ready)
            call = self._ready_call(entry[2], entry[3])
            if call is None:
                continue
            heads.append(entry)
            waiting.append(Waiting(f"{entry[2]}/{entry[3]}", call.policy.resources, entry[1], -entry[0]))
        if not heads:
            return
        by_holder = {work.holder: entry for work, entry in zip(waiting, heads, strict=True)}
        for decision in place(self._control.units(), tuple(self._leases.values()), waiting, now):
            entry = by_holder[decision.holder]
            run, key = entry[2], CallKey(entry[3])
            if isinstance(decision, Start):
                self._leases[run, key] = decision.lease
                self._holds.pop((run, key), None)
                self._lease(self._flows[run], key, decision.lease.unit, decision.reason)
            else:
                self._holds[run, key] = decision.reason
                heapq.heappush(self._ready, entry)

    def _place_bodies(self) -> None:
        held = []
        while self._bodies_ready:
            run, key = self._bodies_ready.popleft()
            if self._ready_call(run, key) is None:
                continue
            if self.workers.bodies() >= self.workers.most_bodies:
                self._holds[run, key] = (
                    f"{self.workers.most_bodies} flow bodies run already, the most at once"
                )
                held.append((run, key))
                break
            self._holds.pop((run, key), None)
            self._lease(self._flows[run], CallKey(key), "", "a place for its body is free")
        self._bodies_ready.extendleft(reversed(held))

    def _ready_call(self, run: str, key: str) -> StepCall | None:
        """The call, if it still wants a worker. One whose earlier attempt still ends waits for that."""
        flow = self._flows.get(run)
        call = None if flow is None else flow.calls.get(CallKey(key))
        if flow is None or call is None or call.state is not CallState.ready:
            return None
        if call.key in flow.attempts:
            self._holds[run, key] = "its earlier attempt has not ended yet"
            self._at(after(self._clock.now(), 0.05), lambda: self._queue_again(run, key))
            return None
        return call

    def _queue_again(self, run: str, key: str) -> None:
        flow = self._flows.get(run)
        if flow is not None and (call := flow.calls.get(CallKey(key))) is not None:
            self._queue(flow, call)

    def _lease(self, flow: OpenFlow, key: CallKey, unit: str, reason: str) -> None:
        call = flow.calls[key]
        spec = WorkerSpec(
            "body" if call.kind is CallKind.body else "step",
            flow.run.python,
            flow.run.code,
            Resources() if call.kind is CallKind.body else call.policy.resources,
            flow.run.cwd,
        )
        worker = self.workers.warm(spec)
        is_new = worker is None
        if worker is None:
            worker = Worker(self._new_id("worker"), spec, unit)
            self.workers.add(worker)
        n = call.attempt + 1
        task = (flow.run.id, key, n)
        worker.task, worker.idle_since = task, None
        folder = self._settings.log_folder
        log = f"{folder}/{flow.run.id}/{call.seq}-{n}.log" if folder else ""
        self._apply(flow, rules.Leased(key, worker.name, unit, log, reason))
        if call.policy.timeout_s is not None:
            self._at(
                after(self._clock.now(), call.policy.timeout_s),
                lambda: self._stop_task(
                    task,
                    ExitKind.over_time,
                    f"it ran longer than {duration_text(call.policy.timeout_s or 0)}",
                ),
            )
        if is_new:
            self._later("launch", worker.name)
        elif worker.is_joined:
            self._later("task", worker.name, task)

    def _idle(self, worker: Worker) -> None:
        worker.task, worker.idle_since = None, self._clock.now()
        if worker.stopping is None:
            surplus = self.workers.surplus(self._clock.now())
            for old in surplus:
                self._end_worker(old)
            self._at(after(self._clock.now(), self.workers.idle_s), self._end_idle)

    def _end_idle(self) -> None:
        for worker in self.workers.surplus(self._clock.now()):
            self._end_worker(worker)

    def _end_worker(self, worker: Worker) -> None:
        worker.stopping = (ExitKind.cancelled, "it was idle")
        self._later("send", worker.name, {"type": "exit"}, ())

    def _stop_task(self, task: tuple[str, str, int], kind: ExitKind, reason: str) -> None:
        for worker in self.workers:
            if worker.task == task and worker.stopping is None:
                worker.stopping = (kind, reason)
                self._later("stop", worker.name)
                return

    # Timers

    def _wake(self, run: str, key: CallKey, at: Instant) -> None:
        def due() -> None:
            flow = self._flows.get(run)
            if flow is not None and flow.run.state.is_open:
                self._apply(flow, rules.Due(key))

        self._at(at, due)

    def _at(self, at: Instant, action: Callable[[], None]) -> None:
        self._timer_count += 1
        heapq.heappush(self._timers, (at, self._timer_count, action))

    def _fire(self, now: Instant) -> None:
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()

    # Committing, and acting after it

    def _event(self, run: str, what: str, call: str = "", state: str = "", reason: str = "") -> None:
        event = RunEvent(RunId(run), self._clock.now(), what, call, str(state), reason)
        self._changes.events.append(event)
        for peer in sorted(self._watchers.get(run, ())):
            self._later("send", peer, {"type": "event", "event": messages.plain(event)}, ())

    def _later(self, what: str, *arguments: Any) -> None:
        self._acts.append((what, arguments))

    def _commit(self, now: Instant) -> None:
        if not self._changes:
            self._is_urgent, self._flush_at = False, None
            return
        if not self._is_urgent and (self._flush_at is None or now < self._flush_at):
            self._flush_at = self._flush_at or after(now, LAZY_S)
            return
        try:
            self._store.commit(self.epoch, self._changes)
        except Fenced:
            raise  # another loop has taken over: this one must not go on
        except Exception:  # the store does not answer now: nothing is carried out until it does
            self._commit_failures += 1
            if self._commit_failures > 100:
                raise
            self._retry_commit_at = after(now, min(5.0, 0.05 * 2.0 ** min(self._commit_failures, 10)))
            return
        self._changes = Changes()
        self._is_urgent, self._flush_at = False, None
        self._commit_failures, self._retry_commit_at = 0, None

    def _act(self) -> None:
        """Carry out what was decided; it is committed by now."""
        while self._acts:
            what, arguments = self._acts.popleft()
            match what:
                case "send":
                    self._control.send(*arguments)
                case "task":
                    self._send_task(*arguments)
                case "launch":
                    if (worker := self.workers.get(arguments[0])) is not None:
                        self._control.launch(worker.name, worker.spec)
                case "stop":
                    self._control.stop(arguments[0], grace_s=self._settings.stop_grace_s)
                case _:
                    raise AssertionError(what)

    def _send_task(self, name: str, task: tuple[str, str, int]) -> None:
        """Tell a worker what to do, unless that is over already."""
        worker, flow = self.workers.get(name), self._flows.get(task[0])
        if worker is None or flow is None or worker.task != task or worker.stopping is not None:
            return
        call, attempt = flow.calls[CallKey(task[1])], flow.attempts.get(CallKey(task[1]))
        if attempt is None:
            return
        tz = self.scheduler.zone(flow.run.schedule)
        self._control.send(name, *messages.task(flow.run, call, attempt, flow.calls, tz))

    def _forget(self) -> None:
        """Let go of runs that have ended and whose processes have too."""
        over = [key for key, flow in self._flows.items() if not flow.run.state.is_open and not flow.attempts]
        for key in over:
            del self._flows[key]
