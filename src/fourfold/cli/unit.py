"""`fourfold unit`: what jobs run on, and how fast it is, measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from fourfold.cli.main import Verbs
from fourfold.cli.opened import services
from fourfold.cli.output import Column, note, output_option, show, show_one, size, when

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fourfold.core.compute import Measurement, UnitInfo
    from fourfold.core.quality import TaskResult, TimeToQuality


@click.group(cls=Verbs, name="unit")
def command() -> None:
    """What jobs run on, and how fast it is."""


@command.command("ls")
@output_option
def ls(output: str) -> None:
    """The units known, with their price and their newest measurement."""
    with services() as opened:
        units = opened.compute.units()
    show(
        units,
        [
            Column("UNIT", lambda u: u.unit.name),
            Column("CORES", lambda u: f"{u.unit.cores:g}", is_number=True),
            Column("MEMORY", lambda u: size(u.unit.memory_bytes), is_number=True),
            Column("GPUS", lambda u: len(u.unit.gpus), is_number=True),
            Column("BANDWIDTH", lambda u: _figure(u, "bandwidth"), is_number=True),
            Column("FP64", lambda u: _figure(u, "fp64"), is_number=True),
            Column("FP32", lambda u: _figure(u, "fp32"), is_number=True),
            Column("DISK WRITE", lambda u: _figure(u, "disk_write"), is_number=True),
            Column("$/HOUR", lambda u: f"{u.price_usd_per_hour:g}", is_number=True),
            Column("MEASURED", lambda u: when(u.measurement.at) if u.measurement else "never"),
            Column("CPU", lambda u: u.unit.cpu_model),
        ],
        output,
    )
    if output == "table" and not all(u.measurement for u in units):
        note("measure it: fourfold unit bench")


@command.command("show")
@click.argument("unit", default="local")
@output_option
def show_unit(unit: str, output: str) -> None:
    """What a unit is, its newest measurement and time to quality."""
    with services() as opened:
        info = opened.compute.unit_info(unit)
    found = info.unit
    facts: list[tuple[str, object]] = [
        ("unit", found.name),
        ("cpu", f"{found.cores:g} cores, {found.cpu_model} ({found.architecture})"),
        ("memory", size(found.memory_bytes)),
        ("caches", tuple(f"L{c.level} {c.kind.lower()} {size(c.size_bytes)}" for c in found.caches)),
        ("gpus", tuple(f"{gpu.name} {size(gpu.memory_bytes)}" for gpu in found.gpus)),
        ("limited by", found.limited_by),
        ("price", f"${info.price_usd_per_hour:g} an hour" if info.price_usd_per_hour else ""),
    ]
    facts += [(figure.speed.words, str(figure)) for figure in info.speeds]
    if info.measurement is not None:
        facts.append(("measured", _as_of(info.measurement.at, info.measurement.other_cores_busy)))
        facts += [(f.name.value, f"{f.value:.4g} {f.dimension}") for f in info.measurement.figures]
        facts.append(("store", info.measurement.versions.get("store", "")))
    if info.quality is not None:
        facts.append(("trained", _as_of(info.quality.at, info.quality.other_cores_busy)))
        facts += [
            (
                f"{r.task.value} to {r.target:g} {r.dimension}",
                _seconds(r.seconds) or f"void: {r.void_because}",
            )
            for r in info.quality.results
        ]
        facts.append(("time to quality", _together(info.quality)))
    show_one(info, facts, output)
    if output == "table":
        _in_its_pool(info)
        for missing, verb in ((info.measurement, "bench"), (info.quality, "quality")):
            if missing is None:
                note(f"measure it: fourfold unit {verb} {unit}")


@command.command("history")
@click.argument("unit", default="local")
@click.option("--limit", default=20, show_default=True, help="So many measurements, newest first.")
@output_option
def history(unit: str, limit: int, output: str) -> None:
    """A unit's measurements, and what changed in the newest."""
    with services() as opened:
        made = opened.compute.measurements(unit, limit=limit)
        info = opened.compute.unit_info(unit)

    def cell(name: str) -> Callable[[Measurement], str]:
        return lambda m: " ".join(f"{f.value:.3g} ±{f.spread / 2:.0%}" for f in m.figures if f.name == name)

    show(
        made,
        [
            Column("AT", lambda m: when(m.at)),
            Column("MACHINE", lambda m: m.versions.get("machine", "")),
            Column("KIND", lambda m: "quick" if m.is_quick else "full"),
            Column("TRIAD GB/s", cell("triad_all_threads"), is_number=True),
            Column("FP64 GFLOP/s", cell("fp64_all_threads"), is_number=True),
            Column("FP32 GFLOP/s", cell("fp32_all_threads"), is_number=True),
            Column("WRITE MB/s", cell("disk_write_fsync"), is_number=True),
            Column("FSYNC ms", cell("fsync_4k"), is_number=True),
            Column("STORE UP MB/s", cell("store_up"), is_number=True),
            Column("DOWN MB/s", cell("store_down"), is_number=True),
            Column("OTHERS BUSY", lambda m: f"{m.other_cores_busy:.1f}", is_number=True),
            Column("CONFIDENT", lambda m: m.is_confident),
        ],
        output,
        nothing=f"never measured: fourfold unit bench {unit}",
    )
    if output == "table" and made:
        _compared(made[0], made[1:])
        _in_its_pool(info)


