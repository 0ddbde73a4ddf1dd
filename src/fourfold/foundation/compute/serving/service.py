"""Services as people have them: asked for, listed, stopped."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from fourfold.catalog.database import Catalog
from fourfold.core.decide import serving as rule
from fourfold.core.errors import NotFound, Refused, Unavailable, did_you_mean
from fourfold.core.ports.clock import Clock
from fourfold.core.ports.engine import Engine
from fourfold.core.serving import (
    Probe,
    ProbeKind,
    ServiceInfo,
    ServiceLog,
    ServicePhase,
    ServiceSpec,
    service_key,
)
from fourfold.foundation.compute.serving.keeper import new_state
from fourfold.foundation.compute.serving.tables import Kept, ServiceTables

MOST_SERVICES = 200
MOST_TRIES = 20
LOG_BYTES = 256 * 1024

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


class ServiceDesk:
    """Writes down what is wanted; a `ServiceKeeper` carries it out."""

    def __init__(self, catalog: Catalog, clock: Clock, *, engine: Callable[[], Engine]) -> None:
        """`engine` is only asked for logs."""
        self._tables = ServiceTables(catalog)
        self._clock = clock
        self._open = engine
        self._engine: Engine | None = None

    def services(self) -> tuple[ServiceInfo, ...]:
        """All, by name."""
        now = self._clock.now()
        return tuple(each.info(now) for each in self._tables.all())

    def service(self, name: str) -> ServiceInfo:
        """One, or `NotFound` with the nearest."""
        return self._get(name).info(self._clock.now())

    def start(
        self,
        name: str,
        argv: tuple[str, ...],
        *,
        env: Mapping[str, str],
        cwd: str,
        probe: str,
        path: str,
        ready_within_s: float,
    ) -> ServiceInfo:
        """Ask for a service. One that is stopped may be asked for with another command."""
        spec = ServiceSpec(
            _checked_name(name),
            _checked_command(name, argv),
            env=dict(env),
            cwd=cwd,
            probe=Probe(_probe_kind(probe), path, ready_within_s=ready_within_s),
        )
        for _ in range(MOST_TRIES):
            now = self._clock.now()
            kept = self._tables.get(name)
            if kept is None:
                if len(self._tables.all()) >= MOST_SERVICES:
                    raise Refused(
                        f"there are {MOST_SERVICES} services already", ways_on=["remove one that is stopped"]
                    )
                if self._tables.add(spec, new_state(spec, now)):
                    return self.service(name)
                continue
            if kept.state.has_process and spec != kept.spec:
                raise Refused(
                    f"service '{name}' runs with another command",
                    ways_on=[f"stop it first: fourfold service stop {name}", "or give it another name"],
                )
            state, _ = rule.decide(spec, kept.state, rule.Wanted(True), now)
            if self._tables.put(kept, state, spec) is not None:
                return self.service(name)
        raise Unavailable(f"service '{name}' changed again and again", ways_on=["try again"])

    def stop(self, name: str, *, remove: bool = False) -> ServiceInfo:
        """Ask for a service to be drained and stopped; `remove` forgets one that is stopped."""
        for _ in range(MOST_TRIES):
            kept = self._get(name)
            now = self._clock.now()
            if remove:
                self._forget(kept)
                return kept.info(now)
            state, _ = rule.decide(kept.spec, kept.state, rule.Wanted(False, "asked to stop"), now)
            written = kept if state == kept.state else self._tables.put(kept, state)
            if written is not None:
                return written.info(now)
        raise Unavailable(f"service '{name}' changed again and again", ways_on=["try again"])

    def logs(self, name: str, *, offset: int = 0) -> ServiceLog:
        """What its present (or last) start printed from `offset`, and the next offset."""
        kept = self._get(name)
        if self._engine is None:
            self._engine = self._open()
        key = service_key(name, kept.state.generation)
        chunk = self._engine.logs(key, max(0, offset), LOG_BYTES)
        return ServiceLog(chunk.data.decode(errors="replace"), chunk.next_offset)

    def _forget(self, kept: Kept) -> None:
        if kept.state.phase not in (ServicePhase.stopped, ServicePhase.given_up):
            raise Refused(
                f"service '{kept.spec.name}' is {kept.state.phase.value}",
                ways_on=[f"stop it first: fourfold service stop {kept.spec.name}"],
            )
        if not self._tables.remove(kept):
            raise Unavailable(f"service '{kept.spec.name}' changed meanwhile", ways_on=["try again"])

    def _get(self, name: str) -> Kept:
        kept = self._tables.get(name)
        if kept is None:
            known = [each.spec.name for each in self._tables.all()]
            raise NotFound(
                f"there is no service '{name}'", ways_on=did_you_mean(name, known, what="services")
            )
        return kept


def _checked_name(name: str) -> str:
    if _NAME.fullmatch(name) is None:
        raise Refused(
            f"{name[:80]!r} is no name for a service",
            ways_on=["take small letters, digits, - and _, at most 63, a letter or digit first"],
        )
    return name


def _checked_command(name: str, argv: tuple[str, ...]) -> tuple[str, ...]:
    if not argv or not argv[0]:
        raise Refused(
            f"service '{name[:80]}' has no command",
            ways_on=[f"fourfold service start {name[:80]} -- python -m http.server"],
        )
    return tuple(argv)


def _probe_kind(probe: str) -> ProbeKind:
    try:
        return ProbeKind(probe)
    except ValueError:
        words = ", ".join(ProbeKind)
        raise Refused(f"{probe[:40]!r} is no way to ask a service", ways_on=[f"take {words}"]) from None
