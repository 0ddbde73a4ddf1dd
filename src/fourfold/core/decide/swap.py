"""How a model version takes over from another: start, warm, route, drain, stop; never stop first.

One state per endpoint. Events say what was asked and what happened to workers; commands say what to do.
Each worker process of a deployment has a generation, and events of an older one are ignored, so a late
answer from a dead process changes nothing.

    wanted → starting → warming → serving → draining → stopped
                 │ ↑      │          │
          failed ←─┼──────┘          │
                   └── restarting ←──┘

What has once served is restarted when its worker ends, with growing pauses, for ever: an endpoint does not
give up by itself. What has never served fails, and what was live before stays live.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fourfold.core.hosting import Duty, Health, Phase
from fourfold.core.times import Instant, after

START_S = 120.0
"""How long a worker may take from its start until it is warm."""
DRAIN_S = 30.0
"""How long a replaced version may take to finish what it has begun."""
PAUSE_S = 0.1
PAUSE_MAX_S = 10.0
"""The pause before a restart doubles with each crash in the window, from the first to the second."""
CRASH_WINDOW_S = 60.0
CRASH_LOOP = 3
"""So many crashes within the window are called a crash loop."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A deployment as the rule sees it."""

    id: str
    duty: Duty
    phase: Phase
    reason: str = ""
    generation: int = 0
    """Number of the worker process; 0 before the first."""
    has_served: bool = False
    crashes: tuple[Instant, ...] = ()
    due_at: Instant | None = None
    """When the phase's patience ends: a start or a drain that takes too long, a pause that is over."""


@dataclass(frozen=True, slots=True)
class Swap:
    """An endpoint's deployments that are not over, in the order in which they were asked for."""

    slots: tuple[Slot, ...] = ()

    def slot(self, id: str) -> Slot | None:  # noqa: A002 - the word that deployments use
        return next((slot for slot in self.slots if slot.id == id), None)

    def serving(self, duty: Duty) -> Slot | None:
        """Who has the duty now: serves, or is being restarted after having served."""
        return next(
            (
                slot
                for slot in self.slots
                if slot.duty is duty
                and slot.has_served
                and slot.phase is not Phase.draining
                and not slot.phase.is_over
            ),
            None,
        )


# What happens.


@dataclass(frozen=True, slots=True)
class Asked:
    """A deployment was asked for. `has_served` when it did so under an earlier gateway."""

    id: str
    duty: Duty
    has_served: bool = False


@dataclass(frozen=True, slots=True)
class Unasked:
    """A deployment shall end."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """The worker has loaded the model and can be spoken to."""

    id: str
    generation: int


@dataclass(frozen=True, slots=True)
class Warmed:
    """The stored example came out as recorded."""

    id: str
    generation: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The worker process ended, could not be started, or is not fit (its example came out wrong)."""

    id: str
    generation: int
    reason: str


@dataclass(frozen=True, slots=True)
class Drained:
    """Nothing is in flight at this deployment any more."""

    id: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Time went by."""


Event = Asked | Unasked | Loaded | Warmed | Ended | Drained | Tick


# What to do.


@dataclass(frozen=True, slots=True)
class Start:
    """Start a worker process; any earlier one of this deployment is gone."""

    id: str
    generation: int
    reason: str


@dataclass(frozen=True, slots=True)
class Warm:
    """Replay the stored example on the worker."""

    id: str
    generation: int
    reason: str


@dataclass(frozen=True, slots=True)
class Route:
    """Send the duty's requests to this deployment from now on (empty: to none)."""

    id: str
    duty: Duty
    reason: str


@dataclass(frozen=True, slots=True)
class Drain:
    """Let this deployment finish what it holds, and say so."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End the worker process of this generation, and forget it."""

    id: str
    generation: int
    reason: str


Command = Start | Warm | Route | Drain | Stop


