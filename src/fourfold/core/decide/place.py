"""Who may start now, and where: admission over the heads of the queues.

What is in use is always the sum of the live leases, never a counter that could drift. Work is taken by
priority, then by who has been ready longest. Smaller work may pass what does not fit yet, so that
units do not stand idle, until the one passed over has waited `PATIENCE_S`: then what gets free is kept for
it. Of equal priority, what must start soon to meet its deadline passes what can wait (see `turn`).

Work on several nodes (a gang) takes all of its places in one decision or none: no gang ever holds a part
of what it needs while it waits for the rest, so two of them cannot wait for each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fourfold.core.decide.deadline import Due, outlook
from fourfold.core.decide.match import name_of, nearest, unsuited
from fourfold.core.decide.pools import gang_name
from fourfold.core.jobs import Resources, UnitCapacity
from fourfold.core.quantities import bytes_text
from fourfold.core.times import Instant, after, seconds_between

PATIENCE_S = 60.0
NO_HURRY_S = 3600.0
"""By how much urgent work may pass what was ready before it."""
HEADS = 64
"""So many of those that wait are looked at; the others wait their turn."""
MOST_SHOWN = 4
"""So many units are named in a reason."""

_ROUNDING = 1e-9

Need = tuple[float, float, float, float]
"""Cores, bytes of memory and GPUs, of one node."""


@dataclass(frozen=True, slots=True)
class Lease:
    """What a live attempt, or a service, holds: so much of each of its units, one for each node."""

    holder: str
    units: tuple[str, ...]
    cpu: float
    memory_bytes: int
    gpu: float = 0
    disk_bytes: int = 0
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
    due: Due | None = None


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
    whole: dict[str, list[float]] = {unit.name: [*_whole(unit)] for unit in units}
    free = {name: [*amounts] for name, amounts in whole.items()}
    for lease in leases:
        for name in lease.units:
            if (left := free.get(name)) is not None:
                _take(left, (lease.cpu, lease.memory_bytes, lease.gpu, lease.disk_bytes))
    decisions: list[Start | Hold] = []
    kept_for = ""
    for work in sorted(waiting, key=turn)[:HEADS]:
        if kept_for:
            told = f"the next free unit is kept for {kept_for}, which waits longest"
            decisions.append(Hold(work.holder, _with_outlook(told, work, now)))
            continue
        need = needs(work.resources)
        places = _places(units, free, work.resources, work.nodes)
        if len(places) == work.nodes:
            for name in places:
                _take(free[name], need)
            lease = lease_of(work.holder, places, work.resources)
            each = "" if work.nodes == 1 else f"{work.nodes} nodes of "
            told = _with_outlook(f"{each}{_words(need)} free on {lease.unit}", work, now)
            decisions.append(Start(work.holder, lease, told))
            continue
        suited = [unit for unit in units if _suits(unit, work.resources, work.nodes)]
        told = _why_not(work, len(places), suited, units, free, leases)
        decisions.append(Hold(work.holder, _with_outlook(told, work, now)))
        # What no unit can hold at present, however empty, keeps none from others.
        if seconds_between(work.ready_at, now) >= PATIENCE_S:
            places = _places(units, whole, work.resources, work.nodes)
            kept_for = work.holder if len(places) == work.nodes else ""
    return tuple(decisions)


def turn(work: Waiting) -> tuple[int, Instant, Instant, str]:
    """Whose turn comes first: by priority, then by slack, then by who is ready longest.

    What has a deadline must start by its latest start; what has none is as if it must within
    `NO_HURRY_S` of being ready, and no deadline lets work wait longer than that. So urgent work passes
    what can wait, by no more than that time, and nobody waits for ever.
    """
    by = after(work.ready_at, NO_HURRY_S)
    if work.due is not None:
        by = min(by, work.due.latest_start)
    return -work.priority, by, work.ready_at, work.holder


def _with_outlook(reason: str, work: Waiting, now: Instant) -> str:
    return "; ".join(filter(None, (reason, outlook(work.due, now))))


def needs(resources: Resources) -> Need:
    """The amounts that a lease takes: cores, bytes of memory, GPUs, bytes of disk."""
    return resources.cpu.low, resources.memory_bytes.low, resources.gpu.low, resources.disk_bytes.low


def lease_of(holder: str, units: tuple[str, ...], resources: Resources) -> Lease:
    """What an attempt that is under way holds, of each node."""
    cpu, memory, gpu, disk = needs(resources)
    return Lease(holder, units, cpu, round(memory), gpu, disk_bytes=round(disk))


def too_many(units: Sequence[UnitCapacity], resources: Resources, nodes: int) -> str:
    """Why so many nodes can never be had at once, where one of them can; nothing when they can.

    >>> from fourfold.core.quantities import Range
    >>> lab = [UnitCapacity(f"lab/n{i}", 8, 16 << 30) for i in (1, 2)]
    >>> too_many(lab[:1], Resources(cpu=Range(8)), 4)
    'asks for 4 nodes of 8 cpu but there are never more than 1 at once: lab/n1 has 8 cpu, 16.0 GiB'
    """
    need = needs(resources)
    if not any(unit.most_nodes for unit in units):
        return f"asks for {nodes} nodes but its engine starts a step on one node only"
    suited = [unit for unit in units if _suits(unit, resources, nodes)]
    places = _places(units, {unit.name: list(_whole(unit)) for unit in units}, resources, nodes)
    if len(places) == nodes:
        return ""
    there = [unit for unit in suited if unit.name in places]
    shown = [f"{unit.name} has {_words((*_whole(unit)[:3], 0))}" for unit in there[:1]]
    more = [f"and {len(there) - 1} more"] if len(there) > 1 else []
    return (
        f"asks for {nodes} nodes of {_words(need)} but there are never more than {len(places)} at once: "
        f"{'; '.join([*shown, *more]) or 'none of its units takes part in several'}"
    )


def _is_within(need: Sequence[float], have: Sequence[float]) -> bool:
    return all(has + _ROUNDING >= wants for has, wants in zip(have, need, strict=True))


def _take(left: list[float], need: Sequence[float]) -> None:
    for index, wants in enumerate(need):
        left[index] -= wants


def _whole(unit: UnitCapacity) -> Need:
    return unit.cpu, unit.memory_bytes, float(unit.gpu), unit.disk_bytes


def _words(need: Sequence[float]) -> str:
    words = [f"{need[0]:g} cpu"]
    if need[1]:
        words.append(bytes_text(need[1]))
    if need[2]:
        words.append(f"{need[2]:g} gpu")
    if need[3]:
        words.append(f"{bytes_text(need[3])} disk")
    return ", ".join(words)


def _why_not(
    work: Waiting,
    found: int,
    suited: Sequence[UnitCapacity],
    units: Sequence[UnitCapacity],
    free: dict[str, list[float]],
    leases: Sequence[Lease],
) -> str:
    asked, need = work.resources, _words(needs(work.resources))
    if units and not suited and work.nodes == 1:
        near = nearest(asked, units)[0]
        lacks = [f"{row.what}: {row.asked} asked for, {row.offered} there" for row in unsuited(asked, near)]
        return f"no unit suits it now; nearest is {name_of(near)} ({'; '.join(lacks)})"
    shown, with_disk = [], bool(asked.disk_bytes.low)
    for unit in suited[:MOST_SHOWN]:
        cpu, memory, gpu, disk = (max(0.0, amount) for amount in free[unit.name])
        shown.append(f"{unit.name} has {_words((cpu, memory, gpu, disk if with_disk else 0))} free")
    names = {unit.name for unit in suited}
    lasting = [
        f"{lease.holder} holds {_words((lease.cpu, lease.memory_bytes, lease.gpu, lease.disk_bytes))}"
        for lease in leases
        if lease.is_lasting and not names.isdisjoint(lease.units)
    ]
    there = "; ".join([*shown, *lasting[:MOST_SHOWN]]) or "there is no unit"
    if work.nodes > 1:
        return f"needs {work.nodes} nodes of {need} at once, and {found} could start now; {there}"
    return f"needs {need}; {there}"


def _places(
    units: Sequence[UnitCapacity], free: dict[str, list[float]], asked: Resources, nodes: int
) -> tuple[str, ...]:
    """Units with room now, each as often as it takes a node: so many nodes, or fewer where there is no more.

    One node takes the first that has room; several are dealt out in rounds, so that they lie apart where
    units may take more than one.
    """
    need = needs(asked)
    if nodes == 1:
        for unit in units:
            if _is_within(need, free[unit.name]) and not unsuited(asked, unit):
                return (unit.name,)
        return ()
    suited = [unit for unit in units if _suits(unit, asked, nodes)]
    left = {unit.name: list(free[unit.name]) for unit in suited}
    places: list[str] = []
    for _ in range(nodes):
        before = len(places)
        for unit in suited:
            if len(places) == nodes:
                break
            if _is_within(need, left[unit.name]) and places.count(unit.name) < max(1, unit.most_nodes):
                _take(left[unit.name], need)
                places.append(unit.name)
        if len(places) == before:
            break
    return tuple(places)


def _suits(unit: UnitCapacity, resources: Resources, nodes: int) -> bool:
    return (nodes == 1 or unit.most_nodes > 0) and not unsuited(resources, unit)