@command.command("quality")
@click.argument("unit", default="local")
@click.option("--history", is_flag=True, help="Train nothing: list earlier results of the unit's pool.")
@click.option("--limit", default=20, show_default=True, help="So many earlier results, newest first.")
@output_option
def quality(unit: str, history: bool, limit: int, output: str) -> None:
    """Train three small tasks to a fixed quality, five times each: about a minute.

    In the manner of MLPerf training: frozen hyper-parameters, the fastest and the slowest run dropped,
    the mean of the rest. Each run uses one core.
    """
    if history:
        _trained_before(unit, limit, output)
        return
    with services() as opened:
        if output == "table":
            note(f"training on '{unit}' ...")
        made = opened.compute.measure_quality(unit)
        info = opened.compute.unit_info(unit)
    if output != "table":
        show_one(made, (), output)
        return
    show(
        made.results,
        [
            Column("TASK", lambda r: r.task.value),
            Column("TO", lambda r: f"{r.target:g} {r.dimension}"),
            Column("SECONDS", lambda r: "void" if r.seconds is None else f"{r.seconds:.3g}", is_number=True),
            Column("RANGE", lambda r: "" if r.low is None else f"{r.low:.3g} to {r.high:.3g}"),
            Column("STEPS", lambda r: " ".join(str(t.step_count) for t in r.trainings)),
            Column("FAILED", lambda r: r.failed_count, is_number=True),
        ],
        output,
    )
    note(f"together: {_together(made)}")
    for result in made.results:
        if result.void_because:
            note(f"{result.task.value} is void: {result.void_because}")
        for each in result.trainings:
            if not each.has_converged:
                note(f"{result.task.value}, seed {each.seed}: {each.why}")
    _in_its_pool(info, "time to quality")
    if not made.is_confident:
        note(_disturbed(made.other_cores_busy))


def _trained_before(unit: str, limit: int, output: str) -> None:
    from fourfold.core.compute import usd_text
    from fourfold.core.quality import TaskName

    with services() as opened:
        made = opened.compute.qualities(unit, limit=limit, of_pool=True)
        info = opened.compute.unit_info(unit)

    def cell(task: TaskName) -> Callable[[TimeToQuality], str]:
        return lambda q: " ".join(_seconds_of(result) for result in q.results if result.task == task)

    show(
        made,
        [
            Column("AT", lambda q: when(q.at)),
            Column("MACHINE", lambda q: q.versions.get("machine", "")),
            Column("HARDWARE", lambda q: q.fingerprint[:8]),
            *(Column(f"{task.value.upper()} s", cell(task), is_number=True) for task in TaskName),
            Column(
                "TOGETHER s", lambda q: "void" if q.seconds is None else f"{q.seconds:.3g}", is_number=True
            ),
            Column(
                "COST", lambda q: "" if q.cost_nanousd is None else usd_text(q.cost_nanousd), is_number=True
            ),
            Column("SUITE", lambda q: q.suite_version, is_number=True),
            Column("OTHERS BUSY", lambda q: f"{q.other_cores_busy:.1f}", is_number=True),
        ],
        output,
        nothing=f"never trained: fourfold unit quality {unit}",
    )
    if output == "table":
        _in_its_pool(info, "time to quality")


