"""`fourfold token`: tokens with roles, for people and programs."""

from __future__ import annotations

import click

from fourfold.cli.main import Verbs
from fourfold.cli.opened import home, services
from fourfold.cli.output import Column, note, output_option, show, when

ROLES = ["viewer", "editor", "deployer", "admin"]


@click.group(cls=Verbs, name="token")
def command() -> None:
    """Tokens with roles, for people and programs."""


@command.command("new")
@click.argument("name", metavar="PRINCIPAL")
@click.option("--role", type=click.Choice(ROLES), default="viewer", show_default=True)
@click.option("--for", "lifetime", default="90d", show_default=True, help="How long: 12h, 30d; 'ever'.")
@click.option("--purpose", default="", help="Kept beside it.")
def new(name: str, role: str, lifetime: str, purpose: str) -> None:
    """Make a token for a person or program; it is shown this once."""
    from fourfold.core.errors import Refused
    from fourfold.core.routes import Role
    from fourfold.core.times import duration_s

    wanted = Role[role]
    lifetime_s = None if lifetime == "ever" else duration_s(lifetime)
    if lifetime_s == 0:  # before a role is given for it
        raise Refused(
            f"a token cannot live {lifetime}", ways_on=["give a time such as 12h or 30d, or 'ever'"]
        )
    with services() as opened:
        granted = {grant.principal: grant.role for grant in opened.catalog.grants()}
        if granted.get(name, 0) < wanted:
            opened.catalog.grant(name, wanted)
        made = opened.catalog.issue_token(name, wanted, lifetime_s=lifetime_s, purpose=purpose)
    until = f"until {when(made.info.expires_at)}" if made.info.expires_at else "for ever"
    note(f"'{name}' may act as {role} {until}; the token is shown only now ({made.info.id}):")
    click.echo(made.secret)


@command.command("ls")
@output_option
def ls(output: str) -> None:
    """All tokens, without their secrets."""
    with services() as opened:
        show(
            opened.catalog.tokens(),
            [
                Column("TOKEN", lambda t: t.id),
                Column("PRINCIPAL", lambda t: t.principal),
                Column("ROLE", lambda t: t.scope.name),
                Column("PURPOSE", lambda t: t.purpose),
                Column("CREATED", lambda t: when(t.created_at)),
                Column("EXPIRES", lambda t: when(t.expires_at) or "never"),
                Column("REVOKED", lambda t: when(t.revoked_at)),
            ],
            output,
            nothing="no tokens but the owner's, in .fourfold/token",
        )


@command.command("revoke")
@click.argument("token_id", metavar="TOKEN")
def revoke(token_id: str) -> None:
    """Stop a token from working, at once."""
    with services() as opened:
        opened.catalog.revoke_token(token_id)
        note(f"{token_id} is revoked")


@command.command("owner")
def owner() -> None:
    """Print the owner's own token (it may do everything here)."""
    from fourfold.catalog.owner_token import owner_token

    folder = home()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    click.echo(owner_token(folder))