def decide(swap: Swap, event: Event, now: Instant) -> tuple[Swap, tuple[Command, ...]]:
    """The endpoint after an event, and what to do. Slots that are over appear once, then are dropped."""
    swap = Swap(tuple(slot for slot in swap.slots if not slot.phase.is_over))
    match event:
        case Asked():
            return _asked(swap, event, now)
        case Unasked():
            slot = swap.slot(event.id)
            return _retire(swap, slot, event.reason, now) if slot is not None else (swap, ())
        case Loaded() | Warmed() | Ended():
            slot = swap.slot(event.id)
            if slot is None or slot.generation != event.generation:
                return swap, ()
            return _worker(swap, slot, event, now)
        case Drained():
            slot = swap.slot(event.id)
            if slot is None or slot.phase is not Phase.draining:
                return swap, ()
            return _stop(swap, slot, "drained")
        case Tick():
            return _tick(swap, now)


def next_due(swap: Swap) -> Instant | None:
    """When the next `Tick` matters."""
    dues = [slot.due_at for slot in swap.slots if slot.due_at is not None and not slot.phase.is_over]
    return min(dues, default=None)


def health(swap: Swap, now: Instant) -> tuple[Health, str]:
    """The endpoint in one word, with the reason.

    >>> health(Swap(), Instant(0))
    (<Health.stopped: 'stopped'>, 'nothing is deployed')
    """
    live = swap.serving(Duty.live)
    if live is not None:
        recent = _recent(live.crashes, now)
        if live.phase is Phase.serving and len(recent) < CRASH_LOOP:
            return Health.ready, live.reason
        if len(recent) >= CRASH_LOOP:
            return (
                Health.crash_looping,
                f"its worker ended {len(recent)} times within {CRASH_WINDOW_S:.0f} s; last: {live.reason}",
            )
        return (Health.degraded if live.crashes else Health.starting), live.reason
    for slot in reversed(swap.slots):
        if slot.duty is Duty.live:
            return {
                Phase.failed: Health.failed,
                Phase.stopped: Health.stopped,
                Phase.draining: Health.stopped,
            }.get(slot.phase, Health.starting), slot.reason
    return Health.stopped, "nothing is deployed"


def _asked(swap: Swap, event: Asked, now: Instant) -> tuple[Swap, tuple[Command, ...]]:
    if swap.slot(event.id) is not None:
        return swap, ()
    commands: list[Command] = []
    for older in swap.slots:  # whoever has not served yet makes room; who serves stays until we are warm
        if older.duty is event.duty and not older.has_served and older.phase is not Phase.draining:
            swap, more = _stop(swap, older, f"superseded by {event.id}", failed=True)
            commands += more
    slot = Slot(event.id, event.duty, Phase.wanted, has_served=event.has_served)
    swap = Swap((*swap.slots, slot))
    swap, more = _start(swap, slot, "the gateway started" if event.has_served else "asked for", now)
    return swap, (*commands, *more)


def _worker(
    swap: Swap, slot: Slot, event: Loaded | Warmed | Ended, now: Instant
) -> tuple[Swap, tuple[Command, ...]]:
    match event:
        case Loaded():
            if slot.phase is not Phase.starting:
                return swap, ()
            loaded = replace(slot, phase=Phase.warming, reason="the model is loaded; replaying its example")
            return _put(swap, loaded), (Warm(slot.id, slot.generation, "loaded"),)
        case Warmed():
            if slot.phase is not Phase.warming:
                return swap, ()
            return _serve(swap, slot, now)
        case Ended():
            if slot.phase is Phase.restarting:  # it was counted already
                return swap, ()
            if slot.phase is Phase.draining:
                return _stop(swap, slot, event.reason)
            if slot.has_served:
                return _pause(swap, slot, event.reason, now)
            return _stop(swap, slot, event.reason, failed=True)


