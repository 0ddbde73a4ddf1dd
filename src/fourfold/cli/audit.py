"""`fourfold audit`: who did what."""

from __future__ import annotations

import click

from fourfold.cli.opened import services
from fourfold.cli.output import Column, output_option, pairs, show, when


@click.command(name="audit")
@click.option("--kind", default="", help="Of things of this kind: table, model, ...")
@click.option("--name", default="", help="Of the thing of this name.")
@click.option("--by", default="", help="By this principal.")
@click.option("--action", default="", help="Such as model.promote.")
@click.option("--limit", default=50, show_default=True)
@output_option
def command(kind: str, name: str, by: str, action: str, limit: int, output: str) -> None:
    """Who did what, newest first."""
    with services() as opened:
        show(
            opened.catalog.audit(kind=kind, name=name, principal=by, action=action, limit=limit),
            [
                Column("AT", lambda e: when(e.at)),
                Column("BY", lambda e: e.principal),
                Column("WHAT", lambda e: e.action),
                Column("THING", lambda e: str(e.ref)),
                Column("FACTS", lambda e: pairs(e.facts)),
            ],
            output,
            nothing="nothing is recorded",
        )
