"""`fourfold table`: versioned tables."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from fourfold.cli.main import Verbs
from fourfold.cli.opened import services
from fourfold.cli.output import Column, note, output_option, pairs, show, show_one, size, when
from fourfold.cli.rows import show_rows
from fourfold.cli.table_checks import COMMANDS as CHECKS
from fourfold.cli.table_stats import command as stats

if TYPE_CHECKING:
    import pyarrow as pa

    from fourfold.core.storage import TableInfo


@click.group(cls=Verbs, name="table")
def command() -> None:
    """Versioned tables."""


for each in (stats, *CHECKS):
    command.add_command(each)


@command.command("ls")
@output_option
def ls(output: str) -> None:
    """All tables."""
    with services() as opened:
        show(
            opened.storage.list_tables(),
            [
                Column("TABLE", lambda t: t.name),
                Column("VERSION", lambda t: t.version, is_number=True),
                Column("ROWS", lambda t: t.rows, is_number=True),
                Column("WAITING", lambda t: t.waiting_rows, is_number=True),
                Column("SIZE", lambda t: size(t.size_bytes), is_number=True),
                Column("COLUMNS", lambda t: len(t.columns), is_number=True),
                Column("CHANGED", lambda t: when(t.at)),
                Column("TAGS", lambda t: pairs(t.tags)),
            ],
            output,
            nothing='no tables yet; write one: fourfold.table("name").append(rows)',
        )


@command.command("show")
@click.argument("name")
@click.option("--version", type=int, default=None)
@output_option
def show_table(name: str, version: int | None, output: str) -> None:
    """A table's columns, rows, size, partitions and tags."""
    with services() as opened:
        info = opened.storage.describe(name, version=version)
    show_one(
        info,
        [
            ("table", info.name),
            ("version", f"{info.version} ({when(info.at)})"),
            ("rows", info.rows),
            ("waiting", _waiting(info)),
            ("size", size(info.size_bytes)),
            ("partitioned by", info.partition_by),
            ("tags", pairs(info.tags)),
            *((f"  {c.name}", c.type + ("" if c.is_nullable else " not null")) for c in info.columns),
        ],
        output,
    )


def _waiting(info: TableInfo) -> str:
    """Rows that no version has yet, in words."""
    told = f"{info.waiting_rows}"
    if info.waiting_rows:
        told += ", seen by readers, in no version yet"
    if info.aside_rows:
        told += f"; {info.aside_rows} set aside (see: fourfold table aside {info.name})"
    return told


@command.command("flush")
@click.argument("names", nargs=-1)
def flush(names: tuple[str, ...]) -> None:
    """Bring inserted rows into a version now: of these tables, or of all where rows wait."""
    with services() as opened:
        for name in names or [table.name for table in opened.storage.list_tables() if table.waiting_rows]:
            made = opened.storage.flush(name)
            note(f"{name} is at version {made.version}, {made.rows} rows")


@command.command("aside")
@click.argument("name")
@click.option("--number", type=int, default=None, help="Show the rows of this insert.")
@click.option("--forget", is_flag=True, help="Let go of all of them, for good.")
@click.option("--why", default="", help="Kept in the audit.")
@output_option
def aside(name: str, number: int | None, forget: bool, why: str, output: str) -> None:
    """Inserts that no longer fitted the table when they were flushed; each with its reason."""
    with services() as opened:
        if forget:
            note(f"{opened.storage.forget_aside(name, why=why)} rows were let go")
        elif number is not None:
            show_rows(opened.storage.aside_rows(name, number), output)
        else:
            show(
                opened.storage.aside(name),
                [
                    Column("NUMBER", lambda a: a.number, is_number=True),
                    Column("ROWS", lambda a: a.rows, is_number=True),
                    Column("AT", lambda a: when(a.at)),
                    Column("BY", lambda a: a.by),
                    Column("STEP", lambda a: a.step),
                    Column("WHY", lambda a: " ".join(a.why.split())),
                ],
                output,
                nothing="nothing is set aside",
            )