def _serve(swap: Swap, slot: Slot, now: Instant) -> tuple[Swap, tuple[Command, ...]]:
    """The flip: the new one takes the duty, then the old one drains."""
    reason = f"warm; takes over as {slot.duty}" if not slot.has_served else "warm again"
    served = replace(slot, phase=Phase.serving, has_served=True, reason=reason, due_at=None)
    swap = _put(swap, served)
    commands: list[Command] = [Route(slot.id, slot.duty, reason)]
    position = swap.slots.index(served)
    for older in swap.slots[:position]:
        if older.duty is slot.duty and older.phase is not Phase.draining:
            swap, more = _drain(swap, older, f"replaced by {slot.id}", now)
            commands += more
    return swap, tuple(commands)


def _retire(swap: Swap, slot: Slot, reason: str, now: Instant) -> tuple[Swap, tuple[Command, ...]]:
    if slot.phase is Phase.draining:
        return swap, ()
    if not slot.has_served:
        return _stop(swap, slot, reason)
    holder = swap.serving(slot.duty)
    swap, commands = _drain(swap, slot, reason, now)
    if holder is not None and holder.id == slot.id:
        return swap, (Route("", slot.duty, reason), *commands)
    return swap, commands


def _start(swap: Swap, slot: Slot, reason: str, now: Instant) -> tuple[Swap, tuple[Command, ...]]:
    started = replace(
        slot,
        phase=Phase.starting,
        reason=reason,
        generation=slot.generation + 1,
        due_at=after(now, START_S),
    )
    return _put(swap, started), (Start(slot.id, started.generation, reason),)


def _pause(swap: Swap, slot: Slot, reason: str, now: Instant) -> tuple[Swap, tuple[Command, ...]]:
    crashes = (*_recent(slot.crashes, now), now)
    pause_s = min(PAUSE_S * 2 ** (len(crashes) - 1), PAUSE_MAX_S)
    waiting = replace(
        slot, phase=Phase.restarting, reason=reason, crashes=crashes, due_at=after(now, pause_s)
    )
    # What is left of the process, if anything, goes before the next one comes.
    return _put(swap, waiting), (Stop(slot.id, slot.generation, reason),)


def _drain(swap: Swap, slot: Slot, reason: str, now: Instant) -> tuple[Swap, tuple[Command, ...]]:
    if slot.phase is not Phase.serving:  # its worker is away: there is nobody to finish anything
        return _stop(swap, slot, reason)
    draining = replace(slot, phase=Phase.draining, reason=reason, due_at=after(now, DRAIN_S))
    return _put(swap, draining), (Drain(slot.id, reason),)


def _stop(swap: Swap, slot: Slot, reason: str, *, failed: bool = False) -> tuple[Swap, tuple[Command, ...]]:
    over = replace(slot, phase=Phase.failed if failed else Phase.stopped, reason=reason, due_at=None)
    return _put(swap, over), (Stop(slot.id, slot.generation, reason),)


def _tick(swap: Swap, now: Instant) -> tuple[Swap, tuple[Command, ...]]:
    commands: list[Command] = []
    for slot in swap.slots:
        if slot.due_at is None or slot.due_at > now:
            continue
        more: tuple[Command, ...]
        if slot.phase is Phase.draining:
            swap, more = _stop(swap, slot, f"did not drain within {DRAIN_S:.0f} s")
        elif slot.phase is Phase.restarting:
            swap, more = _start(swap, slot, f"restarted after: {slot.reason}", now)
        elif slot.has_served:
            swap, more = _pause(swap, slot, f"was not warm within {START_S:.0f} s", now)
        else:
            swap, more = _stop(swap, slot, f"was not warm within {START_S:.0f} s", failed=True)
        commands += more
    return swap, tuple(commands)


def _recent(crashes: tuple[Instant, ...], now: Instant) -> tuple[Instant, ...]:
    return tuple(at for at in crashes if at >= after(now, -CRASH_WINDOW_S))[-20:]


def _put(swap: Swap, slot: Slot) -> Swap:
    return Swap(tuple(slot if each.id == slot.id else each for each in swap.slots))
