"""`fourfold unit`: what jobs run on, and how fast it is, measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from fourfold.cli.main import Verbs
from fourfold.cli.opened import services
from fourfold.cli.output import Column, note, output_option, show, size, when

if TYPE_CHECKING:
    from fourfold.core.compute import UnitInfo


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
            Column("TRIAD", lambda u: _figure(u, "triad_all_threads"), is_number=True),
            Column("FP64", lambda u: _figure(u, "fp64_all_threads"), is_number=True),
            Column("FP32", lambda u: _figure(u, "fp32_all_threads"), is_number=True),
            Column("DISK WRITE", lambda u: _figure(u, "disk_write_fsync"), is_number=True),
            Column("$/HOUR", lambda u: f"{u.price_usd_per_hour:g}", is_number=True),
            Column("MEASURED", lambda u: when(u.measurement.at) if u.measurement else "never"),
            Column("CPU", lambda u: u.unit.cpu_model),
        ],
        output,
    )
    if output == "table" and not all(u.measurement for u in units):
        note("measure it: fourfold unit bench")


@command.command("bench")
@click.argument("unit", default="local")
@click.option("--quick", is_flag=True, help="About 3 seconds instead of 15, less exact.")
@output_option
def bench(unit: str, quick: bool, output: str) -> None:
    """Measure a unit: memory bandwidth, arithmetic, disk."""
    with services() as opened:
        if output == "table":
            note(f"measuring '{unit}' ...")
        made = opened.compute.bench(unit, quick=quick)
    if output != "table":
        from fourfold.cli.output import show_one

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
    if not made.is_confident:
        note(
            f"other processes kept {made.other_cores_busy:.1f} cores busy meanwhile: measure again when idle"
        )


def _figure(info: UnitInfo, name: str) -> str:
    found = [f for f in info.measurement.figures if f.name == name] if info.measurement else []
    return f"{found[0].value:.3g} {found[0].dimension}" if found else ""
