"""Looks after the services of one pool: asks its engine, and them, and does what the rule says.

An engine that is down or hangs holds up the services of its own pool alone. They wait, with the reason.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from fourfold.core.compute import Held, JobReport
from fourfold.core.decide import serving as rule
from fourfold.core.decide.pools import unit_name
from fourfold.core.errors import FourfoldError, Remedy
from fourfold.core.ports.clock import Clock
from fourfold.core.ports.engine import Engine, Exit, ExitKind, JobStatus, Offer, Phase, Resources, Usage
from fourfold.core.serving import Probe, ProbeKind, ServicePhase, service_key
from fourfold.core.times import Instant, seconds_between
from fourfold.foundation.compute.serving.pools import ServicePool, launch_of
from fourfold.foundation.compute.serving.probing import Answers, Probing
from fourfold.foundation.compute.serving.tables import Kept, ServiceTables

START_LOOKS_S = 0.5
"""How often one that is starting is asked: its `every_s` would keep people waiting."""
RETRY_S = 3.0
"""How often an engine that failed, or did not take a service, is asked again."""
STEADY_S = 3.0
"""How often another machine's engine is asked while none of its services starts or ends."""

_LOST = (ExitKind.worker_lost, ExitKind.cancelled)

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Trial:
    """A start or a stop that the engine did not take."""

    why: str
    at: Instant
    is_final: bool = False
    """It never will: the start has failed."""