@command.command("history")
@click.argument("name")
@click.option("--limit", default=20, show_default=True)
@output_option
def history(name: str, limit: int, output: str) -> None:
    """A table's versions, newest first."""
    with services() as opened:
        show(
            opened.storage.history(name, limit=limit),
            [
                Column("VERSION", lambda v: v.version, is_number=True),
                Column("AT", lambda v: when(v.at)),
                Column("WHAT", lambda v: v.operation),
                Column("ROWS", lambda v: v.rows, is_number=True),
                Column("ADDED", lambda v: v.rows_added, is_number=True),
                Column("BY", lambda v: v.by),
                Column("STEP", lambda v: v.step),
            ],
            output,
        )


@command.command("head")
@click.argument("name")
@click.option("-n", "rows", default=10, show_default=True, type=click.IntRange(1, 10_000))
@click.option("--version", type=int, default=None)
@click.option("--tag", default=None)
@click.option("--columns", default="", help="Comma-separated; all when not said.")
@output_option
def head(name: str, rows: int, version: int | None, tag: str | None, columns: str, output: str) -> None:
    """The first rows of a table."""
    chosen = tuple(c.strip() for c in columns.split(",") if c.strip()) or None
    with services() as opened:
        reader = opened.storage.scan(name, version=version, tag=tag, columns=chosen)
        show_rows(_first(reader, rows), output)


@command.command("tag")
@click.argument("name")
@click.argument("tag")
@click.option("--version", type=int, default=None, help="[default: the newest]")
@click.option("--why", default="", help="Kept in the history.")
def tag(name: str, tag: str, version: int | None, why: str) -> None:
    """Give a version a name of its own."""
    with services() as opened:
        made = opened.storage.tag(name, tag, version=version, why=why)
        note(f"{name}@{tag} is version {made.version}")


@command.command("query")
@click.argument("sql")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 100_000))
@output_option
def query(sql: str, limit: int, output: str) -> None:
    """Ask tables in SQL (DuckDB, read only): "select count(*) from flights".

    A name with dots is quoted: "raw.flights". Each table that is named is read whole, at its newest version.
    """
    import duckdb

    from fourfold.core.errors import NotFound, Refused, did_you_mean

    with services() as opened:
        known = {table.name for table in opened.storage.list_tables()}
        connection = duckdb.connect(":memory:")
        for name in sorted(known):
            if re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.])", sql):
                # Whole, not as a stream: a query may pass over a table twice, and a stream is empty then.
                connection.register(name, opened.storage.read(name))
        # After this the query sees these tables and nothing else: no files, no extensions.
        connection.execute("SET python_enable_replacements = false")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        try:
            relation = connection.sql(sql)
            if relation is None:
                raise Refused("this is no query: it gives no rows", ways_on=["write: select ... from ..."])
            result = relation.to_arrow_reader(10_000)
        except duckdb.CatalogException as error:
            wanted = re.search(r'[Tt]able with name "?([\w.]+)', str(error))
            raise NotFound(
                str(error).splitlines()[0],
                ways_on=did_you_mean(wanted[1] if wanted else "", known, what="tables"),
            ) from error
        except duckdb.Error as error:
            raise Refused(f"the query cannot be answered: {str(error).splitlines()[0]}") from error
        table = _first(result, limit + 1)
        show_rows(table.slice(0, limit), output)
        if table.num_rows > limit:
            note(f"... and more; raise --limit above {limit} to see them")


def _first(reader: Any, count: int) -> pa.Table:
    import pyarrow as pa

    batches, seen = [], 0
    for batch in reader:
        batches.append(batch)
        seen += batch.num_rows
        if seen >= count:
            break
    return pa.Table.from_batches(batches, schema=reader.schema).slice(0, count)
