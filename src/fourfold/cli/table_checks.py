"""`fourfold table expect`, `check`, `rejected`: what is expected of a table, and what was not so."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fourfold.cli.opened import services
from fourfold.cli.output import Column, note, output_option, show, when

if TYPE_CHECKING:
    from fourfold.core.expectations import Expected, Rejection, Verdict


@click.command("expect")
@click.argument("name")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--why", default="", help="Kept in the audit.")
def expect(name: str, file: Path, why: str) -> None:
    """Expect of a table what a TOML file says, in place of what was expected.

    \b
    on_failure = "refuse"       # or "quarantine": set bad rows aside, write the rest
    [[expect]]
    not_null = "id"
    [[expect]]
    between = "delay"
    least = -120
    greatest = 2000
    at_most = "0.1%"            # of the rows may fail
    severity = "warn"           # or "refuse"

    Rules: not_null, between, matches, one_of, sql, unique, fresh, row_count_change.
    """
    from fourfold.core.errors import Refused
    from fourfold.foundation.storage.expect import from_toml

    try:
        expected = from_toml(tomllib.loads(file.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Refused(f"{file} is not TOML: {error}") from error
    with services() as opened:
        opened.datasets.expect(name, expected, why=why)
    note(f"{name}: {_counted(expected)} from now on; see what is there already: fourfold table check {name}")


@click.command("expectations")
@click.argument("name")
@output_option
def expectations(name: str, output: str) -> None:
    """What is expected of a table."""
    with services() as opened:
        expected = opened.datasets.expectations(name)
    if expected.expectations and output == "table":
        note(f"on failure: {expected.on_failure}")
    show(
        expected.expectations if output == "table" else [expected],
        [
            Column("EXPECTED", str),
            Column("TOLERATED", lambda e: f"{100 * e.at_most:.3g}%" if e.at_most else "", is_number=True),
            Column("ELSE", lambda e: e.severity),
        ],
        output,
        nothing=f"nothing is expected of {name}; say it: fourfold table expect {name} FILE.toml",
    )


@click.command("check")
@click.argument("name")
@click.option("--version", type=int, default=None, help="[default: the newest]")
@output_option
def check(name: str, version: int | None, output: str) -> int:
    """Hold all rows of a table against what is expected; ends with 1 where something is not so."""
    with services() as opened:
        found = opened.datasets.check(name, version=version)
    show(
        found.verdicts if output == "table" else [found],
        [Column("", _mark), Column("WHAT", lambda v: v.reason)],
        output,
        nothing=f"nothing is expected of {name}; say it: fourfold table expect {name} FILE.toml",
    )
    return 0 if all(not verdict.refuses for verdict in found.verdicts) else 1


@click.command("rejected")
@click.argument("name")
@click.argument("rejection", required=False)
@click.option("-n", "rows", default=20, show_default=True, type=click.IntRange(1, 100_000))
@output_option
def rejected(name: str, rejection: str | None, rows: int, output: str) -> None:
    """Writes of which some rows were not as expected; or the rows of one of them."""
    with services() as opened:
        if rejection is not None:
            from fourfold.cli.rows import show_rows

            table = opened.datasets.rejected_rows(name, rejection)
            show_rows(table.slice(0, rows), output)
            if table.num_rows > rows:
                note(f"... and {table.num_rows - rows:,} more: -n {table.num_rows}")
            return
        show(
            opened.datasets.rejections(name, limit=rows),
            [
                Column("REJECTION", lambda r: r.id),
                Column("AT", lambda r: when(r.at)),
                Column("WHAT", lambda r: r.operation),
                Column("ROWS", lambda r: r.rows, is_number=True),
                Column("KEPT", lambda r: r.kept_rows, is_number=True),
                Column("THE REST", _rest),
                Column("BY", lambda r: r.by),
                Column("WHY", lambda r: "; ".join(v.reason for v in r.verdicts) or " ".join(r.why.split())),
            ],
            output,
            nothing=f"nothing that was written to {name} was rejected",
        )


@click.command("discard")
@click.argument("name")
@click.argument("rejection")
@click.option("--why", default="", help="Kept in the audit.")
def discard(name: str, rejection: str, why: str) -> None:
    """Keep the rows of a rejection no longer."""
    with services() as opened:
        opened.datasets.discard(name, rejection, why=why)


COMMANDS = (expect, expectations, check, rejected, discard)


def _counted(expected: Expected) -> str:
    count = len(expected.expectations)
    return "nothing is expected" if not count else f"{count} expectation{'s' * (count != 1)}"


def _rest(rejection: Rejection) -> str:
    if not rejection.is_quarantined:
        return "refused"
    return "not known" if rejection.version is None else f"version {rejection.version}"


def _mark(verdict: Verdict) -> str:
    return "ok" if verdict.passed else "NOT SO" if verdict.refuses else "warning"
