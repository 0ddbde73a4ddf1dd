"""`fourfold table stats`: what a table's columns hold, as lines with small pictures, or as a page."""

from __future__ import annotations

from pathlib import Path

import click

from fourfold.cli.figures import distinct, ends, median, nulls, shape
from fourfold.cli.opened import services
from fourfold.cli.output import Column, note, output_option, show, show_one


@click.command("stats")
@click.argument("name")
@click.option("--version", type=int, default=None, help="[default: the newest]")
@click.option("--html", "page", type=click.Path(dir_okay=False, path_type=Path), help="Write a page.")
@output_option
def command(name: str, version: int | None, page: Path | None, output: str) -> None:
    """What a table's columns hold: nulls, distinct values, ends, and their shape.

    Nulls and ends are exact. Distinct values carry ~ where they are estimated. The shape is a histogram
    between the ends, or the most frequent values.
    """
    with services() as opened:
        told = opened.datasets.statistics(name, version=version)
    if page is not None:
        from fourfold.cli.stats_page import html

        page.write_text(html(told), encoding="utf-8")
        note(f"written: {page}")
        return
    if output != "table":
        show_one(told, [], output)
        return
    note(f"{told.table} at version {told.version}: {told.rows:,} rows")
    show(
        told.columns,
        [
            Column("COLUMN", lambda c: c.name),
            Column("TYPE", lambda c: c.type),
            Column("NULL", lambda c: nulls(c, told), is_number=True),
            Column("DISTINCT", lambda c: distinct(c.distinct), is_number=True),
            Column("LEAST", lambda c: ends(c)[0], is_number=True),
            Column("MEDIAN", median, is_number=True),
            Column("GREATEST", lambda c: ends(c)[1], is_number=True),
            Column("SHAPE", lambda c: shape(c, told.rows)),
        ],
        output,
        nothing="no columns",
    )
