"""Roles and tokens. A token's secret has 256 random bits, so a plain hash of it is enough to keep."""

from __future__ import annotations

import hashlib
import hmac
import secrets

import sqlalchemy as sa

from fourfold.catalog import rows
from fourfold.catalog.ids import new_id
from fourfold.catalog.tables import grant as grant_table
from fourfold.catalog.tables import principal as principal_table
from fourfold.catalog.tables import token as token_table
from fourfold.core.catalog import Grant, Identity, NewToken, TokenInfo, principal
from fourfold.core.errors import NotFound, Refused, Unauthenticated, did_you_mean
from fourfold.core.routes import Role
from fourfold.core.times import Instant, after

PREFIX = "fft"
"""Every secret begins with it, so that scanners of leaked secrets can know one."""


def grants(connection: sa.Connection) -> tuple[Grant, ...]:
    """All grants, sorted by principal."""
    query = sa.select(grant_table).order_by(grant_table.c.principal)
    return tuple(
        Grant(row.principal, Role(row.role), row.granted_by, Instant(row.at_us))
        for row in connection.execute(query)
    )


def put_grant(connection: sa.Connection, at: Instant, name: str, role: Role) -> Grant:
    """Give a principal a role in place of the one it had."""
    if not name.strip() or len(name) > 256:
        raise Refused("a principal needs a name of 1 to 256 characters", ways_on=["for example ada@lab"])
    if role is not Role.admin:
        _keep_an_admin(connection, name)
    rows.insert_new(connection, principal_table, [{"name": name, "created_at_us": at}])
    given = Grant(name, role, principal(), at)
    rows.put(
        connection,
        grant_table,
        {"principal": name, "role": int(role), "granted_by": given.granted_by, "at_us": at},
    )
    return given


def remove_grant(connection: sa.Connection, at: Instant, name: str) -> None:
    """Take a principal's role away, and its tokens with it."""
    _role(connection, name)
    _keep_an_admin(connection, name)
    connection.execute(grant_table.delete().where(grant_table.c.principal == name))
    connection.execute(
        token_table.update()
        .where(token_table.c.principal == name, token_table.c.revoked_at_us.is_(None))
        .values(revoked_at_us=at)
    )


def tokens(connection: sa.Connection) -> tuple[TokenInfo, ...]:
    """All tokens, newest first."""
    query = sa.select(token_table).order_by(token_table.c.created_at_us.desc(), token_table.c.id.desc())
    return tuple(_info(row) for row in connection.execute(query))


def put_token(
    connection: sa.Connection,
    at: Instant,
    name: str,
    scope: Role,
    *,
    lifetime_s: float | None = None,
    purpose: str = "",
) -> NewToken:
    """Make a token for a principal that has a role."""
    _role(connection, name)
    if lifetime_s is not None and not 0 < lifetime_s < 1e10:
        raise Refused(f"a token cannot live {lifetime_s} s", ways_on=["give a positive number of seconds"])
    info = TokenInfo(
        id=new_id("token").removeprefix("token_"),
        principal=name,
        scope=scope,
        purpose=purpose,
        created_at=at,
        expires_at=None if lifetime_s is None else after(at, lifetime_s),
    )
    secret = f"{PREFIX}_{info.id}_{secrets.token_urlsafe(32)}"
    connection.execute(
        token_table.insert().values(
            id=info.id,
            principal=name,
            secret_sha256=_hash(secret),
            scope=int(scope),
            purpose=purpose,
            created_at_us=at,
            expires_at_us=info.expires_at,
        )
    )
    return NewToken(info, secret)


def revoke_token(connection: sa.Connection, at: Instant, token_id: str) -> None:
    """Stop a token from working; a second time changes nothing."""
    query = sa.select(token_table.c.revoked_at_us).where(token_table.c.id == token_id)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise NotFound(f"no token has the identifier '{token_id}'", ways_on=["see: fourfold token ls"])
    if row.revoked_at_us is None:
        connection.execute(token_table.update().where(token_table.c.id == token_id).values(revoked_at_us=at))


def verify(connection: sa.Connection, at: Instant, secret: str) -> Identity:
    """Who a secret speaks for, with the lesser of the token's scope and the principal's present role."""
    pieces = secret.split("_", 2)
    if len(pieces) != 3 or pieces[0] != PREFIX:
        raise _unauthenticated("is not one of this project's tokens")
    query = (
        sa.select(token_table, grant_table.c.role)
        .outerjoin(grant_table, grant_table.c.principal == token_table.c.principal)
        .where(token_table.c.id == pieces[1])
    )
    row = connection.execute(query).one_or_none()
    if row is None or not hmac.compare_digest(row.secret_sha256, _hash(secret)):
        raise _unauthenticated("is not one of this project's tokens")
    if row.revoked_at_us is not None or row.role is None:
        raise _unauthenticated("was revoked")
    if row.expires_at_us is not None and at >= row.expires_at_us:
        raise _unauthenticated("has expired")
    return Identity(row.principal, Role(min(row.scope, row.role)), row.id)


def _unauthenticated(what: str) -> Unauthenticated:
    return Unauthenticated(f"the token {what}", ways_on=["ask an admin for one: fourfold token new NAME"])


def _role(connection: sa.Connection, name: str) -> Role:
    roles = {given.principal: given.role for given in grants(connection)}
    if name not in roles:
        raise NotFound(
            f"'{name}' has no role in this project", ways_on=did_you_mean(name, roles, what="principals")
        )
    return roles[name]


def _keep_an_admin(connection: sa.Connection, losing: str) -> None:
    admins = sa.select(grant_table.c.principal).where(grant_table.c.role == int(Role.admin))
    # Locked, so that of two admins who remove each other at once the second sees the first's deed.
    if set(connection.execute(admins.with_for_update()).scalars()) == {losing}:
        raise Refused(
            f"'{losing}' is the project's last admin",
            ways_on=["make somebody else an admin first: fourfold token new NAME --role admin"],
        )


def _info(row: sa.Row[tuple[object, ...]]) -> TokenInfo:
    return TokenInfo(
        id=row.id,
        principal=row.principal,
        scope=Role(row.scope),
        purpose=row.purpose,
        created_at=Instant(row.created_at_us),
        expires_at=None if row.expires_at_us is None else Instant(row.expires_at_us),
        revoked_at=None if row.revoked_at_us is None else Instant(row.revoked_at_us),
    )


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
