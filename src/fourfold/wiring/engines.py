"""The engines that pools are made of, by their addresses."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fourfold.core.errors import Refused
from fourfold.core.settings import PoolSettings, Settings, host_and_port
from fourfold.foundation.compute.serving.pools import ServicePool, ServicePools
from fourfold.resources.flows.owner import Far
from fourfold.resources.pools.pool import PoolPlan

if TYPE_CHECKING:
    from fourfold.core.compute import Unit
    from fourfold.core.figures import SpeedFigure
    from fourfold.core.ports.engine import Engine

WARM_HERE_S, WARM_ELSEWHERE_S = 300.0, 60.0
MOST_WARM = 16
"""So many idle workers are kept in a pool of unknown size."""


class Engines:
    """Opens engines, each for one use: a use has a folder of its own, whose owner ends what is left there."""

    def __init__(
        self,
        settings: Settings,
        home: Path,
        unit: Callable[[str], Unit],
        *,
        measured: Callable[[], Sequence[SpeedFigure]] = tuple,
    ) -> None:
        """`unit` finds this machine as a unit of that name; `measured` tells what was measured of it."""
        self._measured = measured
        self._settings = settings
        self._home = home
        self._unit = unit

    @property
    def far(self) -> Far | None:
        """Where workers on other machines come in, if anywhere."""
        control = self._settings.control
        if not control.listen:
            return None
        host, port = host_and_port(control.listen, "control.listen")
        return Far(host, port, control.address or f"{host}:{port}", control.away_s)

    @property
    def local_pools(self) -> tuple[str, ...]:
        """The pools that are this machine."""
        return tuple(name for name, pool in self._settings.pools.items() if _scheme(pool) == "local")

    @property
    def body_pool(self) -> str:
        """Where the bodies of flows run: on this machine, in a pool of their own where it is none."""
        return next(iter(self.local_pools), "here")

    def open(self, pool: str, use: str) -> Engine:
        """The engine of a pool, for one use."""
        settings = self._settings.pools.get(pool, PoolSettings())
        match _scheme(settings):
            case "local":
                return self.local(pool, use, price_usd_per_hour=settings.price_usd_per_hour)
            case "slurm":
                from fourfold.adapters.slurm import open_slurm

                return open_slurm(
                    settings.engine,
                    home=self._home,
                    use=f"{use}.{pool}",
                    price_usd_per_hour=settings.price_usd_per_hour,
                    cwd=self._home.parent,
                )
            case "ray":
                from fourfold.adapters.ray import RayEngine, RaySettings

                return RayEngine(
                    RaySettings.parse(settings.engine),
                    label=f"{self._settings.project}.{self._installation()}.{use}.{pool}",
                    price_usd_per_hour=settings.price_usd_per_hour,
                )
            case "podman":
                from fourfold.adapters.containers import ContainerEngine, ContainerSettings

                return ContainerEngine(
                    self._home / "jobs" / f"{use}.{pool}",
                    ContainerSettings.parse(settings.engine),
                    label=f"{self._settings.project}.{self._installation()}.{use}.{pool}",
                    unit=self._unit(pool),
                    project=self._home.parent,
                    price_usd_per_hour=settings.price_usd_per_hour,
                )
            case "kubernetes":
                from fourfold.adapters.kubernetes import KubernetesEngine, KubernetesSettings

                return KubernetesEngine(
                    KubernetesSettings.parse(settings.engine),
                    label=f"{self._settings.project}.{self._installation()}.{use}.{pool}",
                    folder=self._home / "jobs" / f"{use}.{pool}",
                    price_usd_per_hour=settings.price_usd_per_hour,
                )
            case other:
                raise Refused(f"pool '{pool}' has an engine that nobody answers: '{other}://'")

    def local(self, pool: str, use: str, *, price_usd_per_hour: float = 0.0) -> Engine:
        """This machine's processes."""
        from fourfold.adapters.local_engine import LocalEngine

        return LocalEngine(
            self._home / "jobs" / (use if pool == "local" else f"{use}.{pool}"),
            unit=self._unit(pool),
            price_usd_per_hour=price_usd_per_hour,
            cwd=self._home.parent,
        )

    def _installation(self) -> str:
        """What tells our jobs on a cluster from those of another project that has the same name.

        Servers that share a catalog are one installation; else it is the project's folder.
        """
        catalog = self._settings.catalog
        if catalog.startswith("postgresql"):
            return hashlib.sha256(catalog.rpartition("@")[2].encode()).hexdigest()[:16]
        path = self._home / "installation"
        if not path.exists():
            new = path.with_name(f"installation.{secrets.token_hex(4)}")
            new.write_text(secrets.token_hex(8))
            with contextlib.suppress(FileExistsError):
                os.link(new, path)
            new.unlink()
        return path.read_text()

    def plans(self, use: str) -> tuple[PoolPlan, ...]:
        """All pools, for the loop; and one for bodies where no pool is this machine."""
        default = self._settings.default_pool

        def plan(name: str) -> PoolPlan:
            settings = self._settings.pools.get(name, PoolSettings())
            return PoolPlan(
                name,
                lambda: self.open(name, use),
                engine=settings.engine,
                price_usd_per_hour=settings.price_usd_per_hour,
                is_default=name == default,
                most_units=settings.most_units,
                is_for_steps=name in self._settings.pools,
                traits=settings.traits(name),
                measured=self._measured if _scheme(settings) in ("local", "podman") else tuple,
                outlives=self.far is not None and _scheme(settings) != "local",
                python=settings.python,
                cache=settings.cache,
                cache_bytes=settings.cache_bytes,
            )

        return tuple(plan(name) for name in dict.fromkeys((*self._settings.pools, self.body_pool)))

    def service_pools(self) -> ServicePools:
        """All pools, for services; and this machine where no pool is."""

        def pool(name: str) -> ServicePool:
            is_here = name in self.local_pools or name not in self._settings.pools
            listens_at = "127.0.0.1" if is_here else "0.0.0.0"  # noqa: S104 - others are to reach it
            return ServicePool(
                name, lambda: self.open(name, "services"), is_here=is_here, listens_at=listens_at
            )

        names = dict.fromkeys((*self._settings.pools, self.body_pool))
        return ServicePools({name: pool(name) for name in names}, here=self.body_pool)

    def warm_s(self) -> dict[str, float]:
        """How long each pool keeps an idle worker."""
        here = self.local_pools
        return {
            name: pool.idle_s or (WARM_HERE_S if name in here else WARM_ELSEWHERE_S)
            for name, pool in self._settings.pools.items()
        }

    def most_warm(self) -> dict[str, int]:
        """How many idle workers each pool keeps."""
        warm = {name: pool.workers or MOST_WARM for name, pool in self._settings.pools.items()}
        for name in self.local_pools or (self.body_pool,):
            settings = self._settings.pools.get(name, PoolSettings())
            warm[name] = settings.workers or 2 + int(self._unit(name).cores)
        return warm


def _scheme(pool: PoolSettings) -> str:
    return pool.engine.partition("://")[0].partition("+")[0]
