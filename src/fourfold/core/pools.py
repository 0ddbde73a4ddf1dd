"""Pools as people see them: an engine, its units, what a unit costs, and what goes on there."""

from __future__ import annotations

from dataclasses import dataclass

from fourfold.core.jobs import UnitCapacity


@dataclass(frozen=True, slots=True)
class PoolLoad:
    """What goes on in a pool, as the loop knows it."""

    name: str
    units: tuple[UnitCapacity, ...] = ()
    fault: str = ""
    """Why nothing can be started there now; "" while it can."""
    busy_count: int = 0
    """Workers that carry something out."""
    idle_count: int = 0
    """Workers that are kept warm."""
    queued_count: int = 0
    """Steps that wait for a turn."""


@dataclass(frozen=True, slots=True)
class PoolInfo:
    """A pool as listed."""

    name: str
    engine: str
    """The address of its engine."""
    price_usd_per_hour: float
    is_default: bool
    load: PoolLoad
    is_running: bool
    """Whether a process runs the loop now, so that counts mean something."""
