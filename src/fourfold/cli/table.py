"""`fourfold table`: versioned tables."""

from __future__ import annotations

import csv

import click

from fourfold.cli.main import Verbs
from fourfold.cli.opened import services
from fourfold.cli.output import Column, note, output_option, pairs, show, show_one, size, when
from fourfold.cli.rows import first, show_rows
from fourfold.cli.table_access import COMMANDS as ACCESS
from fourfold.cli.table_branch import command as branch
from fourfold.cli.table_changes import compact, diff, drop, export, restore, vacuum
from fourfold.cli.table_checks import COMMANDS as CHECKS
from fourfold.cli.table_files import append, upsert
from fourfold.cli.table_forget import COMMANDS as FORGETTING
from fourfold.cli.table_query import command as query
from fourfold.cli.table_stats import command as stats


@click.group(cls=Verbs, name="table")
def command() -> None:
    """Versioned tables."""


FILES = (append, upsert, export)
for _verb in (
    *FILES,
    query,
    diff,
    restore,
    compact,
    vacuum,
    drop,
    branch,
    stats,
    *CHECKS,
    *ACCESS,
    *FORGETTING,
):
    command.add_command(_verb)


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
    """A table's columns, rows, size, partitions and tags: of flights, flights@v3 or flights@dev/try-1."""
    from fourfold.core.storage import table_pin

    pin = table_pin(name)
    with services() as opened:
        wanted = pin.version if version is None else version
        info = opened.storage.describe(pin.address, version=wanted, at=pin.at, tag=pin.tag)
    show_one(
        info,
        [
            ("table", info.name),
            ("version", f"{info.version} ({when(info.at)})"),
            ("rows", info.rows),
            ("waiting", f"{info.waiting_rows} rows, in no version yet" if info.waiting_rows else "0"),
            ("size", f"{size(info.size_bytes)} in {info.file_count} files"),
            ("partitioned by", info.partition_by),
            ("tags", pairs(info.tags)),
            *((f"  {c.name}", c.type + ("" if c.is_nullable else " not null")) for c in info.columns),
        ],
        output,
    )


@command.command("flush")
@click.argument("names", nargs=-1)
def flush(names: tuple[str, ...]) -> None:
    """Bring inserted rows into a version now: of these tables, or of all where rows wait."""
    with services() as opened:
        for name in names or [table.name for table in opened.storage.list_tables() if table.waiting_rows]:
            made = opened.storage.flush(name)
            note(f"{name} is at version {made.version}, {made.rows} rows")


@command.command("history")
@click.argument("name")
@click.option("--limit", default=20, show_default=True)
@output_option
def history(name: str, limit: int, output: str) -> None:
    """A table's versions, newest first."""
    with services() as opened:
        versions = opened.storage.history(name, limit=limit)
        forgotten = Column("FORGOTTEN", lambda v: v.rows_forgotten, is_number=True)
        show(
            versions,
            [
                Column("VERSION", lambda v: v.version, is_number=True),
                Column("AT", lambda v: when(v.at)),
                Column("WHAT", lambda v: v.operation),
                Column("ROWS", lambda v: v.rows, is_number=True),
                Column("ADDED", lambda v: v.rows_added, is_number=True),
                Column("REMOVED", lambda v: v.rows_removed, is_number=True),
                *([forgotten] if any(v.rows_forgotten for v in versions) else []),
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
@click.option(
    "--columns", default="", help="Comma-separated, quoted as in CSV where need be; all when not said."
)
@output_option
def head(name: str, rows: int, version: int | None, tag: str | None, columns: str, output: str) -> None:
    """The first rows of a table: of flights, flights@v3, flights@tag:report or flights@dev/try-1."""
    from fourfold.core.storage import table_pin

    pin = table_pin(name)
    chosen = tuple(c.strip() for c in next(csv.reader([columns]), []) if c.strip()) or None
    with services() as opened:
        reader = opened.storage.scan(
            pin.address,
            version=pin.version if version is None else version,
            at=pin.at,
            tag=pin.tag if tag is None else tag,
            columns=chosen,
        )
        show_rows(first(reader, rows), output)


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
