"""Who acts in a project: principals, what they may do, and the record of what they did."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from fourfold.core.context import Ref, ambient
from fourfold.core.routes import Role
from fourfold.core.times import Instant

LOCAL = "local"
"""The principal of whoever uses the project's own folder without a server."""

_principal: ContextVar[str | None] = ContextVar("fourfold_principal", default=None)


def principal() -> str:
    """Who acts now: set by a door, else the user of the step that runs, else `local`."""
    if (named := _principal.get()) is not None:
        return named
    here = ambient()
    return (here.executing.user or LOCAL) if here is not None else LOCAL


@contextmanager
def acting_as(name: str) -> Iterator[None]:
    """Run the block as this principal.

    >>> with acting_as("ada"):
    ...     principal()
    'ada'
    """
    token = _principal.set(name)
    try:
        yield
    finally:
        _principal.reset(token)


@dataclass(frozen=True, slots=True)
class Grant:
    """A principal's role in this project."""

    principal: str
    role: Role
    granted_by: str
    at: Instant


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """A token without its secret. It may do at most `scope`, and at most what its principal may."""

    id: str
    principal: str
    scope: Role
    purpose: str
    created_at: Instant
    expires_at: Instant | None
    revoked_at: Instant | None = None


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token just made. The secret is shown this once; the catalog keeps only its hash."""

    info: TokenInfo
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a verified token speaks for, and what it may do here."""

    principal: str
    role: Role
    token_id: str


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One thing somebody did. Entries are only ever added."""

    sequence: int
    at: Instant
    principal: str
    action: str
    """A dotted verb: `table.append`, `role.grant`, `model.promote`."""
    ref: Ref
    facts: Mapping[str, object] = field(default_factory=dict)
