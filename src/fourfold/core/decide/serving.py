"""When a service is started, used, started again, drained and given up."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fourfold.core.jobs import Exit
from fourfold.core.serving import (
    MOST_STARTS,
    ProbeKind,
    Restarts,
    ServicePhase,
    ServiceSpec,
    ServiceStart,
    ServiceState,
    service_key,
)
from fourfold.core.times import Instant, after, duration_text, seconds_between

STOP_FAILED_S = 1.0
"""What does not answer is given less time to end than what is drained."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Somebody asks for it, or no longer."""

    is_wanted: bool
    why: str = ""


@dataclass(frozen=True, slots=True)
class Renewed:
    """It is to be drained and started again, because somebody says so or it was changed."""

    why: str


@dataclass(frozen=True, slots=True)
class Running:
    """The engine says that it runs, and where."""

    address: str = ""
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Ended:
    """The engine says that it ended, or knows nothing of it any more (`exit` is `None`)."""

    exit: Exit | None = None
    is_fault: bool = True
    """False where it ended with the process that kept it: that is no failure of its own."""


@dataclass(frozen=True, slots=True)
class Answered:
    """It was asked whether it can be used."""

    is_well: bool
    told: str = ""


@dataclass(frozen=True, slots=True)
class Held:
    """Its engine cannot be asked now, or does not take it yet, and why; "" when it can and does."""

    why: str = ""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event = Wanted | Renewed | Running | Ended | Answered | Held | Tick


