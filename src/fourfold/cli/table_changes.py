"""What changed in a table, and what changes it as a whole: `fourfold table diff`, `restore`, `vacuum`..."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from fourfold.cli.opened import services
from fourfold.cli.output import Column, note, output_option, show, show_one, size, when

if TYPE_CHECKING:
    from fourfold.core.services.storage import Storage
    from fourfold.core.storage import Row, TableDiff


@click.command("diff")
@click.argument("name")
@click.argument("before")
@click.argument("after", required=False)
@click.option("--key", multiple=True, metavar="COLUMN", help="Match rows by it; may be repeated.")
@click.option(
    "--limit", default=10, show_default=True, type=click.IntRange(0, 1000), help="Rows of each kind."
)
@output_option
def diff(name: str, before: str, after: str | None, key: tuple[str, ...], limit: int, output: str) -> None:
    """What differs from one version to another (the newest, if only one is named).

    A version is a number, or a tag: fourfold table diff flights 3 report --key id
    """
    with services() as opened:
        storage = opened.storage
        from_version = _number(storage, name, before)
        upto = None if after is None else _number(storage, name, after)
        found = storage.diff(name, before=from_version, after=upto, key=key, limit=limit)
    if output != "table":
        show_one(found, (), output)
        return
    note(_told(found))
    lines = _lines(found)
    names = dict.fromkeys(name for _, row in lines for name in row)
    show(
        lines,
        [Column("CHANGE", lambda line: line[0]), *map(_column, names)],
        output,
        nothing="nothing differs",
    )


@click.command("restore")
@click.argument("name", metavar="NAME@VERSION")
@click.option(
    "--version", type=int, default=None, help="Instead of @v3, @tag:report or a time behind the name."
)
def restore(name: str, version: int | None) -> None:
    """Make an older version the newest again, as a new one: flights@v3, flights@tag:report."""
    from fourfold.core.storage import table_pin

    pin = table_pin(name)
    with services() as opened:
        wanted = pin.version if version is None else version
        made = opened.storage.restore(pin.address, version=wanted, at=pin.at, tag=pin.tag)
        note(f"{made.name} is at version {made.version}: {made.rows} rows")


@click.command("compact")
@click.argument("name")
@click.option(
    "--cluster-by", multiple=True, metavar="COLUMN", help="Lay rows along it, so that filters skip files."
)
def compact(name: str, cluster_by: tuple[str, ...]) -> None:
    """Write small files together. No row changes."""
    with services() as opened:
        before = opened.storage.describe(name)
        made = opened.storage.compact(name, cluster_by=cluster_by)
        if made is None:
            note(f"{name} has nothing to gain: {before.file_count} files")
            return
        after = opened.storage.describe(name, version=made.version)
        note(f"{name} is at version {made.version}: {before.file_count} files became {after.file_count}")


@click.command("export")
@click.argument("name")
@click.option("--to", required=True, metavar="PLACE", help="A place that [exports] in the settings names.")
@click.option("--version", type=int, default=None)
def export(name: str, to: str, version: int | None) -> None:
    """Write a version to an Iceberg catalog, for other engines: of flights, flights@v3 or a tag."""
    from fourfold.core.storage import table_pin

    pin = table_pin(name)
    with services() as opened:
        wanted = pin.version if version is None else version
        done = opened.storage.export(pin.address, to, version=wanted, at=pin.at, tag=pin.tag)
    note(f"{done.name} version {done.version} is version {done.made} in {done.to}: {done.rows} rows")


@click.command("vacuum")
@click.argument("name")
@click.option("--older-than", default="7d", show_default=True, help="How long a replaced version is kept.")
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@output_option
def vacuum(name: str, older_than: str, dry_run: bool, output: str) -> None:
    """Remove the files of versions that were replaced long ago and that nothing cites."""
    from fourfold.core.times import duration_s

    with services() as opened:
        done = opened.storage.vacuum(name, older_than_s=duration_s(older_than), dry_run=dry_run)
    show_one(
        done,
        [
            (
                "would be removed" if dry_run else "removed",
                f"{done.file_count} files, {size(done.size_bytes)}",
            ),
            ("replaced before", when(done.before)),
            ("versions that go", done.versions),
            *((f"kept: {version}", why) for version, why in done.kept.items()),
        ],
        output,
    )


@click.command("drop")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--why", default="", help="Kept in the audit.")
def drop(name: str, yes: bool, why: str) -> None:
    """Remove a table with all its versions and branches. Its name is retired."""
    with services() as opened:
        if not yes:
            info = opened.storage.describe(name)
            click.confirm(f"remove {name} with {info.version + 1} versions for good?", abort=True, err=True)
        opened.storage.drop(name, why=why)
        note(f"{name} is gone")


def _number(storage: Storage, name: str, text: str) -> int:
    """A version by its number (3, v3) or its tag."""
    digits = text.removeprefix("v")
    return (
        int(digits) if digits.isdecimal() else storage.describe(name, tag=text.removeprefix("tag:")).version
    )


def _told(found: TableDiff) -> str:
    counts = f"{found.added} added, {found.removed} removed"
    if found.key:
        counts += f", {found.changed} changed"
    told = [f"{found.name}: version {found.before} to {found.after}: {counts}"]
    for word, columns in (("new", found.columns_added), ("gone", found.columns_removed)):
        if columns:
            told.append(f"{word} columns: {', '.join(f'{c.name} ({c.type})' for c in columns)}")
    return "\n".join(told)


def _lines(found: TableDiff) -> list[tuple[str, Row]]:
    """The rows that are shown, each with what happened to it."""
    lines = [("added", row) for row in found.added_rows] + [("removed", row) for row in found.removed_rows]
    for before, after in found.changed_rows:
        lines += [("before", before), ("after", after)]
    return lines


def _column(name: str) -> Column:
    return Column(name, lambda line: "null" if line[1].get(name) is None else line[1][name])
