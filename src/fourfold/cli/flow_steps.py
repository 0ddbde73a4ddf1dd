"""A flow run as people see it: its facts, then its steps with what each used and cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import click

from fourfold.cli.output import Column, pairs, percent, seconds, show, show_one, size, took, when
from fourfold.cli.sparks import cores_line, memory_line, over_time

if TYPE_CHECKING:
    from fourfold.core.compute import Job
    from fourfold.core.flows import Attempt, FlowRun, Graph, StepCall


RUN_POINTS, STEP_POINTS = 40, 12
"""Bars of a whole run, and of one of its steps."""
MOST_NAMED = 3
"""So many calls before it are named in a row; `-o json` has them all."""


@dataclass(frozen=True)
class Row:
    """One call with all its attempts, and the jobs recorded for them."""

    call: StepCall
    attempts: tuple[Attempt, ...]
    jobs: tuple[Job, ...]

    @property
    def cpu_s(self) -> float | None:
        known = [a.usage.cpu_s for a in self.attempts if a.usage.cpu_s is not None]
        return sum(known) if known else None

    @property
    def memory_peak_bytes(self) -> int | None:
        return max((a.usage.memory_peak_bytes or 0 for a in self.attempts), default=0) or None

    @property
    def utilisation(self) -> float | None:
        if self.jobs:
            return self.jobs[-1].account.utilisation
        return self.attempts[-1].utilisation if self.attempts else None

    @property
    def cost_nanousd(self) -> int:
        if self.jobs:
            return sum(job.account.cost_nanousd for job in self.jobs)
        return sum(attempt.cost_nanousd for attempt in self.attempts)

    @property
    def trace(self) -> tuple[tuple[int, ...], ...]:
        """The use over time of its last attempt, in few points; none where it was too short, or is let go."""
        from fourfold.core.decide.over_time import together

        kept = self.jobs[-1].report.usage.trace if self.jobs else ()
        return together([(0, kept)], min(STEP_POINTS, len(kept)))

    @property
    def bound(self) -> str:
        """What kept its last attempt from being faster, where that is known."""
        bound = self.jobs[-1].account.bound.value if self.jobs else ""
        return "" if bound == "unknown" else bound

    @property
    def after(self) -> str:
        """The calls whose results it needs: the edges of the graph."""
        named = ", ".join(self.call.deps[:MOST_NAMED])
        more = len(self.call.deps) - MOST_NAMED
        return f"{named} and {more} more" if more > 0 else named


def show_graph(graph: Graph, jobs: Iterable[Job]) -> None:
    """Print a run and its steps."""
    from fourfold.core.compute import usd_text

    _show_facts(graph.run)
    jobs = tuple(jobs)
    rows = rows_of(graph, jobs)
    drawn = [
        Column("CORES OVER TIME", lambda r: cores_line(r.trace)),
        Column("MEMORY OVER TIME", lambda r: memory_line(r.trace)),
    ]
    show(
        rows,
        [
            Column("CALL", lambda r: r.call.key),
            Column("STATE", lambda r: r.call.state.value),
            Column("TRIES", lambda r: len(r.attempts) or "", is_number=True),
            Column("WALL", lambda r: took(r.call.started_at, r.call.ended_at), is_number=True),
            Column("CPU", lambda r: seconds(r.cpu_s), is_number=True),
            Column("PEAK", lambda r: size(r.memory_peak_bytes), is_number=True),
            Column("UTIL", lambda r: percent(r.utilisation), is_number=True),
            *(drawn if any(row.trace for row in rows) else ()),
            Column("BOUND BY", lambda r: r.bound),
            Column("UNIT", lambda r: r.attempts[-1].unit if r.attempts else ""),
            Column("COST", lambda r: usd_text(r.cost_nanousd) if r.attempts else "", is_number=True),
            Column("AFTER", lambda r: r.after),
            Column("WHY", lambda r: r.call.reason),
        ],
        "table",
        nothing="no calls yet",
    )
    if rows:
        click.echo()
        for name, line in over_time(_of_all(jobs)):
            click.echo(f"{name}: {line}")
        peak = max((row.memory_peak_bytes or 0 for row in rows), default=0)
        click.echo(
            f"total: {len(rows)} calls, {len(graph.attempts)} attempts, "
            f"CPU {seconds(sum(row.cpu_s or 0.0 for row in rows))}, peak {size(peak)}, "
            f"cost {usd_text(sum(row.cost_nanousd for row in rows))}"
        )


def with_traces(graph: Graph, jobs: Iterable[Job]) -> Graph:
    """The same graph, with the use over time of each attempt whose points are kept."""
    traces = {job.report.key: job.report.usage.trace for job in jobs}
    attempts = tuple(
        replace(each, usage=replace(each.usage, trace=traces.get(each.key, ()))) for each in graph.attempts
    )
    return replace(graph, attempts=attempts)


def _of_all(jobs: Sequence[Job]) -> tuple[tuple[int, ...], ...]:
    """The run's use over its time. What ran inside another job is in that one's already."""
    from fourfold.core.decide.over_time import together

    apart = [job.report for job in jobs if job.report.held.cpu > 0]
    return together([(each.started_at // 1000, each.usage.trace) for each in apart], RUN_POINTS)


def rows_of(graph: Graph, jobs: Iterable[Job]) -> list[Row]:
    """The calls in the order in which they were made, each with its attempts and their jobs."""
    attempts: defaultdict[str, list[Attempt]] = defaultdict(list)
    for attempt in sorted(graph.attempts, key=lambda a: a.n):
        attempts[attempt.call].append(attempt)
    recorded = {job.report.key: job for job in jobs}
    return [
        Row(
            call,
            tuple(attempts[call.key]),
            tuple(recorded[a.key] for a in attempts[call.key] if a.key in recorded),
        )
        for call in sorted(graph.calls, key=lambda c: c.seq)
    ]


def _show_facts(run: FlowRun) -> None:
    failure = run.failure
    show_one(
        run,
        [
            ("run", run.id),
            ("flow", run.flow),
            ("state", run.state.value + (f": {run.reason}" if run.reason else "")),
            ("params", pairs(run.params)),
            ("created", when(run.created_at)),
            ("took", took(run.started_at, run.ended_at)),
            ("scheduled for", when(run.scheduled_for)),
            ("code", run.code.digest[:16]),
            ("environment", run.environment),
            ("failed", f"{failure.call or 'flow'}: {failure.type}: {failure.message}" if failure else ""),
        ],
        "table",
    )
    click.echo()
