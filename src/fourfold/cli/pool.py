"""`fourfold pool`: where steps run, what that costs, and how much is busy there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from fourfold.cli.main import Verbs
from fourfold.cli.opened import services
from fourfold.cli.output import Column, note, output_option, show, size

if TYPE_CHECKING:
    from fourfold.core.pools import PoolInfo


@click.group(cls=Verbs, name="pool")
def command() -> None:
    """Where steps run, what that costs, how much is busy."""


@command.command("ls")
@output_option
def ls(output: str) -> None:
    """The pools that the settings name, each with its engine, units and price, and what goes on there."""
    with services() as opened:
        pools = opened.flows.pools()
    show(
        pools,
        [
            Column("POOL", lambda p: p.name + (" (default)" if p.is_default else "")),
            Column("ENGINE", lambda p: p.engine),
            Column("UNITS", lambda p: len(p.load.units), is_number=True),
            Column("CORES", lambda p: f"{sum(unit.cpu for unit in p.load.units):g}", is_number=True),
            Column("MEMORY", lambda p: size(sum(u.memory_bytes for u in p.load.units)), is_number=True),
            Column("GPUS", lambda p: sum(unit.gpu for unit in p.load.units), is_number=True),
            Column("$/HOUR", lambda p: f"{p.price_usd_per_hour:g}", is_number=True),
            Column("BUSY", lambda p: _count(p, p.load.busy_count), is_number=True),
            Column("IDLE", lambda p: _count(p, p.load.idle_count), is_number=True),
            Column("QUEUED", lambda p: _count(p, p.load.queued_count), is_number=True),
            Column("STATE", lambda p: p.load.fault or "ready"),
        ],
        output,
    )
    if output == "table" and not all(pool.is_running for pool in pools):
        note("nothing runs this project's loop now, so nothing is busy or queued: start `fourfold up`")


def _count(pool: PoolInfo, count: int) -> str:
    return str(count) if pool.is_running else ""
