"""`fourfold table append` and `upsert`: files into tables."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fourfold.cli.opened import parameters, services
from fourfold.cli.output import note, size

if TYPE_CHECKING:
    from fourfold.core.storage import TableVersion
    from fourfold.foundation.storage.ingest.stream import Progress

F = TypeVar("F", bound=Callable[..., Any])

EVERY_S = 0.2
"""How often a terminal is told how far it is."""


def _options(command: F) -> F:
    for option in (
        click.option("--encoding", default="utf-8", show_default=True, help="Of CSV: latin-1, cp1252..."),
        click.option(
            "--type", "types", multiple=True, metavar="COLUMN=TYPE", help="Of a new table; may be repeated."
        ),
        click.option(
            "--format",
            "kind",
            type=click.Choice(["parquet", "csv", "tsv", "jsonl"]),
            help="[default: what the names say]",
        ),
        click.argument("files", nargs=-1, required=True, metavar="FILE..."),
        click.argument("name"),
    ):
        command = option(command)
    return command


@click.command("append")
@_options
@click.option("--partition-by", multiple=True, metavar="COLUMN", help="Of a new table; may be repeated.")
def append(**given: Any) -> None:
    """Add the rows of files (Parquet, CSV, JSON lines, also .gz) as one version, or none of them.

    A pattern is taken too: fourfold table append flights 'flights-*.csv.gz'
    """
    _write("append_file", **given)


@click.command("upsert")
@_options
@click.option("--key", multiple=True, required=True, metavar="COLUMN", help="Match by it; may be repeated.")
def upsert(**given: Any) -> None:
    """Put each row of files in the place of the one with its key, or add it; all as one version."""
    _write("upsert_file", **given)


def _write(
    how: str, *, name: str, files: tuple[str, ...], kind: str | None, types: tuple[str, ...], **more: Any
) -> None:
    from fourfold.foundation.storage.api import Table
    from fourfold.foundation.storage.ingest.paths import Format

    telling = _Telling()
    with services() as opened:
        write = getattr(Table(name, storage=opened.storage), how)
        try:
            made: TableVersion = write(
                files,
                format=None if kind is None else Format(kind),
                types=parameters(types),
                on_progress=telling,
                **more,
            )
        finally:
            telling.end()
    removed = f", {made.rows_removed:,} replaced" if made.rows_removed else ""
    note(f"{made.name} is at version {made.version}: {made.rows_added:,} rows written{removed}")


class _Telling:
    """Says on a terminal how far the reading is."""

    def __init__(self) -> None:
        self._is_wanted = sys.stderr.isatty()
        self._last_s = 0.0
        self._has_told = False

    def __call__(self, progress: Progress) -> None:
        now_s = time.monotonic()
        if not self._is_wanted or now_s - self._last_s < EVERY_S:
            return
        self._last_s, self._has_told = now_s, True
        share = progress.read_bytes / max(progress.total_bytes, 1)
        told = f"{share:4.0%} of {size(progress.total_bytes)}, {progress.rows:,} rows: {progress.file.name}"
        click.echo(f"\r\x1b[K{told}", nl=False, err=True)

    def end(self) -> None:
        if self._has_told:
            click.echo("\r\x1b[K", nl=False, err=True)
