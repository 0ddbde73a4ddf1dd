"""What a job's use amounts to: utilisation, cost, and in one sentence what bounds it."""

from __future__ import annotations

from collections.abc import Iterable

from fourfold.core.compute import (
    NANO_PER_USD,
    Account,
    Bound,
    FigureName,
    Held,
    Job,
    JobTotals,
    Measurement,
    Unit,
)
from fourfold.core.jobs import Usage
from fourfold.core.quantities import bytes_text
from fourfold.core.times import duration_text

TOO_SHORT_S = 0.02
"""Below this, clock ticks and start-up are most of what was measured."""
ROUNDING = 1.02
"""Up to this, a utilisation above one is the rounding of two clocks; beyond it, the sentence says so."""
MOST_OF_WAITING = 0.5
"""From this share of the time that its processors stood idle on, the disk is what bounds a job."""
BUSY = 0.8
"""From this utilisation on, the processors are what bounds a job."""
TIGHT = 0.9
"""From this share of its memory on, a job is told to ask for more."""


def account(
    usage: Usage,
    *,
    held: Held,
    unit: Unit,
    price_usd_per_hour: float = 0.0,
    measurement: Measurement | None = None,
    share: float | None = None,
) -> Account:
    """The account of a job that held a part of a unit, at the unit's price then.

    `share` is what it held of several units, added up; a price is that of one.

    >>> unit = Unit("local", cores=4, memory_bytes=16 << 30)
    >>> usage = Usage(wall_s=10, cpu_s=9.5, memory_peak_bytes=1 << 30)
    >>> done = account(usage, held=Held(cpu=4), unit=unit, price_usd_per_hour=0.36)
    >>> done.cost_nanousd, round(done.utilisation, 4), done.bound.value
    (1000000, 0.2375, 'one_core')
    >>> print(done.sentence)
    One core bounds it: it held 4 cores and kept 0.95 busy. Ask for 1 core, or let the work use several.
    """
    share = unit_share(held, unit) if share is None else share
    cores_held = held.cpu
    utilisation = None
    if usage.cpu_s is not None and usage.wall_s > 0 and cores_held > 0:
        utilisation = usage.cpu_s / (usage.wall_s * cores_held)
    bound, what_bounds = _bound(usage, held, utilisation)
    flops_utilisation = _flops_utilisation(usage, held, unit, measurement)
    arithmetic = _arithmetic(usage, flops_utilisation, measurement)
    sentences = (what_bounds, _tightness(usage, held), arithmetic)
    return Account(
        utilisation=utilisation,
        flops_utilisation=flops_utilisation,
        memory_utilisation=_memory_utilisation(usage, held),
        price_usd_per_hour=price_usd_per_hour,
        unit_share=share,
        cost_nanousd=cost_nanousd(usage.wall_s, share=share, price_usd_per_hour=price_usd_per_hour),
        bound=bound,
        sentence=" ".join(sentence for sentence in sentences if sentence),
    )


def unit_share(held: Held, unit: Unit) -> float:
    """The largest share held of anything the unit has: what nobody else could have used meanwhile.

    >>> unit_share(Held(cpu=1, memory_bytes=12 << 30), Unit("local", cores=4, memory_bytes=16 << 30))
    0.75
    """
    return share_of(held, Held(unit.cores, unit.memory_bytes, len(unit.gpus)))


def share_of(held: Held, whole: Held) -> float:
    """The largest share held of anything that there is."""
    shares = [
        held.cpu / whole.cpu if whole.cpu else 0.0,
        held.memory_bytes / whole.memory_bytes if whole.memory_bytes else 0.0,
        held.gpu / whole.gpu if whole.gpu else 0.0,
    ]
    return min(1.0, max(shares))


def cost_nanousd(wall_s: float, *, share: float, price_usd_per_hour: float) -> int:
    """Price × time × share, rounded once, to a nano-dollar."""
    return round(price_usd_per_hour * NANO_PER_USD * wall_s * share / 3600)


def totals(jobs: Iterable[Job]) -> JobTotals:
    """Many jobs together; utilisation is of all cores held over all wall seconds."""
    count, wall_s, cpu_s, held_s, peak, cost = 0, 0.0, 0.0, 0.0, 0, 0
    for job in jobs:
        usage = job.report.usage
        count += 1
        wall_s += usage.wall_s
        cost += job.account.cost_nanousd
        peak = max(peak, usage.memory_peak_bytes or 0)
        if usage.cpu_s is not None:
            cpu_s += usage.cpu_s
            held_s += usage.wall_s * job.report.held.cpu
    return JobTotals(count, wall_s, cpu_s, peak, cost, cpu_s / held_s if held_s else None)


