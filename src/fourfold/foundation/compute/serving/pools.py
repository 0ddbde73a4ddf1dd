"""Pools as services need them: an engine, how its units are called, and how code gets there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fourfold.core.errors import Refused, did_you_mean
from fourfold.core.ports.engine import Engine, Launch
from fourfold.core.serving import ProbeKind, ServiceSpec


@dataclass(frozen=True, slots=True)
class ServicePool:
    """A pool of the settings. `open` gives an engine of its own to each who asks."""

    name: str
    open: Callable[[], Engine]
    is_here: bool = True
    """Whether its units are this machine, whose size and price are known."""
    listens_at: str = "127.0.0.1"
    """Where a service is to listen so that this machine reaches it."""


class ServicePools:
    """The pools of a project, and which of them a service is on that names none."""

    def __init__(self, pools: Mapping[str, ServicePool], *, here: str) -> None:
        self._pools = dict(pools)
        self._here = here

    def __getitem__(self, name: str) -> ServicePool:
        """The pool of a name; "" is this machine. `Refused` lists those that there are."""
        found = self._pools.get(name or self._here)
        if found is None:
            raise Refused(
                f"the settings name no pool '{name or self._here}'",
                ways_on=did_you_mean(name, self._pools, what="pools"),
            )
        return found

    def known(self, name: str) -> str:
        """The pool's own name, also where "" stands for it or the settings no longer have it."""
        return name or self._here


def launch_of(spec: ServiceSpec, key: str, pool: ServicePool) -> Launch:
    """What a pool's engine is asked to start."""
    listens = spec.probe.kind is not ProbeKind.none
    return Launch(
        key,
        spec.argv,
        kind="service",
        env={**({"FOURFOLD_HOST": pool.listens_at} if listens else {}), **spec.env},
        cwd=spec.cwd,
        resources=spec.resources,
        image=spec.image,
        listens=listens,
    )
