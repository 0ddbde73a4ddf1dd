"""What must always hold, checked as it happens and again at the end."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from fourfold.core.decide.retry import MOST_LOSSES
from fourfold.core.decide.transitions import TRANSITIONS, Move
from fourfold.core.flows import (
    Attempt,
    CallKey,
    CallKind,
    CallState,
    FlowRun,
    RunId,
    RunState,
    StepCall,
)
from fourfold.core.jobs import ExitKind, Resources, UnitCapacity
from fourfold.core.ports.flow_store import Changes, FlowStore
from fourfold.resources.flows.gangs import worker_of
from fourfold.sim import programs
from fourfold.sim.world import Violation

_ROUNDING = 1e-6
_RESUMES = (Move.resume, Move.resume_blocked)

Task = tuple[str, CallKey, int]


def _reachable(*, resumes: bool) -> Mapping[CallState, frozenset[CallState]]:
    """What a call may have become by any number of moves."""
    steps = {
        state: {
            end
            for (begin, move), end in TRANSITIONS.items()
            if begin is state and (resumes or move not in _RESUMES)
        }
        for state in CallState
    }
    found = {state: {state} for state in CallState}
    for _ in CallState:
        for state in CallState:
            for end in tuple(found[state]):
                found[state] |= steps[end]
    return {state: frozenset(ends) for state, ends in found.items()}


_ONWARD, _ANYWHERE = _reachable(resumes=False), _reachable(resumes=True)


class Ledger:
    """Follows what was committed and what really runs; raises `Violation` as soon as they disagree."""

    def __init__(self, units: Collection[UnitCapacity], *, most_bodies: int) -> None:
        self._units = {unit.name: unit for unit in units}
        self._most_bodies = most_bodies
        self.runs: dict[str, FlowRun] = {}
        self.calls: dict[str, dict[CallKey, StepCall]] = {}
        self.attempts: dict[Task, Attempt] = {}
        self._open: dict[tuple[str, CallKey], set[int]] = {}
        self.resumed: dict[str, int] = {}
        """How often somebody asked for an ended run to go on."""
        self.cancelled: set[str] = set()
        """Runs whose end somebody asked for."""
        self._working: dict[str, tuple[Task, str, Resources]] = {}
        self.begun_count = 0

    # What was committed

    def committed(self, changes: Changes) -> None:
        """These rows are in the store now."""
        for run in changes.runs.values():
            self._run(run)
        for call in changes.calls.values():
            self._call(call)
        for attempt in changes.attempts.values():
            self._attempt(attempt)
        for run_id in changes.runs:
            self._ended_run_is_quiet(run_id)

    def _run(self, run: FlowRun) -> None:
        known = self.runs.get(run.id)
        if known is not None and not known.state.is_open and run != known and not self.resumed.get(run.id):
            raise Violation(f"{run.id} had {known.state}, and then became {run.state}")
        self.runs[run.id] = run

    def _call(self, call: StepCall) -> None:
        calls = self.calls.setdefault(call.run, {})
        known = calls.get(call.key)
        calls[call.key] = call
        if known is None or known == call:
            return
        name = f"{call.run}/{call.key}"
        if known.kind is not CallKind.body and known.state.is_good:
            raise Violation(f"{name} had {known.state}, and was changed to {call.state}")
        allowed = (_ANYWHERE if self.resumed.get(call.run) else _ONWARD)[known.state]
        if call.state not in allowed:
            raise Violation(f"{name} went from {known.state} to {call.state}")
        if not known.attempt <= call.attempt <= known.attempt + 1:
            raise Violation(f"{name} went from attempt {known.attempt} to {call.attempt}")
        if call.state is CallState.succeeded:
            for worker, (busy, _, _) in self._working.items():
                if busy[:2] == (call.run, call.key):
                    raise Violation(f"{name} has succeeded, and {worker} still works on it")
        if call.tries > call.policy.retries + 1:
            raise Violation(f"{name} was tried {call.tries} times, with {call.policy.retries} retries")

    def _attempt(self, attempt: Attempt) -> None:
        task = (attempt.run, attempt.call, attempt.n)
        known = self.attempts.get(task)
        if known is not None and known.ended_at is not None and known != attempt:
            raise Violation(f"{attempt.key} had ended, and was changed")
        self.attempts[task] = attempt
        open_now = self._open.setdefault((attempt.run, attempt.call), set())
        (open_now.add if attempt.ended_at is None else open_now.discard)(attempt.n)
        if len(open_now) > 1:
            raise Violation(f"{attempt.run}/{attempt.call} has several open attempts: {sorted(open_now)}")

    def _ended_run_is_quiet(self, run_id: str) -> None:
        if self.runs[run_id].state.is_open:
            return
        for call in self.calls.get(run_id, {}).values():
            if call.state.is_open:
                raise Violation(f"{run_id} is {self.runs[run_id].state}, but {call.key} is {call.state}")

    # What really happens

    def begins(self, worker: str, task: Task, unit: str, resources: Resources) -> None:
        """A worker process begins to carry an attempt out: on its unit, with those of the other nodes."""
        run, key, n = task
        name = f"{run}/{key}@{n}"
        for other, (busy, _, _) in self._working.items():
            is_with_us = other != worker and worker_of(other) == worker_of(worker) and busy == task
            if busy[:2] == (run, key) and not is_with_us:
                raise Violation(f"{name} begins on {worker} while attempt {busy[2]} still runs on {other}")
        attempt = self.attempts.get(task)
        if attempt is None:
            raise Violation(f"{name} begins, but is not on record")
        if attempt.worker != worker_of(worker):
            raise Violation(f"{name} begins on {worker}, but was given to {attempt.worker}")
        call = self.calls[run][key]
        if call.kind is not CallKind.body and call.state.is_good:
            raise Violation(f"{name} begins, but {key} has {call.state} already")
        self.begun_count += 1
        self._working[worker] = (task, unit, resources)
        self._within_capacity(unit)

    def rests(self, worker: str) -> None:
        """A worker process no longer carries anything out."""
        self._working.pop(worker, None)

    def acts(self, run: str, key: CallKey) -> None:
        """A flow's body carries an effect out."""
        known = self.calls.get(run, {}).get(key)
        if known is not None and known.state.is_good:
            raise Violation(f"effect {run}/{key} is done again")

    @property
    def is_busy(self) -> bool:
        return bool(self._working)

    def _within_capacity(self, name: str) -> None:
        if not name:
            bodies = [task for task, unit, _ in self._working.values() if not unit]
            if len(bodies) > self._most_bodies:
                raise Violation(f"{len(bodies)} bodies run at once, and {self._most_bodies} may: {bodies}")
            return
        unit = self._units[name]
        used = [resources for _, where, resources in self._working.values() if where == name]
        cpu = sum(resources.cpu.low for resources in used)
        memory = sum(resources.memory_bytes.low for resources in used)
        if cpu > unit.cpu + _ROUNDING or memory > unit.memory_bytes:
            raise Violation(f"unit {name} holds {cpu:g} cpu and {memory:g} bytes, more than it has")

    # At the end

    @property
    def open_runs(self) -> list[str]:
        return sorted(run.id for run in self.runs.values() if run.state.is_open)

    def at_rest(self, store: FlowStore) -> None:
        """Everything has ended: does the store hold it, and did it come to what it must?"""
        for run_id, run in sorted(self.runs.items()):
            found = store.load(RunId(run_id))
            calls = self.calls.get(run_id, {})
            if found is None or found.run != run or {call.key: call for call in found.calls} != calls:
                raise Violation(f"the store has lost part of {run_id}, which it said it had kept")
            if found.attempts:
                keys = ", ".join(attempt.key for attempt in found.attempts)
                raise Violation(f"{run_id} is {run.state}, but these attempts never ended: {keys}")
            for call in calls.values():
                self._account(call)
            self._outcome(run, calls)

    def _account(self, call: StepCall) -> None:
        """Each attempt of a call is there and ended, and its count of tries is theirs."""
        if call.kind is CallKind.effect:
            return
        name = f"{call.run}/{call.key}"
        own = [self.attempts.get((call.run, call.key, n)) for n in range(1, call.attempt + 1)]
        if any(attempt is None or attempt.exit is None for attempt in own):
            raise Violation(f"{name} is at attempt {call.attempt}, but not all of them are on record")
        if call.state is CallState.failed and not self.resumed.get(call.run):
            spent = call.tries > call.policy.retries or call.losses >= MOST_LOSSES - 1
            told = call.failure
            if told is None or not (spent or told.is_permanent or told.kind is ExitKind.cancelled):
                raise Violation(f"{name} failed after {call.tries} tries, though more were allowed")

    def _outcome(self, run: FlowRun, calls: Mapping[CallKey, StepCall]) -> None:
        if run.state is RunState.cancelled:
            if run.id not in self.cancelled:
                raise Violation(f"{run.id} was cancelled, and nobody asked for it")
            return
        failure = run.failure
        if failure is not None and failure.kind is not ExitKind.failed:
            return  # its body's process died too often
        try:
            due = programs.replay(programs.program(int(run.params["seed"])), calls)
        except AssertionError as error:
            raise Violation(f"{run.id}: {error}") from error
        came_to = run.result if failure is None else failure.message
        if came_to != due:
            raise Violation(f"{run.id} {run.state} with {came_to}, and it should have been {due}")