def _flops_utilisation(usage: Usage, held: Held, unit: Unit, measurement: Measurement | None) -> float | None:
    if usage.flops is None or measurement is None or usage.wall_s <= 0 or held.cpu <= 0:
        return None
    # FP32 is the faster of the two: against it, nobody is flattered.
    peak = measurement.value(FigureName.fp32_all)
    if not peak or not unit.cores:
        return None
    return usage.flops / (usage.wall_s * peak * 1e9 * min(1.0, held.cpu / unit.cores))


def _arithmetic(usage: Usage, utilisation: float | None, measurement: Measurement | None) -> str:
    """What the operations counted amount to; nothing where none were."""
    if usage.flops is None:
        return ""
    if utilisation is None or measurement is None:
        return "Its operations were counted, but the unit's peak is unknown: fourfold unit bench."
    if utilisation > 1:
        over = f"It counted {utilisation:.0%} of the measured peak of the cores it held"
        if not measurement.is_confident:
            return f"{over}, but others kept the unit busy when it was measured: fourfold unit bench."
        return f"{over}: it used more of them, or the count or the measurement is wrong."
    return f"Its arithmetic reached {utilisation:.0%} of the measured peak of the cores it held."


def _memory_utilisation(usage: Usage, held: Held) -> float | None:
    if usage.memory_peak_bytes is None or held.memory_bytes <= 0:
        return None
    return usage.memory_peak_bytes / held.memory_bytes


def _tightness(usage: Usage, held: Held) -> str:
    """Memory that is nearly used up makes no job slower, and may end the next one."""
    share = _memory_utilisation(usage, held)
    if share is None or share < TIGHT:
        return ""
    peak = bytes_text(usage.memory_peak_bytes or 0)
    return f"Memory is tight: {peak} of {bytes_text(held.memory_bytes)} held. Ask for more."


def _bound(usage: Usage, held: Held, utilisation: float | None) -> tuple[Bound, str]:
    cores = f"{held.cpu:g} {'core' if held.cpu == 1 else 'cores'}"
    if held.cpu <= 0:
        return Bound.unknown, "It ran within another job, which held its cores."
    if utilisation is None:
        return Bound.unknown, "What bounds it is unknown: its CPU time was not measured."
    if usage.wall_s < TOO_SHORT_S:
        return Bound.overhead, f"Too short to tell: {duration_text(usage.wall_s)}."
    busy = utilisation * held.cpu
    over = f"It kept {busy:.2f} cores busy but held {cores}." if utilisation > ROUNDING else ""
    if over:
        return Bound.cpu, over if utilisation <= 1.25 else f"{over} Ask for {_whole(busy)}."
    if utilisation >= BUSY:
        return Bound.cpu, f"The processor bounds it: {busy:.2g} of {cores} busy."
    in_line = (usage.cpu_wait_s or 0.0) / usage.wall_s
    if in_line >= MOST_OF_WAITING * (1 - min(1.0, busy)):
        return Bound.cpu, (
            f"The processor bounds it, and others kept it busy: {busy:.2g} of {cores} busy, and ready for "
            f"one {in_line:.0%} of the time. It would be faster alone."
        )
    if held.cpu >= 1.5 and BUSY <= busy <= 1.25:
        return Bound.one_core, (
            f"One core bounds it: it held {cores} and kept {busy:.2g} busy. "
            "Ask for 1 core, or let the work use several."
        )
    moved = (usage.read_bytes or 0) + (usage.written_bytes or 0)
    rate = f"; it moved {bytes_text(moved / usage.wall_s)}/s" if moved else ""
    if usage.disk_wait_s is None:
        return Bound.waiting, f"It mostly waits: {busy:.2g} of {cores} busy{rate}."
    on_disk = usage.disk_wait_s / usage.wall_s
    if on_disk >= MOST_OF_WAITING * (1 - min(1.0, busy)):
        return Bound.disk, f"The disk bounds it: it stood waiting for it {on_disk:.0%} of the time{rate}."
    return Bound.waiting, (
        f"It mostly waits, and not for the disk: {busy:.2g} of {cores} busy, {on_disk:.0%} of the time on "
        f"the disk{rate}. What is left is network, locks or sleep."
    )


def _whole(cores: float) -> str:
    count = max(1, round(cores + 0.25))
    return f"{count} {'core' if count == 1 else 'cores'}"
