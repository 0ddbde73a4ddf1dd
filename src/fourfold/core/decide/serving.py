"""When a service is started, used, started again, drained and given up."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fourfold.core.jobs import Exit
from fourfold.core.serving import ProbeKind, Restarts, ServicePhase, ServiceSpec, ServiceState, service_key
from fourfold.core.times import Instant, after, duration_text, seconds_between

STOP_FAILED_S = 1.0
"""What does not answer is given less time to end than what is drained."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Somebody asks for it, or no longer."""

    is_wanted: bool
    why: str = ""


@dataclass(frozen=True, slots=True)
class Running:
    """The engine says that it runs."""

    address: str = ""


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
class Tick:
    """Time has passed."""


Event = Wanted | Running | Ended | Answered | Tick


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
        case Running(address) if phase is ServicePhase.starting:
            state = replace(state, address=address or state.address)
            if spec.probe.kind is ProbeKind.none:
                return _in(state, ServicePhase.ready, now, "it runs"), ()
            return state, ()
        case Running(address) if phase is ServicePhase.ready and address:
            return replace(state, address=address), ()
        case Ended() if state.has_process:
            return _ended(spec, state, event, now)
        case Answered(is_well, told) if phase is ServicePhase.starting:
            if is_well:
                return replace(_in(state, ServicePhase.ready, now, "it answers"), misses=0), ()
            return _if_late(spec, state, now, told)
        case Answered(is_well, told) if phase is ServicePhase.ready:
            return _heard(spec, state, is_well=is_well, told=told, now=now)
        case Tick() if phase is ServicePhase.waiting and state.next_at is not None and now >= state.next_at:
            return _start(spec, state, now, f"started again after: {state.reason}")
        case Tick() if phase is ServicePhase.starting:
            return _if_late(spec, state, now)
        case _:
            return state, ()


def again(spec: ServiceSpec, state: ServiceState) -> tuple[Command, ...]:
    """What a keeper that has just come does once more: whether it was done is not known, and no matter.

    >>> again(ServiceSpec("web", ("serve",)), ServiceState(ServicePhase.ready, generation=3))
    ()
    """
    key = service_key(spec.name, state.generation)
    if state.phase is ServicePhase.starting:
        return (Submit(key, "its start may not have been carried out"),)
    if state.phase is ServicePhase.ending:
        grace_s = STOP_FAILED_S if state.is_wanted else spec.drain_s
        return (Stop(key, grace_s, state.reason),)
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
        return replace(state, is_wanted=True), ()  # one that is ending is started when it has ended
    state = replace(state, is_wanted=False)
    if not state.has_process:
        return _in(replace(state, next_at=None), ServicePhase.stopped, now, why), ()
    return _end(spec, state, spec.drain_s, why, now)


def _start(
    spec: ServiceSpec, state: ServiceState, now: Instant, why: str
) -> tuple[ServiceState, tuple[Command, ...]]:
    generation = state.generation + 1
    begun = replace(state, is_wanted=True, generation=generation, address="", misses=0, next_at=None)
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
    state = replace(state, address="")
    if not state.is_wanted:
        return _in(state, ServicePhase.stopped, now, state.reason), ()
    if state.phase is ServicePhase.ending:
        why = state.reason
    elif exit_ is None:
        why = "the engine knows nothing of it any more"
    else:
        why = exit_.reason or f"it ended: {exit_.kind.value}"
    if not ended.is_fault:
        return _in(replace(state, next_at=now), ServicePhase.waiting, now, why), ()
    was_steady = (
        state.phase is ServicePhase.ready and seconds_between(state.since, now) >= spec.restarts.steady_s
    )
    failures = 1 if was_steady else state.failures_in_row + 1
    failed = replace(state, failures_in_row=failures)
    if failures > spec.restarts.most_in_row:
        gave_up = replace(failed, is_wanted=False)
        return _in(gave_up, ServicePhase.given_up, now, f"failed {failures} times in a row: {why}"), ()
    next_at = after(now, wait_s(spec.restarts, failures))
    return _in(replace(failed, next_at=next_at), ServicePhase.waiting, now, why), ()


def _heard(
    spec: ServiceSpec, state: ServiceState, *, is_well: bool, told: str, now: Instant
) -> tuple[ServiceState, tuple[Command, ...]]:
    if is_well:
        return replace(state, misses=0), ()
    missed = replace(state, misses=state.misses + 1)
    if missed.misses < spec.probe.misses:
        return missed, ()
    return _end(spec, missed, STOP_FAILED_S, f"it did not answer {missed.misses} times: {told}", now)


def _if_late(
    spec: ServiceSpec, state: ServiceState, now: Instant, told: str = ""
) -> tuple[ServiceState, tuple[Command, ...]]:
    if seconds_between(state.since, now) < spec.probe.ready_within_s:
        return state, ()
    within = duration_text(spec.probe.ready_within_s)
    return _end(
        spec, state, STOP_FAILED_S, f"it was not ready within {within}" + (f": {told}" if told else ""), now
    )


def _in(state: ServiceState, phase: ServicePhase, now: Instant, why: str) -> ServiceState:
    return replace(state, phase=phase, since=now, reason=why)
