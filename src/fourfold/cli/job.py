"""`fourfold job`: what ran, what it used, what it cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

from fourfold.cli.main import Verbs
from fourfold.cli.opened import services
from fourfold.cli.output import (
    Column,
    note,
    output_option,
    percent,
    seconds,
    show,
    show_one,
    size,
    took,
    when,
)
from fourfold.cli.sparks import over_time

if TYPE_CHECKING:
    from fourfold.core.compute import SizeAdvice


@click.group(cls=Verbs, name="job")
def command() -> None:
    """What ran, what it used, what it cost."""


@command.command("ls")
@click.option("--flow-run", default=None, help="Of this flow run only.")
@click.option("--limit", default=50, show_default=True)
@output_option
def ls(flow_run: str | None, limit: int, output: str) -> None:
    """Jobs that ended, newest first."""
    from fourfold.core.compute import usd_text

    with services() as opened:
        show(
            opened.compute.jobs(flow_run, limit=limit),
            [
                Column("JOB", lambda j: j.report.key),
                Column("NAME", lambda j: j.report.name),
                Column("END", lambda j: j.report.exit.kind.value),
                Column("STARTED", lambda j: when(j.report.started_at)),
                Column("WALL", lambda j: seconds(j.report.usage.wall_s), is_number=True),
                Column("CPU", lambda j: seconds(j.report.usage.cpu_s), is_number=True),
                Column("PEAK", lambda j: size(j.report.usage.memory_peak_bytes), is_number=True),
                Column("UTIL", lambda j: percent(j.account.utilisation), is_number=True),
                Column("UNIT", lambda j: j.report.unit),
                Column("COST", lambda j: usd_text(j.account.cost_nanousd), is_number=True),
            ],
            output,
            nothing="no jobs ended yet",
        )
        if output == "table" and flow_run:
            total = opened.compute.totals(flow_run)
            click.echo(
                f"\ntotal: {total.job_count} jobs, {seconds(total.wall_s)} of work, "
                f"CPU {seconds(total.cpu_s)}, cost {usd_text(total.cost_nanousd)}"
            )


@command.command("show")
@click.argument("key", metavar="JOB")
@output_option
def show_job(key: str, output: str) -> None:
    """One job, with what bounded it."""
    from fourfold.core.compute import usd_text

    with services() as opened:
        job = opened.compute.job(key)
    report, account, usage = job.report, job.account, job.report.usage
    show_one(
        job,
        [
            ("job", report.key),
            ("name", report.name),
            ("end", report.exit.kind.value + (f": {report.exit.reason}" if report.exit.reason else "")),
            ("started", when(report.started_at)),
            ("wall", took(report.started_at, report.ended_at)),
            ("cpu", seconds(usage.cpu_s)),
            ("memory peak", size(usage.memory_peak_bytes)),
            ("memory mean", size(usage.memory_mean_bytes)),
            ("read", size(usage.read_bytes)),
            ("written", size(usage.written_bytes)),
            ("waited for disk", seconds(usage.disk_wait_s)),
            ("network", size(usage.network_bytes) or "unknown: nothing counts it by process"),
            ("memory bandwidth", "unknown: the processor's counters are not read"),
            *((("gpu", f"{seconds(usage.gpu_s)} busy"),) if usage.gpu_s is not None else ()),
            *over_time(usage.trace),
            ("unit", report.unit),
            ("held", f"{report.held.cpu:g} cores, {size(report.held.memory_bytes)}"),
            ("utilisation", percent(account.utilisation)),
            ("of peak FLOP/s", percent(account.flops_utilisation)),
            ("bound by", account.sentence),
            ("price", f"${account.price_usd_per_hour:g} an hour, share {account.unit_share:.0%}"),
            ("cost", usd_text(account.cost_nanousd)),
            ("environment", report.environment),
            ("flow run", report.flow_run),
        ],
        output,
    )


@command.command("advise")
@click.argument("step", required=False)
@click.option("--flow", default="", help="All steps of this flow, from its own runs.")
@output_option
def advise(step: str | None, flow: str, output: str) -> None:
    """What steps should ask for, from their recorded runs."""
    from fourfold.core.compute import Spread

    if flow and step:
        raise click.UsageError("name a step, or a flow with --flow, not both")
    with services() as opened:
        if flow:
            whole = opened.flows.advise(flow)
            if output != "table":
                show_one(whole, (), output)
                return
            _sizes(whole.steps, output)
            for each in whole.sentences:
                note(each)
            return
        found = opened.compute.advise(step)
    if step is None:
        _sizes(found, output)
        return
    (advice,) = found

    def spread(of: Spread | None, text: Callable[[float], str]) -> str:
        if of is None:
            return "unknown"
        return f"{text(of.p50)} p50, {text(of.p95)} p95, {text(of.most)} most ({of.count} runs)"

    show_one(
        advice,
        [
            ("step", advice.name),
            ("runs", f"{advice.run_count} ended well"),
            ("ended for memory", str(advice.out_of_memory_count)),
            ("ended for time", str(advice.over_time_count)),
            ("left out", str(advice.left_out_count)),
            ("held last", f"{advice.held.cpu:g} cores, {size(advice.held.memory_bytes)}"),
            ("memory peak", spread(advice.memory_peak_bytes, size)),
            ("peaks not exact", str(advice.inexact_peak_count)),
            ("cores busy", spread(advice.cores_busy, lambda cores: f"{cores:.2g}")),
            ("wall", spread(advice.wall_s, seconds)),
            ("cpu", "" if advice.cpu is None else f"{advice.cpu:g}"),
            ("memory", size(advice.memory_bytes)),
            ("timeout", seconds(advice.time_limit_s)),
            ("saves each run", _money(advice.saving_nanousd_per_run)),
            ("advice", " ".join(advice.sentences)),
        ],
        output,
    )


def _sizes(found: Sequence[SizeAdvice], output: str) -> None:
    from fourfold.core.decide.right_size import FEWEST_RUNS

    show(
        found,
        [
            Column("STEP", lambda a: a.name),
            Column("RUNS", lambda a: a.run_count, is_number=True),
            Column("OUT OF MEMORY", lambda a: a.out_of_memory_count, is_number=True),
            Column("PEAK p95", lambda a: size(a.memory_peak_bytes and int(a.memory_peak_bytes.p95))),
            Column("BUSY p95", lambda a: f"{a.cores_busy.p95:.2g}" if a.cores_busy else "", is_number=True),
            Column("HELD", lambda a: f"{a.held.cpu:g} cores, {size(a.held.memory_bytes)}"),
            Column("CPU", lambda a: "" if a.cpu is None else f"{a.cpu:g}", is_number=True),
            Column("MEMORY", lambda a: size(a.memory_bytes), is_number=True),
            Column("TIMEOUT", lambda a: seconds(a.time_limit_s), is_number=True),
            Column("SAVES", lambda a: _money(a.saving_nanousd_per_run), is_number=True),
            Column("", lambda a: "" if a.run_count >= FEWEST_RUNS else "too few runs"),
        ],
        output,
        nothing="no steps ended yet",
    )


def _money(nanousd: int | None) -> str:
    from fourfold.core.compute import usd_text

    return "unknown" if nanousd is None else usd_text(nanousd)
