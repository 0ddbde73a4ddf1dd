"""`fourfold project`: what the project is called, and carrying it to another installation."""

from __future__ import annotations

import click

from fourfold.cli.backup import bring_back, told, write
from fourfold.cli.main import Verbs
from fourfold.cli.opened import services
from fourfold.cli.output import Column, note, output_option, show


@click.group(cls=Verbs, name="project")
def command() -> None:
    """What the project is called; carry it to another installation."""


@command.command("show")
@output_option
def show_project(output: str) -> None:
    """What is noted about the project: its name, description, owners."""
    with services() as opened:
        show(
            [{"fact": key, "value": value} for key, value in opened.catalog.project().items()],
            [Column("FACT", lambda row: row["fact"]), Column("VALUE", lambda row: row["value"])],
            output,
            nothing="nothing is noted; say what this is: fourfold project set description TEXT",
        )


@command.command("set")
@click.argument("fact", metavar="FACT")
@click.argument("value", metavar="TEXT")
def set_fact(fact: str, value: str) -> None:
    """Note a fact about the project, such as name, description or owners."""
    with services() as opened:
        opened.catalog.set_project(fact, value)
    note(f"{fact} is noted")


@command.command("export")
@click.argument("file")
def export(file: str) -> None:
    """Write the whole project to FILE.zip, for any other installation."""
    from fourfold.core.errors import Refused

    if not file.endswith(".zip"):
        raise Refused(f"'{file}' does not end in .zip", ways_on=[f"write {file}.zip"])
    _, backup = write(file, "export it")
    note(f"project '{backup.project}' is in {file}: {told(backup)}")
    note("hashes of tokens are in it: keep it as private as the project")


@command.command("import")
@click.argument("file")
def import_(file: str) -> None:
    """Fill this project, which must be empty, with an exported one; `fourfold.toml` says where it goes."""
    backup = bring_back(file)
    note(f"project '{backup.project}' is here: {told(backup)}")
