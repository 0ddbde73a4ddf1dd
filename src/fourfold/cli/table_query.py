"""`fourfold table query`: SQL over tables at any versions."""

from __future__ import annotations

import click

from fourfold.cli.opened import services
from fourfold.cli.output import note, output_option
from fourfold.cli.rows import first, show_rows


@click.command("query")
@click.argument("sql")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 100_000))
@output_option
def command(sql: str, limit: int, output: str) -> None:
    """Ask tables in SQL (DuckDB, read only): "select count(*) from flights".

    Quote a name with dots, or with a version behind it: "raw.flights", "flights@v3", "flights@tag:report",
    "flights@2013-06-01T00:00Z", "flights@dev/try-1". Only the columns and files that are needed are read.
    """
    from fourfold.foundation.storage.query import Query

    with services() as opened:
        query = Query(opened.storage, is_closed=True)
        relation = query.ask(sql)
        with query.told():
            table = first(relation.to_arrow_reader(10_000), limit + 1)
        show_rows(table.slice(0, limit), output)
        if table.num_rows > limit:
            note(f"... and more; raise --limit above {limit} to see them")
