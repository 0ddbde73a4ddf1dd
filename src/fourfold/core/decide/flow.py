"""The state machine of a flow run: `decide(slice, event, now) -> (slice, commands)`.

A slice is one run and only those calls that the event touches, so an event costs the same in a run of
ten calls and in one of ten thousand. All moves a call can make are in `transitions.py`; `_move` looks
them up there and nothing else changes a state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fourfold.core.decide.flow_events import Began as Began
from fourfold.core.decide.flow_events import CacheAnswer as CacheAnswer
from fourfold.core.decide.flow_events import CallMade as CallMade
from fourfold.core.decide.flow_events import Cancel as Cancel
from fourfold.core.decide.flow_events import CancelAsked as CancelAsked
from fourfold.core.decide.flow_events import Command as Command
from fourfold.core.decide.flow_events import Due as Due
from fourfold.core.decide.flow_events import EffectDone as EffectDone
from fourfold.core.decide.flow_events import Event as Event
from fourfold.core.decide.flow_events import Failed as Failed
from fourfold.core.decide.flow_events import Finished as Finished
from fourfold.core.decide.flow_events import InputSettled as InputSettled
from fourfold.core.decide.flow_events import Interrupted as Interrupted
from fourfold.core.decide.flow_events import Leased as Leased
from fourfold.core.decide.flow_events import LookUp as LookUp
from fourfold.core.decide.flow_events import Placed as Placed
from fourfold.core.decide.flow_events import Queue as Queue
from fourfold.core.decide.flow_events import Refuse as Refuse
from fourfold.core.decide.flow_events import ResumeAsked as ResumeAsked
from fourfold.core.decide.flow_events import RunOver as RunOver
from fourfold.core.decide.flow_events import Stop as Stop
from fourfold.core.decide.flow_events import Tell as Tell
from fourfold.core.decide.flow_events import Unmet as Unmet
from fourfold.core.decide.flow_events import Wake as Wake
from fourfold.core.decide.retry import Again, GiveUp, after_failure
from fourfold.core.decide.transitions import TRANSITIONS, Move
from fourfold.core.flows import (
    BODY,
    Attempt,
    CallKey,
    CallKind,
    CallState,
    Failure,
    FlowRun,
    RunState,
    StepCall,
)
from fourfold.core.jobs import Exit, ExitKind, Usage
from fourfold.core.times import Instant
from fourfold.core.values import replace


@dataclass(frozen=True, slots=True)
class Slice:
    """A run, the calls an event touches, and their attempts that have not ended."""

    run: FlowRun
    calls: Mapping[CallKey, StepCall] = field(default_factory=dict)
    attempts: Mapping[CallKey, Attempt] = field(default_factory=dict)


def decide(state: Slice, event: Event, now: Instant) -> tuple[Slice, tuple[Command, ...]]:
    """What follows from an event. The slice that comes back holds all that changed."""
    match event:
        case CallMade():
            return _call_made(state, event, now)
        case EffectDone():
            return _effect_done(state, event, now)
        case InputSettled():
            return _input_settled(state, event, now)
        case CacheAnswer():
            return _cache_answer(state, event, now)
        case Leased():
            return _leased(state, event, now)
        case Began():
            return _began(state, event, now)
        case Placed():
            return _placed(state, event)
        case Finished():
            return _finished(state, event, now)
        case Failed():
            return _failed(state, event, now)
        case Interrupted():
            return _interrupted(state, event, now)
        case Due():
            return _due(state, event, now)
        case Unmet():
            return _unmet(state, event, now)
        case CancelAsked():
            return _cancel(state, event.why, now)
        case ResumeAsked():
            return _resume(state, now)


def _call_made(state: Slice, event: CallMade, now: Instant) -> tuple[Slice, tuple[Command, ...]]:
    call = event.call
    if refusal := _refusal(state, call, event.body_attempt):
        return state, (refusal,)
    if (known := state.calls.get(call.key)) is not None:  # the body was run again
        return state, (Tell(call.key),) if not known.state.is_open else ()
    seq = state.run.call_count + 1
    bad = [dep for dep in call.deps if dep in state.calls and _is_bad(state.calls[dep])]
    left = [dep for dep in call.deps if dep not in state.calls or not state.calls[dep].state.is_good]
    call = replace(call, seq=seq, state=CallState.blocked, deps_left=len(left), reason=_waits_for(left))
    state = replace(state, run=replace(state.run, call_count=seq))
    if bad:
        return _input_failed(state, call, state.calls[bad[0]], now)
    if left:
        return _with(state, call), ()
    return _make_ready(state, call, Move.unblock, now)


def _effect_done(state: Slice, event: EffectDone, now: Instant) -> tuple[Slice, tuple[Command, ...]]:
    call = event.call
    if refusal := _refusal(state, call, event.body_attempt):
        return state, (refusal,)
    known = state.calls.get(call.key)
    if known is not None and known.state is not CallState.ready:  # told before; the first word stands
        return state, (Tell(call.key),)
    run = state.run
    if known is None:
        run = replace(run, call_count=run.call_count + 1)
    seq = run.call_count if known is None else known.seq
    move = Move.fail if call.failure is not None else Move.finish
    call = replace(call, seq=seq, state=CallState.ready, ended_at=now, attempt=event.body_attempt)
    call = _move(call, move, "done by the flow's body")
    return _with(replace(state, run=run), call), (Tell(call.key),)


def _refusal(state: Slice, call: StepCall, body_attempt: int) -> Refuse | None:
    """Why a word from the body does not count: the run is over, the body is an old one, or it strays."""
    body = state.calls[BODY]
    if not state.run.state.is_open or not body.state.is_live or body.attempt != body_attempt:
        return Refuse(call.key, f"attempt {body_attempt} of the flow's body is no longer the present one")
    known = state.calls.get(call.key)
    if known is None or known.arguments is None or call.arguments is None:
        return None
    if known.arguments.digest != call.arguments.digest or known.deps != call.deps or known.name != call.name:
        return Refuse(
            call.key,
            f"line {call.line}: {call.name} is called with other arguments than on record for {call.key} "
            f"(made at line {known.line} before); a flow must make the same calls when it is run again: use "
            "ff.now() and ff.random() instead of the clock and chance, and read changing things in steps",
        )
    return None


def _input_settled(state: Slice, event: InputSettled, now: Instant) -> tuple[Slice, tuple[Command, ...]]:
    call, dep = state.calls[event.key], state.calls[event.dep]
    if call.state is not CallState.blocked:
        return state, ()
    if _is_bad(dep):
        return _input_failed(state, call, dep, now)
    left = call.deps_left - call.deps.count(dep.key)
    if left > 0:
        reason = f"waits for {left} of its {len(call.deps)} inputs"
        return _with(state, replace(call, deps_left=left, reason=reason)), ()
    return _make_ready(state, call, Move.unblock, now, deps_left=left)


def _input_failed(
    state: Slice, call: StepCall, dep: StepCall, now: Instant
) -> tuple[Slice, tuple[Command, ...]]:
    """The failure of an input is the failure of whoever waits for it; it still names the call it began in."""
    how = "was cancelled" if dep.state is CallState.cancelled else "failed"
    told = f"its input {dep.key} {how}"
    call = _move(call, Move.input_failed, told, failure=dep.failure, ended_at=now)
    return _with(state, call), (Tell(call.key),)


def _cache_answer(state: Slice, event: CacheAnswer, now: Instant) -> tuple[Slice, tuple[Command, ...]]:
    call = state.calls[event.key]
    if call.state is not CallState.ready:
        return state, ()
    if not event.source:
        call = replace(call, cache_key=event.cache_key, reason=event.reason)
        return _with(state, call), (Queue(call.key),)
    call = _move(
        call,
        Move.hit,
        event.reason,
        cache_key=event.cache_key,
        result=event.result,
        reads=event.reads,
        writes=event.writes,
        cached_from=event.source,
        ended_at=now,
    )
    return _with(state, call), (Tell(call.key),)


def _leased(state: Slice, event: Leased, now: Instant) -> tuple[Slice, tuple[Command, ...]]:
    call = state.calls[event.key]
    assert event.key not in state.attempts, "one live attempt per call"
    call = _move(call, Move.lease, event.reason, attempt=call.attempt + 1, not_before=None)
    attempt = Attempt(
        call.run,
        call.key,
        call.attempt,
        leased_at=now,
        worker=event.worker,
        unit=event.unit,
        log_start=event.log_start,
    )
    run = state.run
    if call.kind is CallKind.body and run.state is RunState.queued:
        run = replace(run, state=RunState.running, started_at=run.started_at or now, reason="")
    attempts = {**state.attempts, call.key: attempt}
    return _with(replace(state, run=run, attempts=attempts), call), ()


def _began(state: Slice, event: Began, now: Instant) -> tuple[Slice, tuple[Command, ...]]:
    call, attempt = state.calls[event.key], state.attempts.get(event.key)
    if attempt is None or attempt.n != event.n or call.state is not CallState.leased:
        return state, ()  # of an earlier attempt, cancelled meanwhile, or told twice
    call = _move(call, Move.start, _where(attempt), started_at=now)
    attempts = {**state.attempts, call.key: replace(attempt, started_at=now)}
    return _with(replace(state, attempts=attempts), call), ()


def _placed(state: Slice, event: Placed) -> tuple[Slice, tuple[Command, ...]]:
    call, attempt = state.calls[event.key], state.attempts.get(event.key)
    if attempt is None or attempt.n != event.n or attempt.unit == event.unit:
        return state, ()
    moved = replace(attempt, unit=event.unit)
    state = replace(state, attempts={**state.attempts, call.key: moved})
    if call.state is CallState.running and call.reason == _where(attempt):
        state = _with(state, replace(call, reason=_where(moved)))
    return state, ()


def _where(attempt: Attempt) -> str:
    return f"on {attempt.unit or attempt.worker}"


def _finished(state: Slice, event: Finished, now: Instant) -> tuple[Slice, tuple[Command, ...]]:
    state, counts = _end_attempt(
        state, event.key, event.n, Exit(ExitKind.ok), event.usage, now, event.log_end
    )
    if not counts:
        return state, ()  # the result of an earlier attempt, or of a call that was cancelled, is dropped
    call = _move(
        state.calls[event.key],
        Move.finish,
        "",
        result=event.result,
        reads=event.reads,
        writes=event.writes,
        tries=state.calls[event.key].tries + 1,
        ended_at=now,
    )
    state = _with(state, call)
    if call.kind is not CallKind.body:
        return state, (Tell(call.key),)
    run = replace(state.run, state=RunState.succeeded, result=event.result, ended_at=now, reason="")
    return replace(state, run=run), (Cancel("the flow ended without them"), RunOver("succeeded"))


def _failed(state: Slice, event: Failed, now: Instant) -> tuple[Slice, tuple[Command, ...]]:
    ended = Exit(event.failure.kind, event.failure.message, event.exit_code)
    state, counts = _end_attempt(state, event.key, event.n, ended, event.usage, now, event.log_end)
    if not counts:
        return state, ()
    call = state.calls[event.key]
    match after_failure(call, event.failure, now):
        case Again(at, reason, uses_try, is_loss):
            spent = {
                "tries": call.tries + uses_try,
                "losses": call.losses + is_loss,
                "failure": event.failure,
            }
            if at <= now:
                return _make_ready(state, call, Move.give_back, now, reason, **spent)
            call = _move(call, Move.wait, reason, not_before=at, **spent)
            return _with(state, call), (Wake(call.key, at),)
        case GiveUp(reason):
            tries = call.tries + 1
            failure = replace(event.failure, call=call.key)
            if event.failure.kind is ExitKind.worker_lost:
                failure = replace(failure, message=reason)
            call = _move(call, Move.fail, reason, tries=tries, failure=failure, ended_at=now)
            state = _with(state, call)
            if call.kind is not CallKind.body:
                return state, (Tell(call.key),)
            return _run_failed(state, failure, reason, now)


def _interrupted(state: Slice, event: Interrupted, now: Instant) -> tuple[Slice, tuple[Command, ...]]:
    ended = Exit(ExitKind.worker_lost, event.reason)
    state, counts = _end_attempt(state, event.key, event.n, ended, Usage(), now)
    if not counts:
        return state, ()
    return _make_ready(state, state.calls[event.key], Move.give_back, now, event.reason)


def _due(state: Slice, event: Due, now: Instant) -> tuple[Slice, tuple[Command, ...]]:
    call = state.calls[event.key]
    if call.state is not CallState.retry_wait:
        return state, ()
    return _make_ready(state, call, Move.due, now, call.reason, not_before=None)


def _unmet(state: Slice, event: Unmet, now: Instant) -> tuple[Slice, tuple[Command, ...]]:
    call = state.calls[event.key]
    if call.state is not CallState.ready:
        return state, ()
    failure = Failure(event.kind, "Refused", event.reason, call=call.key, is_permanent=True)
    call = _move(call, Move.fail, event.reason, failure=failure, ended_at=now)
    state = _with(state, call)
    if call.kind is not CallKind.body:
        return state, (Tell(call.key),)
    return _run_failed(state, failure, event.reason, now)


def _cancel(state: Slice, why: str, now: Instant) -> tuple[Slice, tuple[Command, ...]]:
    """Cancel the open calls of the slice; and the run, unless it has ended already."""
    commands: list[Command] = []
    calls = dict(state.calls)
    for key, call in sorted(state.calls.items(), key=lambda item: item[1].seq):
        if not call.state.is_open:
            continue
        if call.state.is_live and (attempt := state.attempts.get(key)) is not None:
            commands.append(Stop(key, attempt.n, why))
        calls[key] = _move(call, Move.cancel, why, ended_at=now)
    state = replace(state, calls=calls)
    if state.run.state.is_open:
        run = replace(state.run, state=RunState.cancelled, ended_at=now, reason=why or "cancelled")
        state = replace(state, run=run)
        commands.append(RunOver(run.reason))
    return state, tuple(commands)


def _resume(state: Slice, now: Instant) -> tuple[Slice, tuple[Command, ...]]:
    """Make what failed ready again; the body always runs again, and finds what succeeded on record."""
    if state.run.state in (RunState.queued, RunState.running, RunState.succeeded):
        return state, ()
    run = replace(
        state.run,
        state=RunState.queued,
        failure=None,
        result=None,
        ended_at=None,
        reason="resumed",
        resumed_at=now,
    )
    calls: dict[CallKey, StepCall] = {}
    commands: list[Command] = []
    for key, call in sorted(state.calls.items(), key=lambda item: item[1].seq):
        if call.state.is_good and call.kind is not CallKind.body:
            calls[key] = call
            continue
        if call.state.is_open:  # of a paused run
            calls[key] = call
            continue
        call = replace(
            call,
            tries=0,
            losses=0,
            failure=None,
            result=None,
            ended_at=None,
            started_at=None,
            not_before=None,
        )
        left = [dep for dep in call.deps if not calls[dep].state.is_good]
        move = Move.resume_blocked if left else Move.resume
        call = replace(_move(call, move, "resumed"), deps_left=len(left))
        if call.state is CallState.ready:
            call = replace(call, ready_at=now)
            if call.kind is not CallKind.effect:  # the body does those again by itself
                commands.append(Queue(key))
        calls[key] = call
    return replace(state, run=run, calls=calls), tuple(commands)


def _run_failed(
    state: Slice, failure: Failure, reason: str, now: Instant
) -> tuple[Slice, tuple[Command, ...]]:
    """The run ends with its body."""
    run = replace(state.run, state=RunState.failed, failure=failure, ended_at=now, reason=reason)
    return replace(state, run=run), (Cancel("the run failed"), RunOver(reason))


def _end_attempt(
    state: Slice,
    key: CallKey,
    n: int,
    ended: Exit,
    usage: Usage,
    now: Instant,
    log_end: int | None = None,
) -> tuple[Slice, bool]:
    """Close the attempt's record; and say whether its outcome counts: the fence."""
    call, attempt = state.calls[key], state.attempts.get(key)
    if attempt is not None and attempt.n == n:
        closed = replace(attempt, ended_at=now, exit=ended, usage=usage, log_end=log_end)
        state = replace(state, attempts={**state.attempts, key: closed})
    elif attempt is None or attempt.n != n:
        return state, False
    return state, call.attempt == n and call.state.is_live and state.run.state.is_open


def _make_ready(
    state: Slice, call: StepCall, move: Move, now: Instant, reason: str = "", **more: Any
) -> tuple[Slice, tuple[Command, ...]]:
    call = _move(call, move, reason or "all its inputs are there", ready_at=now, **more)
    looks_up = call.policy.cache and call.attempt == 0 and call.kind is CallKind.step
    return _with(state, call), (LookUp(call.key) if looks_up else Queue(call.key),)


def _move(call: StepCall, move: Move, reason: str, **more: Any) -> StepCall:
    """The call in its next state, with what else changes of it: one copy, because copies are what costs."""
    return replace(call, state=TRANSITIONS[call.state, move], reason=reason, **more)


def _with(state: Slice, call: StepCall) -> Slice:
    return replace(state, calls={**state.calls, call.key: call})


def _is_bad(call: StepCall) -> bool:
    return not call.state.is_open and not call.state.is_good


def _waits_for(keys: list[CallKey]) -> str:
    shown = ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
    return f"waits for {shown}" if keys else ""
