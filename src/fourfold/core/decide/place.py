"""Who may start now, and where: admission over the heads of the queues.

What is in use is always the sum of the live leases, never a counter that could drift. Work is taken by
priority, then by who has been ready longest. Smaller work may pass what does not fit yet, so that
units do not stand idle, until the one passed over has waited `PATIENCE_S`: then its unit is kept for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fourfold.core.decide.match import shortfalls, unsuited
from fourfold.core.jobs import Resources, UnitCapacity
from fourfold.core.quantities import bytes_text
from fourfold.core.times import Instant, seconds_between

PATIENCE_S = 60.0
HEADS = 64
"""So many of those that wait are looked at; the others wait their turn."""
MOST_SHOWN = 4
"""So many units are named in a reason."""

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Lease:
    """What a live attempt, or a service, holds."""

    holder: str
    unit: str
    cpu: float
    memory_bytes: int
    gpu: float = 0
    is_lasting: bool = False
    """Whether nobody knows its end, as of a service: who waits for it is told of it."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Work that is ready and wants a unit."""

    holder: str
    resources: Resources
    ready_at: Instant
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Start:
    """Let `holder` run on `unit`."""

    holder: str
    lease: Lease
    reason: str


@dataclass(frozen=True, slots=True)
class Hold:
    """Let `holder` wait, and why."""

    holder: str
    reason: str


def place(
    units: Sequence[UnitCapacity], leases: Sequence[Lease], waiting: Sequence[Waiting], now: Instant
) -> tuple[Start | Hold, ...]:
    """Decide for each of those that wait, in order of turn."""
    free = {unit.name: [unit.cpu, unit.memory_bytes, float(unit.gpu)] for unit in units}
    for lease in leases:
        if (left := free.get(lease.unit)) is not None:
            left[0] -= lease.cpu
            left[1] -= lease.memory_bytes
            left[2] -= lease.gpu
    decisions: list[Start | Hold] = []
    kept_for = ""
    for work in sorted(waiting, key=lambda work: (-work.priority, work.ready_at, work.holder))[:HEADS]:
        need = (work.resources.cpu.low, work.resources.memory_bytes.low, work.resources.gpu.low)
        if kept_for:
            decisions.append(
                Hold(work.holder, f"the next free unit is kept for {kept_for}, which waits longest")
            )
            continue
        for unit in units:
            left = free[unit.name]
            if not unsuited(work.resources, unit) and all(
                have + _ROUNDING >= want for have, want in zip(left, need, strict=True)
            ):
                for index, want in enumerate(need):
                    left[index] -= want
                lease = Lease(work.holder, unit.name, need[0], round(need[1]), need[2])
                decisions.append(Start(work.holder, lease, f"{_words(need)} free on {unit.name}"))
                break
        else:
            suited = [unit for unit in units if not unsuited(work.resources, unit)]
            decisions.append(Hold(work.holder, _why_not(suited, free, need, leases)))
            if seconds_between(work.ready_at, now) >= PATIENCE_S:
                kept_for = work.holder
    return tuple(decisions)


def never_fits(units: Sequence[UnitCapacity], resources: Resources) -> str:
    """Why no unit can ever meet the request, and what units there are; nothing when one can.

    >>> from fourfold.core.quantities import Range
    >>> never_fits([UnitCapacity("local", 2, 8 << 30)], Resources(memory_bytes=Range(64 << 30)))
    'asks for 1 cpu, 64.0 GiB but no unit can ever give it: local has 2 cpu, 8.0 GiB'
    """
    need = (resources.cpu.low, resources.memory_bytes.low, resources.gpu.low)
    if any(
        unit.cpu + _ROUNDING >= need[0]
        and unit.memory_bytes >= need[1]
        and unit.gpu >= need[2]
        and not unsuited(resources, unit)
        for unit in units
    ):
        return ""
    if not units:
        return f"asks for {_words(need)} but there is no unit at all"
    large = [
        unit for unit in units if all(have >= want for have, want in zip(_whole(unit), need, strict=True))
    ]
    if large:
        nearest = min(large, key=lambda unit: ([row[1] for row in shortfalls(resources, unit)], unit.name))
        lacks = "; ".join(
            f"{what} {asked} is asked for, and {nearest.name} has {offered}"
            for what, _, asked, offered in unsuited(resources, nearest)
        )
        return f"asks for what no unit that is large enough can ever give: {lacks}"
    largest = sorted(units, key=lambda unit: (-unit.memory_bytes, -unit.cpu, unit.name))
    shown = [f"{unit.name} has {_words(_whole(unit))}" for unit in largest[:MOST_SHOWN]]
    more = [f"and {len(units) - MOST_SHOWN} more"] if len(units) > MOST_SHOWN else []
    return f"asks for {_words(need)} but no unit can ever give it: {'; '.join([*shown, *more])}"


def _whole(unit: UnitCapacity) -> tuple[float, float, float]:
    return unit.cpu, unit.memory_bytes, float(unit.gpu)


def _words(need: tuple[float, float, float]) -> str:
    words = [f"{need[0]:g} cpu"]
    if need[1]:
        words.append(bytes_text(need[1]))
    if need[2]:
        words.append(f"{need[2]:g} gpu")
    return ", ".join(words)


def _why_not(
    units: Sequence[UnitCapacity],
    free: dict[str, list[float]],
    need: tuple[float, float, float],
    leases: Sequence[Lease],
) -> str:
    shown = []
    for unit in units[:MOST_SHOWN]:
        cpu, memory, gpu = (max(0.0, amount) for amount in free[unit.name])
        shown.append(f"{unit.name} has {_words((cpu, memory, gpu))} free")
    names = {unit.name for unit in units}
    lasting = [
        f"{lease.holder} holds {_words((lease.cpu, lease.memory_bytes, lease.gpu))}"
        for lease in leases
        if lease.is_lasting and lease.unit in names
    ]
    return f"needs {_words(need)}; {'; '.join([*shown, *lasting[:MOST_SHOWN]]) or 'there is no unit'}"
