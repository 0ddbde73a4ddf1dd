"""`fourfold table branch`: cheap copies of a table's name, merged or dropped."""

from __future__ import annotations

import click

from fourfold.cli.main import Verbs
from fourfold.cli.opened import services
from fourfold.cli.output import Column, note, output_option, show, when


@click.group(cls=Verbs, name="branch")
def command() -> None:
    """Branches of a table: read and write them as flights@dev/try-1."""


@command.command("ls")
@click.argument("name")
@output_option
def ls(name: str, output: str) -> None:
    """A table's branches."""
    with services() as opened:
        show(
            opened.storage.branches(name),
            [
                Column("BRANCH", lambda b: b.name),
                Column("VERSION", lambda b: b.version, is_number=True),
                Column("ROWS", lambda b: b.rows, is_number=True),
                Column("CHANGED", lambda b: when(b.at)),
                Column("BEGUN", lambda b: when(b.begun_at)),
                Column("BY", lambda b: b.begun_by),
            ],
            output,
            nothing=f"no branches yet; begin one: fourfold table branch new {name} dev/try-1",
        )


@command.command("new")
@click.argument("name")
@click.argument("branch")
@click.option("--version", type=int, default=None, help="Where it begins. [default: the newest]")
@click.option("--why", default="", help="Kept in the audit.")
def new(name: str, branch: str, version: int | None, why: str) -> None:
    """Begin a branch; no row is copied."""
    with services() as opened:
        made = opened.storage.fork(name, branch, version=version, why=why)
        note(f"{made.name} begins with {made.rows} rows")


@command.command("merge")
@click.argument("name")
@click.argument("branch")
@click.option("--why", default="", help="Kept in the audit.")
def merge(name: str, branch: str, why: str) -> None:
    """Bring what was done on a branch into its table, as one version; the branch stays."""
    with services() as opened:
        made = opened.storage.publish(name, branch, why=why)
        note(f"{made.name} is at version {made.version}: {made.rows} rows")


@command.command("drop")
@click.argument("name")
@click.argument("branch")
@click.option("--why", default="", help="Kept in the audit.")
def drop(name: str, branch: str, why: str) -> None:
    """Remove a branch with its versions. Its name is retired."""
    with services() as opened:
        opened.storage.drop_branch(name, branch, why=why)
        note(f"{name}@{branch} is gone")
