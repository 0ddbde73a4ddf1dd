"""Who may start now, and where: admission over the heads of the queues.

What is in use is always the sum of the live leases, never a counter that could drift. Work is taken by
priority, then by who has been ready longest. Smaller work may pass what does not fit yet, so that
units do not stand idle, until the one passed over has waited `PATIENCE_S`: then what gets free is kept for
it.

Work on several nodes (a gang) takes all of its places in one decision or none: no gang ever holds a part
of what it needs while it waits for the rest, so two of them cannot wait for each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fourfold.core.decide.match import shortfalls, unsuited
from fourfold.core.decide.pools import gang_name
from fourfold.core.jobs import Resources, UnitCapacity
from fourfold.core.quantities import bytes_text
from fourfold.core.times import Instant, seconds_between

PATIENCE_S = 60.0
HEADS = 64
"""So many of those that wait are looked at; the others wait their turn."""
MOST_SHOWN = 4
"""So many units are named in a reason."""

_ROUNDING = 1e-9

Need = tuple[float, float, float]
"""Cores, bytes of memory and GPUs, of one node."""


@dataclass(frozen=True, slots=True)
class Lease:
    """What a live attempt, or a service, holds: so much of each of its units, one for each node."""

    holder: str
    units: tuple[str, ...]
    cpu: float
    memory_bytes: int
    gpu: float = 0
    is_lasting: bool = False
    """Whether nobody knows its end, as of a service: who waits for it is told of it."""

    @property
    def unit(self) -> str:
        """Its units as one name."""
        return gang_name(self.units)


@dataclass(frozen=True, slots=True)
class Waiting:
    """Work that is ready and wants a unit, or several."""

    holder: str
    resources: Resources
    """Of one node."""
    ready_at: Instant
    priority: int = 0
    nodes: int = 1


@dataclass(frozen=True, slots=True)
class Start:
    """Let `holder` run on the units of its lease."""

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
        for name in lease.units:
            if (left := free.get(name)) is not None:
                _take(left, (lease.cpu, lease.memory_bytes, lease.gpu))
    decisions: list[Start | Hold] = []
    kept_for = ""
    for work in sorted(waiting, key=lambda work: (-work.priority, work.ready_at, work.holder))[:HEADS]:
        need = _need(work.resources)
        if kept_for:
            decisions.append(
                Hold(work.holder, f"the next free unit is kept for {kept_for}, which waits longest")
            )
            continue
        suited = [unit for unit in units if _suits(unit, work.resources, work.nodes)]
        places = _places(suited, free, need, work.nodes)
        if len(places) == work.nodes:
            for name in places:
                _take(free[name], need)
            lease = Lease(work.holder, places, need[0], round(need[1]), need[2])
            each = "" if work.nodes == 1 else f"{work.nodes} nodes of "
            decisions.append(Start(work.holder, lease, f"{each}{_words(need)} free on {lease.unit}"))
            continue
        decisions.append(Hold(work.holder, _why_not(suited, free, work, len(places), leases)))
        if seconds_between(work.ready_at, now) >= PATIENCE_S:
            kept_for = work.holder
    return tuple(decisions)


def never_fits(units: Sequence[UnitCapacity], resources: Resources, nodes: int = 1) -> str:
    """Why the units can never meet the request, and what units there are; nothing when they can.

    >>> from fourfold.core.quantities import Range
    >>> never_fits([UnitCapacity("local", 2, 8 << 30)], Resources(memory_bytes=Range(64 << 30)))
    'asks for 1 cpu, 64.0 GiB but no unit can ever give it: local has 2 cpu, 8.0 GiB'
    >>> lab = [UnitCapacity(f"lab/n{i}", 8, 16 << 30) for i in (1, 2)]
    >>> never_fits(lab[:1], Resources(cpu=Range(8)), 4)
    'asks for 4 nodes of 8 cpu but there are never more than 1 at once: lab/n1 has 8 cpu, 16.0 GiB'
    """
    need = _need(resources)
    if any(_is_within(need, _whole(unit)) and not unsuited(resources, unit) for unit in units):
        return "" if nodes == 1 else _too_many(units, resources, nodes)
    if not units:
        return f"asks for {_words(need)} but there is no unit at all"
    large = [unit for unit in units if _is_within(need, _whole(unit))]
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


def _too_many(units: Sequence[UnitCapacity], resources: Resources, nodes: int) -> str:
    """Why so many nodes can never be had at once, where one of them can."""
    need = _need(resources)
    if not any(unit.most_nodes for unit in units):
        return f"asks for {nodes} nodes but its engine starts a step on one node only"
    suited = [unit for unit in units if _suits(unit, resources, nodes)]
    places = _places(suited, {unit.name: list(_whole(unit)) for unit in units}, need, nodes)
    if len(places) == nodes:
        return ""
    there = [unit for unit in suited if unit.name in places]
    shown = [f"{unit.name} has {_words(_whole(unit))}" for unit in there[:1]]
    more = [f"and {len(there) - 1} more"] if len(there) > 1 else []
    return (
        f"asks for {nodes} nodes of {_words(need)} but there are never more than {len(places)} at once: "
        f"{'; '.join([*shown, *more]) or 'none of its units takes part in several'}"
    )


def _places(
    units: Sequence[UnitCapacity], free: dict[str, list[float]], need: Need, nodes: int
) -> tuple[str, ...]:
    """Units with room now, each as often as it takes a node: so many nodes, or fewer where there is no more.

    One node takes the first that has room; several are dealt out in rounds, so that they lie apart where
    units may take more than one.
    """
    left = {unit.name: list(free[unit.name]) for unit in units}
    places: list[str] = []
    for _ in range(nodes):
        before = len(places)
        for unit in units:
            if len(places) == nodes:
                break
            most = max(1, unit.most_nodes) if nodes > 1 else 1
            if _is_within(need, left[unit.name]) and places.count(unit.name) < most:
                _take(left[unit.name], need)
                places.append(unit.name)
        if len(places) == before:
            break
    return tuple(places)


def _suits(unit: UnitCapacity, resources: Resources, nodes: int) -> bool:
    return (nodes == 1 or unit.most_nodes > 0) and not unsuited(resources, unit)


def _need(resources: Resources) -> Need:
    return resources.cpu.low, resources.memory_bytes.low, resources.gpu.low


def _is_within(need: Sequence[float], have: Sequence[float]) -> bool:
    return all(has + _ROUNDING >= wants for has, wants in zip(have, need, strict=True))


def _take(left: list[float], need: Sequence[float]) -> None:
    for index, wants in enumerate(need):
        left[index] -= wants


def _whole(unit: UnitCapacity) -> Need:
    return unit.cpu, unit.memory_bytes, float(unit.gpu)


def _words(need: Need) -> str:
    words = [f"{need[0]:g} cpu"]
    if need[1]:
        words.append(bytes_text(need[1]))
    if need[2]:
        words.append(f"{need[2]:g} gpu")
    return ", ".join(words)


def _why_not(
    units: Sequence[UnitCapacity],
    free: dict[str, list[float]],
    work: Waiting,
    found: int,
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
        if lease.is_lasting and not names.isdisjoint(lease.units)
    ]
    there = "; ".join([*shown, *lasting[:MOST_SHOWN]]) or "there is no unit"
    need = _words(_need(work.resources))
    if work.nodes > 1:
        return f"needs {work.nodes} nodes of {need} at once, and {found} could start now; {there}"
    return f"needs {need}; {there}"