class PoolKeeper:
    """The services of one pool. One thread at a time; every step may be repeated."""

    def __init__(
        self,
        pool: ServicePool,
        tables: ServiceTables,
        clock: Clock,
        probing: Probing,
        *,
        name: str,
        record: Callable[[Sequence[JobReport]], object],
    ) -> None:
        """`name` is the keeper's, under which services are held."""
        self._pool = pool
        self._tables = tables
        self._clock = clock
        self._probing = probing
        self._name = name
        self._record = record
        self._engine: Engine | None = None
        self._fault = ""
        self._tried_at: Instant | None = None
        self._told_at: Instant | None = None
        self._offers: Mapping[str, Offer] = {}
        self._submitted: set[str] = set()  # keys that this keeper has started
        self._stopped: set[str] = set()  # and those that it has asked to end
        self._trials: dict[str, _Trial] = {}
        self._asked_at: dict[str, Instant] = {}

    def __repr__(self) -> str:
        return f"<PoolKeeper {self._pool.name}: {self._fault or f'{len(self._submitted)} started'}>"

    def look(self, mine: Sequence[Kept], wanted: Collection[str]) -> None:
        """One look at its services; `wanted` are the keys of all that may run there, whoever keeps them."""
        now = self._clock.now()
        self._leave_to_others(mine)
        found = self._status(mine, wanted, now)
        answers = self._answers(mine, found, now)
        for each in mine:
            self._look(each, found.get(_key(each)), answers.get(_key(each)), now)

    def close(self) -> None:
        """Let the engine go. What it keeps alive by itself goes on."""
        if self._engine is not None:
            self._engine.close()

    # The engine: whatever it says or raises, the pool has a fault then, and its services wait.

    def _status(self, mine: Sequence[Kept], wanted: Collection[str], now: Instant) -> dict[str, JobStatus]:
        if self._fault and self._tried_at is not None and seconds_between(self._tried_at, now) < RETRY_S:
            return {}
        if self._is_steady(mine, now):
            return {}
        keys = [_key(each) for each in mine if each.state.has_process]
        try:
            if self._engine is None:
                engine = self._pool.open()
                engine.reap(wanted)  # what a keeper that died left running, and nobody wants
                self._engine = engine
            if self._fault or not self._offers:
                self._offers = {each.unit: each for each in self._engine.offers(Resources())}
            found = dict(self._engine.status(keys)) if keys else {}
        except Exception as error:
            self._fails(error, now)
            return {}
        self._fault, self._told_at = "", now
        return found

    def _is_steady(self, mine: Sequence[Kept], now: Instant) -> bool:
        """Whether nothing is under way, and the engine was asked lately: to ask costs a cluster something."""
        if self._pool.is_here or self._fault or self._told_at is None:
            return False
        steady = (ServicePhase.ready, ServicePhase.waiting, ServicePhase.stopped, ServicePhase.given_up)
        is_still = all(each.state.phase in steady for each in mine)
        return is_still and seconds_between(self._told_at, now) < STEADY_S

    def _fails(self, error: Exception, now: Instant) -> None:
        text = _text(error)
        if text != self._fault:
            logger.warning("services of pool %s: %s", self._pool.name, text)
        self._fault, self._tried_at = text, now

    @property
    def _out_of_reach(self) -> str:
        return f"pool '{self._pool.name}' cannot be used now: {self._fault}" if self._fault else ""

    # One service.

    def _look(
        self, kept: Kept, status: JobStatus | None, answer: tuple[bool, str] | None, now: Instant
    ) -> None:
        key = _key(kept)
        trial = self._trials.get(key)
        if trial is not None and trial.is_final:
            self._forget(key)
            self._apply(kept, rule.Ended(Exit(ExitKind.failed, trial.why)), now)
            return
        is_due = not self._fault and (trial is None or seconds_between(trial.at, now) >= RETRY_S)
        kept = self._apply(kept, rule.Held(self._out_of_reach or (trial.why if trial else "")), now)
        if status is not None and status.phase is Phase.unknown and self._is_to_be_submitted(kept):
            # Begun by another process: who asked, or a keeper that died, perhaps before it carried it out.
            if is_due:
                self._perform(kept, rule.again(kept.spec, kept.state), now)
            return
        if status is not None and status.phase is Phase.ended and not self._account(kept, status, now):
            return
        for event in self._events(status, answer):
            kept = self._apply(kept, event, now)
        if is_due and kept.state.phase is ServicePhase.ending and _key(kept) not in self._stopped:
            self._perform(kept, rule.again(kept.spec, kept.state), now)

    def _is_to_be_submitted(self, kept: Kept) -> bool:
        return kept.state.phase is ServicePhase.starting and _key(kept) not in self._submitted

    def _events(self, status: JobStatus | None, answer: tuple[bool, str] | None) -> list[rule.Event]:
        if status is not None and status.phase in (Phase.ended, Phase.unknown):
            return [self._end_of(status)]
        events: list[rule.Event] = []
        if status is not None and status.phase is Phase.running:
            unit = unit_name(self._pool.name, status.unit) if status.unit else ""
            events.append(rule.Running(status.address, unit))
        if answer is not None:
            events.append(rule.Answered(*answer))
        return [*events, rule.Tick()]

    def _end_of(self, status: JobStatus) -> rule.Ended:
        key = status.key
        is_ours = key in self._submitted
        self._forget(key)
        # What ended with the keeper before us did not fail by itself.
        is_lost = status.exit is None or status.exit.kind in _LOST
        return rule.Ended(status.exit, is_fault=is_ours or not is_lost)

    def _answers(self, mine: Sequence[Kept], found: Mapping[str, JobStatus], now: Instant) -> Answers:
        """What services say that are due to be asked."""
        asked: dict[str, tuple[str, Probe]] = {}
        for each in mine:
            key, state, probe = _key(each), each.state, each.spec.probe
            if state.phase not in (ServicePhase.starting, ServicePhase.ready) or probe.kind is ProbeKind.none:
                continue
            status = found.get(key)
            if status is not None and status.phase is not Phase.running:
                continue
            address = (status.address if status is not None else "") or state.address
            every_s = START_LOOKS_S if state.phase is ServicePhase.starting else probe.every_s
            asked_at = self._asked_at.get(key)
            if address and (asked_at is None or seconds_between(asked_at, now) >= every_s):
                self._asked_at[key] = now
                asked[key] = (address, probe)
        return self._probing.answers(asked)

    def _apply(self, kept: Kept, event: rule.Event, now: Instant) -> Kept:
        state, commands = rule.decide(kept.spec, kept.state, event, now)
        if state == kept.state and not commands:
            return kept
        written = self._tables.put(kept, state, keeper=self._name)
        if written is None:  # somebody asked for something, or keeps it, meanwhile: the next look sees it
            return kept
        if state.pool == kept.state.pool:  # another pool's keeper carries out what begins there
            self._perform(written, commands, now)
        return written

    def _perform(self, kept: Kept, commands: tuple[rule.Command, ...], now: Instant) -> None:
        for command in commands:
            if self._engine is None or self._fault:
                return  # it is done once the engine can be asked
            logger.info("service %s: %s", kept.spec.name, command)
            try:
                if isinstance(command, rule.Submit):
                    self._engine.submit(launch_of(kept.spec, command.key, self._pool))
                    self._submitted.add(command.key)
                else:
                    self._engine.stop(command.key, command.grace_s)
                    self._stopped.add(command.key)
                self._trials.pop(command.key, None)
            except Exception as error:  # whatever the engine says: others are looked after all the same
                logger.warning("service %s: %s", kept.spec.name, _text(error))
                self._trials[command.key] = self._trial(kept, command, error, now)

    def _trial(self, kept: Kept, command: rule.Command, error: Exception, now: Instant) -> _Trial:
        is_transient = isinstance(error, FourfoldError) and error.remedy is Remedy.transient
        if is_transient or isinstance(command, rule.Stop):
            return _Trial(_text(error), now)
        with contextlib.suppress(Exception):  # it could be given when it was asked for: machines come and go
            assert self._engine is not None
            if not self._engine.offers(kept.spec.resources):
                return _Trial(f"no unit of pool '{self._pool.name}' can give now what it asks for", now)
        return _Trial(_text(error), now, is_final=True)

    def _account(self, kept: Kept, status: JobStatus, now: Instant) -> bool:
        """Record what a start used and cost; false where its engine cannot tell now."""
        if status.exit is None or status.ended_at is None or self._engine is None:
            return True
        try:
            usage = self._engine.usage(status.key)
        except FourfoldError as error:
            self._fails(error, now)
            return False
        asked, offer = kept.spec.resources, self._offers.get(status.unit)
        whole = None
        if offer is not None and not self._pool.is_here:
            whole = Held(offer.cpu, offer.memory_bytes, offer.gpu)
        self._record((_report(kept, status, usage, self._pool.name, whole, asked),))
        return True

    def _leave_to_others(self, mine: Sequence[Kept]) -> None:
        """What another keeper has taken meanwhile does not go on here beside it."""
        gone = self._submitted - {_key(each) for each in mine}
        if not gone or self._engine is None or self._engine.capabilities().survives_control_restart:
            self._submitted -= gone
            return
        for key in sorted(gone):
            with contextlib.suppress(Exception):  # what cannot be told to end, ends with this process
                self._engine.stop(key, rule.STOP_FAILED_S)
            self._forget(key)

    def _forget(self, key: str) -> None:
        self._submitted.discard(key)
        self._stopped.discard(key)
        self._asked_at.pop(key, None)
        self._trials.pop(key, None)


def _report(
    kept: Kept, status: JobStatus, usage: Usage, pool: str, whole: Held | None, asked: Resources
) -> JobReport:
    assert status.exit is not None
    assert status.ended_at is not None
    return JobReport(
        key=status.key,
        name=kept.spec.name,
        unit=unit_name(pool, status.unit or pool),
        started_at=status.started_at or status.ended_at,
        ended_at=status.ended_at,
        exit=status.exit,
        usage=usage,
        held=Held(asked.cpu.low, int(asked.memory_bytes.low), asked.gpu.low),
        kind="service",
        whole=whole,
    )


def _key(kept: Kept) -> str:
    return service_key(kept.spec.name, kept.state.generation)


def _text(error: Exception) -> str:
    return error.message if isinstance(error, FourfoldError) else f"{type(error).__name__}: {error}"
