"""`fourfold table grant`, `revoke`, `grants`: who may do what with which tables."""

from __future__ import annotations

import click

from fourfold.cli.opened import services
from fourfold.cli.output import Column, note, output_option, show, when


@click.command("grant")
@click.argument("tables", metavar="NAME|PATTERN")
@click.argument("who", metavar="PRINCIPAL|role:ROLE")
@click.option(
    "--access",
    type=click.Choice(["read", "write", "manage"]),
    default="read",
    show_default=True,
    help="Each holds those before it.",
)
def grant(tables: str, who: str, access: str) -> None:
    """Let somebody read, write or manage tables; from the first grant on, only those on the list.

    A pattern is the beginning of names and a star: raw.*
    """
    from fourfold.core.access import Access

    with services() as opened:
        given = opened.storage.grant_table(tables, who, Access[access])
        note(f"{given.who} may {given.access.name} {given.pattern}")


@click.command("revoke")
@click.argument("tables", metavar="NAME|PATTERN")
@click.argument("who", metavar="PRINCIPAL|role:ROLE")
def revoke(tables: str, who: str) -> None:
    """Take a grant back; without the last one the project's roles say again who may."""
    with services() as opened:
        opened.storage.revoke_table(tables, who)
        note(f"{who} has no grant on {tables} any more")


@click.command("grants")
@click.argument("name", required=False)
@output_option
def grants(name: str | None, output: str) -> None:
    """All grants, or those that decide about one table."""
    with services() as opened:
        show(
            opened.storage.table_grants(name),
            [
                Column("TABLES", lambda g: g.pattern),
                Column("WHO", lambda g: g.who),
                Column("MAY", lambda g: g.access.name),
                Column("GRANTED BY", lambda g: g.granted_by),
                Column("AT", lambda g: when(g.at)),
            ],
            output,
            nothing="no grants: the project's roles say who may"
            if name is None
            else f"no grant names {name}: the project's roles say who may",
        )


COMMANDS = (grant, revoke, grants)
