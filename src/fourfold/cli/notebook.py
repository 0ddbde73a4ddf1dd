"""`fourfold notebook`: notebooks run with parameters."""

from __future__ import annotations

from pathlib import Path

import click

from fourfold.cli.main import Verbs
from fourfold.cli.opened import parameter_option, plain_parameters, services
from fourfold.cli.output import Column, note, output_option, pairs, show, took, when


@click.group(cls=Verbs, name="notebook")
def command() -> None:
    """Run notebooks with parameters."""


@command.command("run")
@click.argument("path")
@parameter_option
@click.option("--name", default="", help="Under which it is listed [default: the file's].")
@click.option("--html", "page", default="", metavar="FILE", help="Write the page here too.")
def run(path: str, params: tuple[str, ...], name: str, page: str) -> None:
    """Execute a notebook of the project in a process of its own."""
    with services() as opened:
        made = opened.workbench.run_notebook(path, plain_parameters(params), name=name)
        if page:
            Path(page).write_bytes(opened.workbench.notebook_html(made.id))
        note(f"{made.name}: {made.state} in {took(made.started_at, made.ended_at)}")
        click.echo(made.id)


@command.command("ls")
@click.option("--name", default=None)
@click.option("--limit", default=20, show_default=True)
@output_option
def ls(name: str | None, limit: int, output: str) -> None:
    """Notebooks that were run, newest first."""
    with services() as opened:
        show(
            opened.workbench.notebook_runs(name, limit=limit),
            [
                Column("ID", lambda n: n.id),
                Column("NAME", lambda n: n.name),
                Column("STATE", lambda n: n.state.value),
                Column("STARTED", lambda n: when(n.started_at)),
                Column("TOOK", lambda n: took(n.started_at, n.ended_at), is_number=True),
                Column("PARAMETERS", lambda n: pairs(n.parameters)),
                Column(
                    "FAILED",
                    lambda n: f"cell {n.failure.cell_number}: {n.failure.error}" if n.failure else "",
                ),
            ],
            output,
            nothing="no notebooks were run yet",
        )


@command.command("show")
@click.argument("path")
@output_option
def show_parameters(path: str, output: str) -> None:
    """The parameters of a notebook, with their defaults."""
    with services() as opened:
        show(
            opened.workbench.notebook_parameters(path),
            [
                Column("PARAMETER", lambda p: p.name),
                Column("TYPE", lambda p: p.kind),
                Column("DEFAULT", lambda p: p.default),
                Column("ABOUT", lambda p: p.help),
            ],
            output,
            nothing="it has no cell tagged 'parameters'",
        )


@command.command("export")
@click.argument("id")
@click.argument("file")
def export(id: str, file: str) -> None:  # noqa: A002 - the word of the address
    """Write an executed notebook to FILE: its page (.html) or itself (.ipynb)."""
    with services() as opened:
        read = opened.workbench.notebook_html if file.endswith(".html") else opened.workbench.notebook_file
        Path(file).write_bytes(read(id))
