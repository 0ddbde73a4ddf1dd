"""What size the next run should ask for, from those that are on record."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from fourfold.core.compute import FlowAdvice, Held, Job, SizeAdvice, Spread, Unit, usd_text
from fourfold.core.decide.account import TOO_SHORT_S, cost_nanousd, unit_share
from fourfold.core.decide.pools import units_of
from fourfold.core.jobs import ExitKind
from fourfold.core.quantities import bytes_text
from fourfold.core.times import duration_text
from fourfold.core.values import replace

FEWEST_RUNS = 5
"""Of fewer good runs no size is proposed: one odd run would make it."""
MEMORY_HEADROOM = 1.2
AFTER_OUT_OF_MEMORY = 1.5
"""A run that was ended for memory would have taken more than it reached; how much more is unknown."""
TIME_HEADROOM = 2.0
ALL_BUSY = 0.9
"""From this share of the cores held, what is busy says what it was given, not what it could use."""

UnitOf = Callable[[Job], Unit | None]
"""The unit that a job was on, where it is known."""

_MIB = 1 << 20
_CORE_SLACK = 0.1


def right_size(name: str, jobs: Iterable[Job], *, unit: Unit | None = None) -> SizeAdvice:
    """Propose cores, memory and a time limit for `name`, with what speaks for them.

    Good runs make the proposal. Those ended for memory or time raise it, and other ends are left out.
    `unit` is what the newest run was on, where it is known: a saving is a share of it. The order of `jobs`
    counts for one thing only: what is held now is what the newest held. A job on several nodes speaks for one
    of them, as what a step asks for does.
    """
    held_cores = sorted((_of_one_node(job) for job in jobs if job.report.held.cpu > 0), key=_newest_first)
    good = [job for job in held_cores if job.report.exit.kind is ExitKind.ok]
    starved = [job for job in held_cores if job.report.exit.kind is ExitKind.out_of_memory]
    late = [job for job in held_cores if job.report.exit.kind is ExitKind.over_time]
    long_enough = [job for job in good if job.report.usage.wall_s >= TOO_SHORT_S]
    peaks = _spread(job.report.usage.memory_peak_bytes for job in good)
    busy = _spread(_cores_busy(job) for job in long_enough)
    wall_s = _spread(job.report.usage.wall_s for job in good)
    held = held_cores[0].report.held if held_cores else Held(0.0)
    is_enough = len(good) >= FEWEST_RUNS
    memory = _memory(peaks, starved) if is_enough else None
    cpu = _cpu(busy, held) if is_enough else None
    limit_s = _time_limit(wall_s, late) if is_enough else None
    saving = None
    if is_enough and unit is not None and wall_s is not None:
        size = Held(cpu or held.cpu, memory or held.memory_bytes, held.gpu)
        price = held_cores[0].account.price_usd_per_hour
        now, then = (
            cost_nanousd(wall_s.p50, share=unit_share(each, unit), price_usd_per_hour=price)
            for each in (held, size)
        )
        saving = now - then
    return SizeAdvice(
        name=name,
        run_count=len(good),
        out_of_memory_count=len(starved),
        over_time_count=len(late),
        left_out_count=len(held_cores) - len(good) - len(starved) - len(late),
        inexact_peak_count=sum(not job.report.usage.memory_peak_is_exact for job in good),
        held=held,
        memory_peak_bytes=peaks,
        cores_busy=busy,
        wall_s=wall_s,
        cpu=cpu,
        memory_bytes=memory,
        time_limit_s=limit_s,
        saving_nanousd_per_run=saving,
        sentences=tuple(_sentences(len(good), held, peaks, busy, memory, cpu, len(starved), saving)),
    )


def _of_one_node(job: Job) -> Job:
    """An equal part of what a job on several nodes held and used."""
    report = job.report
    if (nodes := len(units_of(report.unit))) < 2:
        return job
    held, used = report.held, report.usage
    usage = replace(
        used,
        cpu_s=None if used.cpu_s is None else used.cpu_s / nodes,
        memory_peak_bytes=None if used.memory_peak_bytes is None else used.memory_peak_bytes // nodes,
    )
    of_one = Held(held.cpu / nodes, held.memory_bytes // nodes, held.gpu / nodes)
    return replace(job, report=replace(report, held=of_one, usage=usage))


def right_size_flow(flow: str, run_ids: Sequence[str], jobs: Iterable[Job], unit_of: UnitOf) -> FlowAdvice:
    """Propose the sizes of all steps of a flow, from the jobs of these runs of it.

    A step that other flows have too is judged by what it did in this one.
    """
    by_step: dict[str, list[Job]] = {}
    for job in jobs:
        if job.report.flow_run in run_ids and job.report.held.cpu > 0:
            by_step.setdefault(job.report.name, []).append(job)
    steps = []
    for name in sorted(by_step):
        newest = min(by_step[name], key=_newest_first)
        steps.append(right_size(name, by_step[name], unit=unit_of(newest)))
    told = [
        each.saving_nanousd_per_run * _times_in_a_run(by_step[each.name])
        for each in steps
        if each.saving_nanousd_per_run is not None
    ]
    saving = sum(told) if told else None
    return FlowAdvice(flow, len(run_ids), tuple(steps), saving, tuple(_of_flow(run_ids, steps, told)))


def _times_in_a_run(jobs: Sequence[Job]) -> int:
    """How often a step ran well in the middle of the runs in which it did."""
    counts = Counter(job.report.flow_run for job in jobs if job.report.exit.kind is ExitKind.ok)
    return statistics.median_high(counts.values()) if counts else 0


def _of_flow(run_ids: Sequence[str], steps: Sequence[SizeAdvice], told: Sequence[int]) -> Iterable[str]:
    runs = f"{len(run_ids)} {'run' if len(run_ids) == 1 else 'runs'}"
    if not steps:
        yield f"No step of its {runs} is on record."
        return
    few = [each.name for each in steps if each.run_count < FEWEST_RUNS]
    yield f"Of {runs}: {len(steps) - len(few)} of {len(steps)} steps ran often enough to propose a size."
    if few:
        yield f"Too few runs: {', '.join(few)}."
    if starved := [each.name for each in steps if each.out_of_memory_count]:
        yield f"Ended for memory: {', '.join(starved)}."
    if not told:
        yield "What it would save is unknown."
    elif sum(told) >= 0:
        yield f"A run of the flow would cost {usd_text(sum(told))} less."
    else:
        yield f"A run of the flow would cost {usd_text(-sum(told))} more, and hold what it takes."


def _memory(peaks: Spread | None, starved: Sequence[Job]) -> int | None:
    """The 95th percentile and a fifth more, and never less than any run has taken."""
    reached = [
        AFTER_OUT_OF_MEMORY * max(job.report.usage.memory_peak_bytes or 0, job.report.held.memory_bytes)
        for job in starved
    ]
    seen = [] if peaks is None else [MEMORY_HEADROOM * peaks.p95, peaks.most]
    asked = max([*seen, *reached], default=0.0)
    if asked <= 0:
        return None
    grain = 64 * _MIB if asked < 1024 * _MIB else 256 * _MIB
    return math.ceil(asked / grain) * grain


def _cpu(busy: Spread | None, held: Held) -> float | None:
    """The cores that nearly all runs kept busy; not fewer where all that was held was busy."""
    if busy is None:
        return None
    whole = float(max(1, math.ceil(busy.p95 - _CORE_SLACK)))
    asked = 0.5 if busy.p95 <= 0.5 + _CORE_SLACK / 2 else whole
    return max(asked, held.cpu) if busy.p95 >= ALL_BUSY * held.cpu else min(asked, held.cpu)


def _time_limit(wall_s: Spread | None, late: Sequence[Job]) -> float | None:
    """Twice the 95th percentile, and more than any run has taken; two digits are enough."""
    if wall_s is None:
        return None
    asked = max(1.0, TIME_HEADROOM * wall_s.p95, 1.25 * wall_s.most)
    asked = max([asked, *(TIME_HEADROOM * job.report.usage.wall_s for job in late)])
    grain = 10.0 ** (math.floor(math.log10(asked)) - 1)
    return math.ceil(round(asked / grain, 6)) * grain


def _sentences(
    runs: int,
    held: Held,
    peaks: Spread | None,
    busy: Spread | None,
    memory: int | None,
    cpu: float | None,
    starved: int,
    saving: int | None,
) -> Iterable[str]:
    if runs < FEWEST_RUNS:
        yield f"Too few runs: {runs} ended well, and {FEWEST_RUNS} are needed to propose a size."
        if starved:
            yield f"{starved} ended for memory, with {bytes_text(held.memory_bytes)} held last: ask for more."
        return
    if memory is not None and peaks is not None:
        text = f"Peak memory was {bytes_text(peaks.p50)} in the middle and {bytes_text(peaks.most)} at most"
        yield f"{text} ({peaks.count} runs): {_change(held.memory_bytes, memory)} to {bytes_text(memory)}."
    elif peaks is None:
        yield "Peak memory is unknown."
    if starved:
        yield f"{starved} runs more ended for memory: the proposal is half more than they had."
    if busy is None:
        yield f"Cores kept busy are unknown: no run was measured over {duration_text(TOO_SHORT_S)}."
    elif cpu is not None:
        text = f"It kept {busy.p50:.2g} cores busy in the middle, {busy.p95:.2g} in 95 of 100 runs"
        if cpu == held.cpu and busy.p95 >= ALL_BUSY * held.cpu:
            yield f"{text}, all that it held: whether more would help, only a try can tell."
        else:
            yield f"{text}, of {held.cpu:g} held: ask for {cpu:g}."
    if saving is None:
        yield "What it would save is unknown: its unit is not one of this machine."
    elif saving > 0:
        yield f"Each run would cost {usd_text(saving)} less."
    elif saving < 0:
        yield f"Each run would cost {usd_text(-saving)} more, and hold what it takes."


def _change(held_bytes: int, memory: int) -> str:
    if held_bytes == 0:
        return "none was asked for, set it"
    return "raise it" if memory > held_bytes else "lower it" if memory < held_bytes else "leave it"


def _cores_busy(job: Job) -> float | None:
    usage = job.report.usage
    return None if usage.cpu_s is None else usage.cpu_s / usage.wall_s


def _spread(values: Iterable[float | None]) -> Spread | None:
    """By nearest rank: each figure is one that a run really had."""
    known = sorted(value for value in values if value is not None)
    if not known:
        return None
    p50, p95 = (known[math.ceil(share * len(known)) - 1] for share in (0.5, 0.95))
    return Spread(len(known), float(p50), float(p95), float(known[-1]))


def _newest_first(job: Job) -> tuple[int, str]:
    return -job.report.ended_at, job.report.key