@command.command("bench")
@click.argument("unit", default="local")
@click.option("--quick", is_flag=True, help="About 4 seconds instead of 20, less exact.")
@output_option
def bench(unit: str, quick: bool, output: str) -> None:
    """Measure a unit: memory bandwidth, arithmetic, disk, the way to the project's store."""
    with services() as opened:
        if output == "table":
            note(f"measuring '{unit}' ...")
        made = opened.compute.bench(unit, quick=quick)
        known = opened.compute.measurements(unit)
        info = opened.compute.unit_info(unit)
    if output != "table":
        show_one(made, (), output)
        return
    show(
        made.figures,
        [
            Column("FIGURE", lambda f: f.name.value),
            Column("MEDIAN", lambda f: f"{f.value:.4g}", is_number=True),
            Column("", lambda f: f.dimension),
            Column("SPREAD", lambda f: f"{f.spread:.0%}", is_number=True),
            Column("REPEATS", lambda f: f.repeat_count, is_number=True),
        ],
        output,
    )
    for each in made.notes:
        note(each)
    _compared(made, known)
    _in_its_pool(info)
    if not made.is_confident:
        note(_disturbed(made.other_cores_busy))


def _compared(newest: Measurement, others: Sequence[Measurement]) -> None:
    """Say what differs from the measurement before, and what may have caused it."""
    from fourfold.core.decide.measured import causes, changes, earlier

    before = earlier(newest, others)
    if before is None:
        return
    found = changes(newest, before)
    for each in found:
        word = "worse" if each.is_worse else "better"
        note(f"{each.name.value}: {each.before:.3g} → {each.now:.3g} ({each.share:+.0%}, {word})")
    if found:
        since = f"since {when(before.at)}"
        note(f"{since}: " + ("; ".join(causes(newest, before)) or "nothing else is known to have changed"))


def _in_its_pool(info: UnitInfo, kind: str = "") -> None:
    """Say in what it differs from the other units of its pool."""
    from fourfold.core.decide.measured import standing_text
    from fourfold.core.decide.pools import pool_of

    of_kind = [each for each in info.standings if each.name.startswith(kind)]
    for each in of_kind:
        if each.is_telling:
            note(standing_text(each, pool_of(info.unit.name)))
    alike = [each for each in of_kind if not each.is_telling]
    if alike:
        most = max(each.other_count for each in alike)
        units = "1 other unit" if most == 1 else f"{most} other units"
        note(
            f"about as fast as {units} of pool {pool_of(info.unit.name)}: {', '.join(e.name for e in alike)}"
        )


def _seconds_of(result: TaskResult) -> str:
    if result.seconds is None or result.low is None or result.high is None:
        return "void"
    return f"{result.seconds:.3g} ±{(result.high - result.low) / 2 / result.seconds:.0%}"


def _together(made: TimeToQuality) -> str:
    if made.seconds is None:
        return "void"
    from fourfold.core.compute import usd_text

    cost = "" if made.cost_nanousd is None else f", {usd_text(made.cost_nanousd)} for all tasks once"
    return f"{made.seconds:.3g} s on one core (geometric mean){cost}"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3g} s"


def _as_of(at: int, other_cores_busy: float) -> str:
    doubt = "" if other_cores_busy < 0.1 else f", while others kept {other_cores_busy:.1f} cores busy"
    return f"{when(at)}{doubt}"


def _disturbed(other_cores_busy: float) -> str:
    return f"other processes kept {other_cores_busy:.1f} cores busy meanwhile: measure again when idle"


def _figure(info: UnitInfo, speed: str) -> str:
    """A figure that jobs may ask for; where it comes from, unless it was measured."""
    from fourfold.core.figures import Origin, amount_text

    found = next((figure for figure in info.speeds if figure.speed == speed), None)
    if found is None:
        return ""
    text = amount_text(found.speed, found.value)
    return text if found.origin is Origin.measured else f"{text} ({found.origin})"
