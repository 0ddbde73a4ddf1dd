"""Looks after a project's services: holds them against other keepers, and gives each pool its own."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for

from fourfold.core.compute import JobReport
from fourfold.core.decide import serving as rule
from fourfold.core.errors import FourfoldError, Refused
from fourfold.core.ports.clock import Clock
from fourfold.core.ports.engine import Engine
from fourfold.core.serving import ServiceSpec, ServiceState, service_key
from fourfold.core.times import Instant, after
from fourfold.foundation.compute.serving.pool_keeper import PoolKeeper
from fourfold.foundation.compute.serving.pools import ServicePool, ServicePools
from fourfold.foundation.compute.serving.probing import Ask, Probing, ask
from fourfold.foundation.compute.serving.tables import Kept, ServiceTables

LEASE_S = 15.0
LOOK_S = 0.5
END_WITHIN_S = 5.0
"""So long is a pool waited for that is in the middle of a look when all ends."""

logger = logging.getLogger(__name__)


class ServiceKeeper:
    """Keeps the services of a project, on whatever pools they are.

    What is wanted and how it is stands in the catalog, written before anything is done. Each start has a
    key of its own, so a keeper that comes after one that died finds what that one began, and starts
    nothing twice. Each pool is looked after in a thread of its own.
    """

    def __init__(
        self,
        tables: ServiceTables,
        pools: ServicePools,
        clock: Clock,
        *,
        name: str,
        record: Callable[[Sequence[JobReport]], object],
        ask: Ask = ask,
        patience_s: float = LOOK_S,
    ) -> None:
        """`name` is this keeper's for ever; a pool's engine is opened with its first service.

        A look waits `patience_s` for its pools; one that takes longer is looked at again when it is done.
        """
        self._tables = tables
        self._pools = pools
        self._clock = clock
        self._name = name
        self._record = record
        self._patience_s = patience_s
        self._probing = Probing(ask)
        self._keepers: dict[str, PoolKeeper] = {}
        self._turns: dict[str, ThreadPoolExecutor] = {}
        self._looks: dict[str, Future[None]] = {}
        self._wake = threading.Event()
        self._is_closing = False
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"<ServiceKeeper {self._name}: {sorted(self._keepers)}>"

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
        wait_for(self._looks.values(), END_WITHIN_S)
        for name, keeper in self._keepers.items():
            self._turns[name].shutdown(wait=False, cancel_futures=True)
            with contextlib.suppress(Exception):  # an engine that is away has nothing to let go
                keeper.close()
        self._probing.close()
        self._tables.let_go(self._name)

    def step(self) -> None:
        """One look at everything."""
        now = self._clock.now()
        busy = {name for name, look in self._looks.items() if not look.done()}  # asked before reading
        if not (kept := self._tables.all()):
            return
        if any(each.keeper != self._name or each.kept_until < after(now, LEASE_S / 2) for each in kept):
            self._tables.keep(self._name, now=now, until=after(now, LEASE_S))
            kept = self._tables.all()
        by_pool: dict[str, list[Kept]] = {name: [] for name in self._keepers}
        wanted: dict[str, list[str]] = {}
        for each in kept:
            state = each.state
            pool = self._pools.known(state.pool if state.has_process else each.spec.pool)
            wanted.setdefault(pool, []).extend(_keys(each))
            if each.keeper == self._name:
                by_pool.setdefault(pool, []).append(each)
        for pool, mine in by_pool.items():
            if pool not in busy:
                self._look(pool, mine, wanted.get(pool, []))
        wait_for(self._looks.values(), self._patience_s)

    # How.

    def _run(self) -> None:
        while not self._is_closing:
            try:
                self.step()
            except FourfoldError as error:  # a database that is away comes back
                logger.warning("services were not looked at: %s", error)
            except Exception:  # the outermost loop: nobody else would look after the others
                logger.exception("services were not looked at")
            self._wake.wait(LOOK_S)

    def _look(self, pool: str, mine: list[Kept], wanted: list[str]) -> None:
        if pool not in self._keepers:
            self._keepers[pool] = PoolKeeper(
                self._pool(pool), self._tables, self._clock, self._probing,
                name=self._name, record=self._record,
            )  # fmt: skip
            self._turns[pool] = ThreadPoolExecutor(1, thread_name_prefix=f"fourfold-services-{pool}")
        self._looks[pool] = self._turns[pool].submit(self._look_at, pool, mine, wanted)

    def _look_at(self, pool: str, mine: list[Kept], wanted: list[str]) -> None:
        try:
            self._keepers[pool].look(mine, wanted)
        except FourfoldError as error:
            logger.warning("services of pool %s were not looked at: %s", pool, error)
        except Exception:  # the outermost of its thread: the other pools go on
            logger.exception("services of pool %s were not looked at", pool)

    def _pool(self, name: str) -> ServicePool:
        try:
            return self._pools[name]
        except Refused as error:  # its services wait until the settings name it again
            fault = error

            def opens() -> Engine:
                raise fault

            return ServicePool(name, opens)


def _keys(kept: Kept) -> list[str]:
    """What of a service may run: its present start, and one that another keeper may be about to make."""
    generation = kept.state.generation
    return [service_key(kept.spec.name, each) for each in (generation, generation + 1)]


def new_state(spec: ServiceSpec, now: Instant) -> ServiceState:
    """A service that is asked for and was never there."""
    return rule.decide(spec, ServiceState(), rule.Wanted(True), now)[0]
