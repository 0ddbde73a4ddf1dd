"""`fourfold env`: the environment that code runs in."""

from __future__ import annotations

import click

from fourfold.cli.main import Verbs
from fourfold.cli.opened import services
from fourfold.cli.output import Column, output_option, show, show_one, when


@click.group(cls=Verbs, name="env")
def command() -> None:
    """The environment that code runs in."""


@command.command("show")
@click.argument("identity", default="")
@click.option("--lock", is_flag=True, help="Print the lock, from which it can be built again.")
@output_option
def show_environment(identity: str, lock: bool, output: str) -> None:
    """The project's environment, or another by its identity."""
    with services() as opened:
        if not identity:
            identity = opened.compute.present_environment().identity
        found = opened.compute.environment(identity)
    if lock:
        click.echo(found.lock, nl=not found.lock.endswith("\n"))
        return
    show_one(
        found,
        [
            ("identity", found.identity),
            ("python", found.python),
            ("platform", found.platform),
            ("packages", found.package_count),
            ("from", found.origin),
            ("first seen", when(found.first_seen_at)),
        ],
        output,
    )


@command.command("ls")
@output_option
def ls(output: str) -> None:
    """Environments that something ran in, newest first."""
    with services() as opened:
        show(
            opened.compute.environments(),
            [
                Column("IDENTITY", lambda e: e.identity),
                Column("PYTHON", lambda e: e.python),
                Column("PLATFORM", lambda e: e.platform),
                Column("PACKAGES", lambda e: e.package_count, is_number=True),
                Column("FROM", lambda e: e.origin),
                Column("FIRST SEEN", lambda e: when(e.first_seen_at)),
            ],
            output,
            nothing="nothing ran yet",
        )
