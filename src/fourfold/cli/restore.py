"""`fourfold restore`: a project brought back from a backup."""

from __future__ import annotations

import click

from fourfold.cli.backup import bring_back
from fourfold.cli.output import note, when


@click.command(name="restore")
@click.argument("place")
@click.option("--number", type=int, default=None, help="Which backup of the folder [default: the newest].")
@click.option("--force", is_flag=True, help="Move the project that is here aside first.")
def command(place: str, number: int | None, force: bool) -> None:
    """Bring a project back from a backup, to where `fourfold.toml` says. The project must be empty.

    What was cut off is run again and goes on.
    """
    backup = bring_back(place, number=number, is_forced=force)
    note(f"project '{backup.project}' is as it was at {when(backup.at)}; see: fourfold doctor")
    note("tokens of people and programs work as before; the owner's token is a new one: fourfold token owner")