@dataclass(frozen=True, slots=True)
class Submit:
    """Start this generation. Its key makes that happen once."""

    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End this generation: politely, then by force."""

    key: str
    grace_s: float
    reason: str


Command = Submit | Stop


def decide(
    spec: ServiceSpec, state: ServiceState, event: Event, now: Instant
) -> tuple[ServiceState, tuple[Command, ...]]:
    """What becomes of a service when something happens.

    >>> spec = ServiceSpec("web", ("serve",))
    >>> state, commands = decide(spec, ServiceState(), Wanted(True), Instant(0))
    >>> state.phase.value, commands
    ('starting', (Submit(key='service/web/1', reason='asked for'),))
    """
    phase = state.phase
    match event:
        case Wanted(is_wanted, why):
            return _asked(spec, state, is_wanted, why or "asked for", now)
        case Renewed(why):
            return _renewed(spec, state, why, now)
        case Held(why):
            return _held(state, why, now), ()
        case Running(address, unit) if phase in (ServicePhase.starting, ServicePhase.ready):
            return _runs(spec, state, address, unit, now), ()
        case Ended() if state.has_process:
            return _ended(spec, state, event, now)
        case Answered(is_well, told) if phase is ServicePhase.starting:
            if is_well:
                return _is_ready(state, now, "it answers"), ()
            return _if_late(spec, state, now, told)
        case Answered(is_well, told) if phase is ServicePhase.ready:
            return _heard(spec, state, is_well=is_well, told=told, now=now)
        case Tick() if phase is ServicePhase.waiting and state.next_at is not None and now >= state.next_at:
            if state.fault:
                return state, ()
            return _start(spec, state, now, f"started again after: {state.reason}")
        case Tick() if phase is ServicePhase.starting:
            return _if_late(spec, state, now)
        case _:
            return state, ()


def again(spec: ServiceSpec, state: ServiceState) -> tuple[Command, ...]:
    """What is done once more while it is not known to be done: by a keeper that has just come, or again.

    >>> again(ServiceSpec("web", ("serve",)), ServiceState(ServicePhase.ready, generation=3))
    ()
    """
    key = service_key(spec.name, state.generation)
    if state.phase is ServicePhase.starting:
        return (Submit(key, "its start may not have been carried out"),)
    if state.phase is ServicePhase.ending:
        is_drained = state.is_restarting or not state.is_wanted
        return (Stop(key, spec.drain_s if is_drained else STOP_FAILED_S, state.reason),)
    return ()


def wait_s(restarts: Restarts, failures_in_row: int) -> float:
    """How long after so many failures: twice as long each time, up to the bound.

    >>> [wait_s(Restarts(), count) for count in (1, 2, 3, 20)]
    [1.0, 2.0, 4.0, 60.0]
    """
    return min(restarts.most_wait_s, restarts.first_wait_s * 2.0 ** min(failures_in_row - 1, 60))


def _asked(
    spec: ServiceSpec, state: ServiceState, is_wanted: bool, why: str, now: Instant
) -> tuple[ServiceState, tuple[Command, ...]]:
    if is_wanted:
        if state.phase in (ServicePhase.stopped, ServicePhase.given_up):
            return _start(spec, replace(state, failures_in_row=0), now, why)
        if state.phase is ServicePhase.ending and not state.is_wanted:
            return replace(state, is_wanted=True, is_restarting=True), ()
        return replace(state, is_wanted=True), ()
    state = replace(state, is_wanted=False, is_restarting=False)
    if not state.has_process:
        return _in(replace(state, next_at=None, fault=""), ServicePhase.stopped, now, why), ()
    return _end(spec, state, spec.drain_s, why, now)


def _renewed(
    spec: ServiceSpec, state: ServiceState, why: str, now: Instant
) -> tuple[ServiceState, tuple[Command, ...]]:
    state = replace(state, is_wanted=True, failures_in_row=0)
    if not state.has_process:
        return _start(spec, state, now, why)
    if state.phase is ServicePhase.ending:
        return replace(state, is_restarting=True, reason=why), ()
    return _end(spec, replace(state, is_restarting=True), spec.drain_s, why, now)


def _held(state: ServiceState, why: str, now: Instant) -> ServiceState:
    if why == state.fault:
        return state
    state = replace(state, fault=why)
    if why:
        return state
    # What it did not do meanwhile, it could not do.
    return replace(state, misses=0, late_from=None if state.late_from is None else now)


def _runs(spec: ServiceSpec, state: ServiceState, address: str, unit: str, now: Instant) -> ServiceState:
    state = replace(state, address=address or state.address, unit=unit or state.unit)
    if state.phase is ServicePhase.ready:
        return state
    if state.late_from is None:
        state = _noted(replace(state, late_from=now), began_at=now, unit=state.unit)
    if spec.probe.kind is ProbeKind.none:
        return _is_ready(state, now, "it runs")
    return state


def _is_ready(state: ServiceState, now: Instant, why: str) -> ServiceState:
    ready = _in(replace(state, misses=0), ServicePhase.ready, now, why)
    return _noted(ready, ready_at=now, unit=state.unit)


def _start(
    spec: ServiceSpec, state: ServiceState, now: Instant, why: str
) -> tuple[ServiceState, tuple[Command, ...]]:
    generation = state.generation + 1
    begun = replace(
        state,
        is_wanted=True,
        is_restarting=False,
        generation=generation,
        address="",
        pool=spec.pool,
        unit="",
        misses=0,
        next_at=None,
        late_from=None,
        starts=(*state.starts[1 - MOST_STARTS :], ServiceStart(generation, now, why, spec.pool)),
    )
    started = _in(begun, ServicePhase.starting, now, why)
    return started, (Submit(service_key(spec.name, generation), why),)


def _end(
    spec: ServiceSpec, state: ServiceState, grace_s: float, why: str, now: Instant
) -> tuple[ServiceState, tuple[Command, ...]]:
    key = service_key(spec.name, state.generation)
    if state.phase is not ServicePhase.ending:
        state = _in(state, ServicePhase.ending, now, why)
    return state, (Stop(key, grace_s, why),)


def _ended(
    spec: ServiceSpec, state: ServiceState, ended: Ended, now: Instant
) -> tuple[ServiceState, tuple[Command, ...]]:
    exit_ = ended.exit
    if state.phase is ServicePhase.ending:
        why = state.reason
    elif exit_ is None:
        why = "the engine knows nothing of it any more"
    else:
        why = exit_.reason or f"it ended: {exit_.kind.value}"
    state = _noted(replace(state, address="", unit="", late_from=None), ended_at=now, end=why)
    if not state.is_wanted:
        return _in(replace(state, fault=""), ServicePhase.stopped, now, why), ()
    if state.is_restarting:
        return _start(spec, state, now, why)
    if not ended.is_fault:
        return _in(replace(state, next_at=now), ServicePhase.waiting, now, why), ()
    was_steady = (
        state.phase is ServicePhase.ready and seconds_between(state.since, now) >= spec.restarts.steady_s
    )
    failures = 1 if was_steady else state.failures_in_row + 1
    failed = replace(state, failures_in_row=failures)
    if failures > spec.restarts.most_in_row:
        gave_up = replace(failed, is_wanted=False, fault="")
        return _in(gave_up, ServicePhase.given_up, now, f"failed {failures} times in a row: {why}"), ()
    next_at = after(now, wait_s(spec.restarts, failures))
    return _in(replace(failed, next_at=next_at), ServicePhase.waiting, now, why), ()


def _heard(
    spec: ServiceSpec, state: ServiceState, *, is_well: bool, told: str, now: Instant
) -> tuple[ServiceState, tuple[Command, ...]]:
    if is_well:
        return replace(state, misses=0), ()
    missed = replace(state, misses=min(state.misses + 1, spec.probe.misses))
    if state.fault or missed.misses < spec.probe.misses:
        return missed, ()
    return _end(spec, missed, STOP_FAILED_S, f"it did not answer {missed.misses} times: {told}", now)


def _if_late(
    spec: ServiceSpec, state: ServiceState, now: Instant, told: str = ""
) -> tuple[ServiceState, tuple[Command, ...]]:
    """What waits in a cluster's own queue, or for its engine, is late by no fault of its own."""
    within_s = spec.probe.ready_within_s
    if state.fault or state.late_from is None or seconds_between(state.late_from, now) < within_s:
        return state, ()
    why = f"it was not ready within {duration_text(within_s)}" + (f": {told}" if told else "")
    return _end(spec, state, STOP_FAILED_S, why, now)


def _in(state: ServiceState, phase: ServicePhase, now: Instant, why: str) -> ServiceState:
    return replace(state, phase=phase, since=now, reason=why)


def _noted(state: ServiceState, **changes: object) -> ServiceState:
    """Its present start, with what came of it."""
    if not state.starts or state.starts[-1].generation != state.generation:
        return state  # begun by a release that did not note starts
    *earlier, present = state.starts
    return replace(state, starts=(*earlier, replace(present, **changes)))  # type: ignore[arg-type]
