"""Looks after services: asks the engine and the services, decides, writes, acts."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from fourfold.core.compute import Held, JobReport
from fourfold.core.decide import serving as rule
from fourfold.core.errors import FourfoldError
from fourfold.core.ports.clock import Clock
from fourfold.core.ports.engine import Engine, Exit, ExitKind, JobStatus, Launch, Phase
from fourfold.core.serving import Probe, ProbeKind, ServicePhase, ServiceSpec, ServiceState, service_key
from fourfold.core.times import Instant, after, seconds_between
from fourfold.foundation.compute.serving.probing import ask
from fourfold.foundation.compute.serving.tables import Kept, ServiceTables

LEASE_S = 15.0
LOOK_S = 0.5
START_LOOKS_S = 0.5
"""How often one that is starting is asked: its `every_s` would keep people waiting."""

logger = logging.getLogger(__name__)


class ServiceKeeper:
    """Keeps the services of a project on one engine. One thread; every step may be repeated.

    What is wanted and how it is stands in the catalog, written before anything is done. Each start has a
    key of its own, so a keeper that comes after one that died finds what that one began, and starts
    nothing twice.
    """

    def __init__(
        self,
        tables: ServiceTables,
        engine: Callable[[], Engine],
        clock: Clock,
        *,
        name: str,
        record: Callable[[Sequence[JobReport]], object],
        probe: Callable[[str, Probe], tuple[bool, str]] = ask,
    ) -> None:
        """`name` is this keeper's for ever; `engine` is opened with the first service."""
        self._tables = tables
        self._open = engine
        self._clock = clock
        self._name = name
        self._record = record
        self._probe = probe
        self._engine: Engine | None = None
        self._known: dict[str, int] = {}  # by service: the generation that this keeper has begun with
        self._begun: set[str] = set()  # keys that this keeper has submitted
        self._stopping: set[str] = set()  # and those that it has asked to end
        self._refused: dict[str, str] = {}
        self._asked_at: dict[str, Instant] = {}
        self._wake = threading.Event()
        self._is_closing = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Keep them in a thread."""
        self._thread = threading.Thread(target=self._run, name="services", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look after them no more. What an engine keeps alive by itself goes on."""
        self._is_closing = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        if self._engine is not None:
            self._engine.close()
        self._tables.let_go(self._name)

    def step(self) -> None:
        """One look at everything."""
        now = self._clock.now()
        if not (kept := self._tables.all()):
            return
        if any(each.keeper != self._name or each.kept_until < after(now, LEASE_S / 2) for each in kept):
            self._tables.keep(self._name, now=now, until=after(now, LEASE_S))
            kept = self._tables.all()
        mine = [each for each in kept if each.keeper == self._name]
        running = [each for each in mine if each.state.has_process]
        found = self._status([_key(each) for each in running]) if running else {}
        for each in mine:
            self._look(each, found.get(_key(each)), now)

    # How.

    def _run(self) -> None:
        while not self._is_closing:
            try:
                self.step()
            except FourfoldError as error:  # a database or an engine that is away comes back
                logger.warning("services were not looked at: %s", error)
            except Exception:  # the outermost loop: one bad service must not leave the others alone
                logger.exception("services were not looked at")
            self._wake.wait(LOOK_S)

    def _status(self, keys: list[str]) -> dict[str, JobStatus]:
        return dict(self._the_engine().status(keys))

    def _the_engine(self) -> Engine:
        if self._engine is None:
            self._engine = self._open()
            keep = [_key(each) for each in self._tables.all() if each.state.has_process]
            self._engine.reap(keep)  # what a keeper that died left running, and nobody wants
        return self._engine

    def _look(self, kept: Kept, status: JobStatus | None, now: Instant) -> None:
        if self._known.get(kept.spec.name) != kept.state.generation:
            # Begun by another process: who asked, or a keeper that died, perhaps before it carried it out.
            self._known[kept.spec.name] = kept.state.generation
            if kept.state.phase is ServicePhase.starting and (
                status is None or status.phase is Phase.unknown
            ):
                self._perform(kept.spec, rule.again(kept.spec, kept.state))
                return
        if status is not None and status.phase is Phase.ended:
            self._account(kept, status)
        for event in self._events(kept, status, now):
            kept = self._apply(kept, event, now)
        if kept.state.phase is ServicePhase.ending and _key(kept) not in self._stopping:
            self._perform(kept.spec, rule.again(kept.spec, kept.state))

    def _events(self, kept: Kept, status: JobStatus | None, now: Instant) -> list[rule.Event]:
        if status is None:
            return [rule.Tick()]
        if status.phase in (Phase.ended, Phase.unknown):
            return [self._end_of(status)]
        events: list[rule.Event] = [rule.Running(status.address)]
        address = status.address or kept.state.address
        probe, phase = kept.spec.probe, kept.state.phase
        if address and probe.kind is not ProbeKind.none and phase is not ServicePhase.ending:
            every_s = START_LOOKS_S if phase is ServicePhase.starting else probe.every_s
            asked_at = self._asked_at.get(_key(kept))
            if asked_at is None or seconds_between(asked_at, now) >= every_s:
                self._asked_at[_key(kept)] = now
                events.append(rule.Answered(*self._probe(address, probe)))
        return [*events, rule.Tick()]

    def _end_of(self, status: JobStatus) -> rule.Ended:
        key = status.key
        self._stopping.discard(key)
        self._asked_at.pop(key, None)
        is_ours = key in self._begun
        self._begun.discard(key)
        if (refusal := self._refused.pop(key, None)) is not None:
            return rule.Ended(Exit(ExitKind.failed, refusal))
        # What ended with the keeper before us did not fail by itself.
        lost = status.exit is None or status.exit.kind in (ExitKind.worker_lost, ExitKind.cancelled)
        return rule.Ended(status.exit, is_fault=is_ours or not lost)

    def _apply(self, kept: Kept, event: rule.Event, now: Instant) -> Kept:
        state, commands = rule.decide(kept.spec, kept.state, event, now)
        if state == kept.state and not commands:
            return kept
        written = self._tables.put(kept, state)
        if written is None:  # somebody asked for something meanwhile: the next look sees it
            return kept
        self._known[kept.spec.name] = state.generation
        self._perform(kept.spec, commands)
        return written

    def _perform(self, spec: ServiceSpec, commands: tuple[rule.Command, ...]) -> None:
        for command in commands:
            logger.info("service %s: %s", spec.name, command)
            try:
                if isinstance(command, rule.Submit):
                    self._begun.add(command.key)
                    self._the_engine().submit(_launch(spec, command.key))
                else:
                    self._the_engine().stop(command.key, command.grace_s)
                    self._stopping.add(command.key)
            except FourfoldError as error:
                logger.warning("service %s: %s", spec.name, error)
                if isinstance(command, rule.Submit):  # an end of which the engine may know nothing
                    self._refused[command.key] = str(error)

    def _account(self, kept: Kept, status: JobStatus) -> None:
        if status.exit is None or status.ended_at is None or self._engine is None:
            return
        resources = kept.spec.resources
        report = JobReport(
            key=status.key,
            name=kept.spec.name,
            unit=status.unit,
            started_at=status.started_at or status.ended_at,
            ended_at=status.ended_at,
            exit=status.exit,
            usage=self._engine.usage(status.key),
            held=Held(resources.cpu.low, int(resources.memory_bytes.low), resources.gpu.low),
            kind="service",
        )
        self._record((report,))


def _key(kept: Kept) -> str:
    return service_key(kept.spec.name, kept.state.generation)


def _launch(spec: ServiceSpec, key: str) -> Launch:
    return Launch(
        key,
        spec.argv,
        kind="service",
        env=spec.env,
        cwd=spec.cwd,
        resources=spec.resources,
        image=spec.image,
        listens=spec.probe.kind is not ProbeKind.none,
    )


def new_state(spec: ServiceSpec, now: Instant) -> ServiceState:
    """A service that is asked for and was never there."""
    return rule.decide(spec, ServiceState(), rule.Wanted(True), now)[0]
