"""`fourfold table forget`, `forgotten`: a person's rows taken out of every version, and the record of it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from fourfold.cli.opened import services
from fourfold.cli.output import Column, note, output_option, show, show_one, size, when

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fourfold.core.forgetting import PersonKey, TableForgotten, Tombstone

MOST_SHOWN = 20
"""Versions, and things that saw the rows, that are listed; JSON has all."""


@click.command("forget")
@click.argument("name")
@click.option(
    "--key",
    "keys",
    multiple=True,
    metavar="COLUMN=VALUE",
    help="Whose rows: several columns together, several values of one column each.",
)
@click.option(
    "--keys",
    "keys_file",
    metavar="FILE",
    default=None,
    help="A CSV file of keys, its first line the columns; - reads it from standard input.",
)
@click.option(
    "--again", is_flag=True, help="Whoever was forgotten after this state, or not wholly; no key is needed."
)
@click.option("--dry-run", is_flag=True, help="Say what would go and what saw it, and change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--why", default="", help="Kept with the record: a request's number, never the person.")
@output_option
def forget(
    name: str,
    keys: tuple[str, ...],
    keys_file: str | None,
    again: bool,
    dry_run: bool,
    yes: bool,
    why: str,
    output: str,
) -> None:
    """Take a person's rows out of every version, tag and branch of a table, for good.

    Neither a retention nor what cites a version keeps them. What was made from the rows is listed: training
    sets, runs, models, endpoints, datasets, other tables. Values on a command line are seen by others on the
    machine and stay in the shell's history: --keys - reads them from standard input.

        fourfold table forget visits --key person=p-17 --dry-run
    """
    if again:
        _again(name, is_keyed=bool(keys or keys_file), dry_run=dry_run, yes=yes, output=output)
        return
    wanted = tuple(_keys(keys, keys_file))
    with services() as opened:
        if dry_run or not yes:
            would = opened.storage.forget(name, keys=wanted, dry_run=True)
            if dry_run:
                _show(would, output)
                return
            note(_said(would))
            click.confirm(f"forget these rows of {name} for good?", abort=True, err=True)
        done = opened.storage.forget(name, keys=wanted, why=why)
    _show(done, output)
    for left in done.notes:
        note(left)


def _again(name: str, *, is_keyed: bool, dry_run: bool, yes: bool, output: str) -> None:
    from fourfold.core.errors import Refused

    if is_keyed:
        raise Refused("--again finds the keys itself", ways_on=["leave --key and --keys out"])
    with services() as opened:
        told = opened.storage.forget_again(name, dry_run=True)
        if told and not dry_run:
            for each in told:
                note(_said(each))
            if not yes:
                click.confirm(f"forget these rows of {name} once more?", abort=True, err=True)
        if not dry_run:
            told = opened.storage.forget_again(name)
    if not told:
        note(f"{name} holds nobody's rows that were forgotten")
    for each in told:
        _show(each, output)
        for left in each.notes:
            note(left)


@click.command("forgotten")
@click.argument("name", required=False)
@output_option
def forgotten(name: str | None, output: str) -> None:
    """What was forgotten of tables, or of one: when, by whom, what had seen it. Never whose rows."""
    with services() as opened:
        show(
            opened.storage.forgotten(name),
            [
                Column("FORGOTTEN", lambda t: t.id),
                Column("TABLE", lambda t: t.table),
                Column("AT", lambda t: when(t.at)),
                Column("BY", lambda t: t.by),
                Column("KEYS", lambda t: len(t.digests), is_number=True),
                Column("COLUMNS", _columns),
                Column("VERSIONS", lambda t: len(t.told.versions), is_number=True),
                Column("SEEN BY", lambda t: len(t.told.saw), is_number=True),
                Column("IS", lambda t: "done" if t.is_done else "not finished: forget it again"),
                Column("WHY", lambda t: t.why),
            ],
            output,
            nothing=f"nothing of {name or 'any table'} was forgotten",
        )


def _keys(texts: tuple[str, ...], file: str | None) -> Iterator[PersonKey]:
    """The keys that are meant: every choice of a value for each column, and each line of the file."""
    from itertools import product

    from fourfold.core.errors import Refused

    values: dict[str, list[str]] = {}
    for text in texts:
        column, equals, value = text.partition("=")
        if not equals or not column.strip():
            raise Refused("a key is a column and a value", ways_on=["write --key person=p-17"])
        values.setdefault(column.strip(), []).append(value)
    if values:
        yield from (dict(zip(values, each, strict=True)) for each in product(*values.values()))
    if file is not None:
        yield from _from_file(file)


def _from_file(file: str) -> Iterator[PersonKey]:
    import csv
    from pathlib import Path

    from fourfold.core.errors import Refused

    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(
            f"{file} cannot be read: {type(error).__name__}", ways_on=["give a CSV file"]
        ) from error
    reader = csv.DictReader(text.splitlines())
    for row in reader:
        if None in row or None in row.values():
            raise Refused(
                f"{file}, line {reader.line_num}: it has not the columns of the first line",
                ways_on=[f"columns: {', '.join(reader.fieldnames or [])}"],
            )
        yield dict(row)


def _show(told: TableForgotten, output: str) -> None:
    verb = "would go" if told.is_dry_run else "gone"
    show_one(
        told,
        [
            (f"files that {verb}", f"{told.file_count}, {size(told.size_bytes)}"),
            *(
                (f"{each.name}, version {each.version}", f"{each.rows} rows")
                for each in told.versions[:MOST_SHOWN]
            ),
            ("further versions", _beyond(len(told.versions))),
            ("rows that wait", told.waiting_rows or ""),
            ("rows kept aside", told.kept_rows or ""),
            ("statistics of", f"{told.figures} versions" if told.figures else ""),
            *(("seen by", f"{saw.thing} (from {saw.read})") for saw in told.saw[:MOST_SHOWN]),
            ("seen by further", _beyond(len(told.saw)) if told.is_saw_complete else "more than can be told"),
            ("kept as", told.id),
        ],
        output,
    )


def _said(told: TableForgotten) -> str:
    count = len(told.versions)
    seen = ", ".join(str(saw.thing) for saw in told.saw[:MOST_SHOWN]) or "nothing that lineage knows"
    return (
        f"{told.name}: {count} version{'' if count == 1 else 's'} with such rows, "
        f"{told.file_count} files, {size(told.size_bytes)}; seen by {seen}"
    )


def _beyond(count: int) -> str:
    return str(count - MOST_SHOWN) if count > MOST_SHOWN else ""


def _columns(tombstone: Tombstone) -> str:
    return ", ".join(sorted({column for columns in tombstone.columns for column in columns}))


COMMANDS = (forget, forgotten)
