"""Services as people have them: asked for, listed, stopped."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import replace

from fourfold.catalog.database import Catalog
from fourfold.core.decide import serving as rule
from fourfold.core.decide.match import check_abilities, refusal
from fourfold.core.decide.place import Lease
from fourfold.core.errors import NotFound, Refused, TimedOut, Unavailable, did_you_mean
from fourfold.core.ports.clock import Clock
from fourfold.core.ports.engine import Engine, Resources
from fourfold.core.quantities import Range
from fourfold.core.serving import (
    ServiceInfo,
    ServiceLog,
    ServicePhase,
    ServiceSpec,
    ServiceState,
    service_key,
)
from fourfold.foundation.compute.serving.keeper import new_state
from fourfold.foundation.compute.serving.pools import ServicePools, launch_of
from fourfold.foundation.compute.serving.tables import Kept, ServiceTables

MOST_SERVICES = 200
MOST_TRIES = 20
LOG_BYTES = 256 * 1024


class ServiceDesk:
    """Writes down what is wanted; a `ServiceKeeper` carries it out."""

    def __init__(self, catalog: Catalog, clock: Clock, pools: ServicePools) -> None:
        """An engine of `pools` is asked what it offers, and for logs."""
        self._tables = ServiceTables(catalog)
        self._clock = clock
        self._pools = pools
        self._engines: dict[str, Engine] = {}
        self._opening = threading.Lock()

    def services(self) -> tuple[ServiceInfo, ...]:
        """All, by name."""
        now = self._clock.now()
        return tuple(each.info(now) for each in self._tables.all())

    def service(self, name: str) -> ServiceInfo:
        """One, or `NotFound` with the nearest."""
        return self._get(name).info(self._clock.now())

    def start(self, spec: ServiceSpec) -> ServiceInfo:
        """Ask for a service. One that runs with another command is drained, and started with this one."""
        self._check_pool(spec)
        for _ in range(MOST_TRIES):
            now = self._clock.now()
            kept = self._tables.get(spec.name)
            is_new = kept is None or kept.state.is_forgotten
            if is_new and len(self._tables.all()) >= MOST_SERVICES:
                raise Refused(
                    f"there are {MOST_SERVICES} services already", ways_on=["remove one that is stopped"]
                )
            if kept is None:
                if self._tables.add(spec, new_state(spec, now)):
                    return self.service(spec.name)
                continue
            event: rule.Event = rule.Wanted(True)
            if kept.state.has_process and spec != kept.spec:
                event = rule.Renewed("it was changed")
            state = replace(kept.state, is_forgotten=False)
            state, _ = rule.decide(spec, state, event, now)
            if self._tables.put(kept, state, spec) is not None:
                return self.service(spec.name)
        raise Unavailable(f"service '{spec.name}' changed again and again", ways_on=["try again"])

    def restart(self, name: str) -> ServiceInfo:
        """Drain a service and start it again; one that is stopped is started."""
        return self._change(name, rule.Renewed("asked to start again"))

    def stop(self, name: str, *, remove: bool = False) -> ServiceInfo:
        """Ask for a service to be drained and stopped; `remove` forgets one that is stopped."""
        if remove:
            return self._forget(self._get(name))
        return self._change(name, rule.Wanted(False, "asked to stop"))

    def logs(self, name: str, *, offset: int = 0, generation: int = 0) -> ServiceLog:
        """What a start printed, from `offset`: the present (or last) one, or that of a number."""
        state = self._get(name).state
        generation = generation or state.generation
        start = next((each for each in state.starts if each.generation == generation), None)
        if start is None and generation != state.generation:
            known = ", ".join(str(each.generation) for each in state.starts)
            raise NotFound(
                f"service '{name}' has no start {generation} on record", ways_on=[f"starts: {known}"]
            )
        pool = state.pool if start is None else start.pool
        chunk = self._engine(pool).logs(service_key(name, generation), max(0, offset), LOG_BYTES)
        text = chunk.data.decode(errors="replace")
        return ServiceLog(text, chunk.next_offset, generation, chunk.is_end)

    def leases(self) -> tuple[Lease, ...]:
        """What services hold of their units, from when they run there until they have ended."""
        return tuple(
            Lease(
                f"service {each.spec.name}",
                (each.state.unit,),
                each.spec.resources.cpu.low,
                round(each.spec.resources.memory_bytes.low),
                each.spec.resources.gpu.low,
                is_lasting=True,
            )
            for each in self._tables.all()
            if each.state.has_process and each.state.unit
        )

    def close(self) -> None:
        """Let go of the engines that were asked."""
        with self._opening:
            engines, self._engines = list(self._engines.values()), {}
        for engine in engines:
            with contextlib.suppress(Exception):  # one that is away has nothing to let go
                engine.close()

    # How.

    def _change(self, name: str, event: rule.Event) -> ServiceInfo:
        for _ in range(MOST_TRIES):
            kept = self._get(name)
            now = self._clock.now()
            state, _ = rule.decide(kept.spec, kept.state, event, now)
            written = kept if state == kept.state else self._tables.put(kept, state)
            if written is not None:
                return written.info(now)
        raise Unavailable(f"service '{name}' changed again and again", ways_on=["try again"])

    def _check_pool(self, spec: ServiceSpec) -> None:
        """Refuse what no unit of its pool can ever give. A pool that cannot be asked now is waited for."""
        self._pools[spec.pool]  # or it is refused, with those that there are
        try:
            engine = self._engine(spec.pool)
            is_met = bool(engine.offers(spec.resources))
            everything = () if is_met else engine.offers(Resources(cpu=Range(0)))
            check_abilities(launch_of(spec, spec.name, self._pools[spec.pool]), engine.capabilities(),
                            engine=self._pools.known(spec.pool))  # fmt: skip
        except (Unavailable, TimedOut):
            return
        if not is_met:
            raise refusal(spec.resources, everything, who=f"service '{spec.name}'")

    def _engine(self, pool: str) -> Engine:
        found = self._pools[pool]
        with self._opening:
            if found.name not in self._engines:
                self._engines[found.name] = found.open()
            return self._engines[found.name]

    def _forget(self, kept: Kept) -> ServiceInfo:
        state, name = kept.state, kept.spec.name
        if state.phase not in (ServicePhase.stopped, ServicePhase.given_up):
            raise Refused(
                f"service '{name}' is {state.phase.value}",
                ways_on=[f"stop it first: fourfold service stop {name}"],
            )
        forgotten = ServiceState(generation=state.generation, is_forgotten=True)
        if self._tables.put(kept, forgotten) is None:
            raise Unavailable(f"service '{name}' changed meanwhile", ways_on=["try again"])
        return kept.info(self._clock.now())

    def _get(self, name: str) -> Kept:
        kept = self._tables.get(name)
        if kept is None or kept.state.is_forgotten:
            known = [each.spec.name for each in self._tables.all()]
            raise NotFound(
                f"there is no service '{name}'", ways_on=did_you_mean(name, known, what="services")
            )
        return kept
