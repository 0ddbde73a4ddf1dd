"""`fourfold version`."""

from __future__ import annotations

import click


@click.command(name="version")
def command() -> None:
    """The version of Fourfold."""
    from fourfold import __version__

    click.echo(__version__)
