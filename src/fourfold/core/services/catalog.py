"""The catalog's own service: lineage, the audit, roles and tokens, what the project is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from fourfold.core.catalog import AuditEntry, Grant, Identity, NewToken, TokenInfo
from fourfold.core.context import Ref
from fourfold.core.lineage import ColumnGraph, Direction, Edge, LineageGraph, MadeByQuery
from fourfold.core.routes import Role, route


class CatalogService(Protocol):
    """What is known about things, and who did what to them.

    Every change is written together with its audit entry. The last admin cannot be removed.
    """

    @route("GET /lineage", needs=Role.viewer)
    def lineage(
        self,
        kind: str,
        name: str,
        *,
        version: str = "",
        direction: Direction = Direction.upstream,
        depth: int = 20,
        limit: int = 2000,
    ) -> LineageGraph:
        """Walk from a thing to what it was made from, or to what was made from it.

        At most `depth` edges away and `limit` nodes; the answer says whether there was more.
        """
        ...

    @route("GET /lineage/picture", needs=Role.viewer, media="image/svg+xml")
    def lineage_picture(
        self,
        kind: str,
        name: str,
        *,
        version: str = "",
        columns: bool = False,
        column: str = "",
        direction: Direction = Direction.upstream,
        depth: int = 20,
    ) -> bytes:
        """The walk as SVG: of things, or with `columns` (or one `column`) of the columns of versions."""
        ...

    @route("GET /lineage/columns", needs=Role.viewer)
    def column_lineage(
        self,
        kind: str,
        name: str,
        *,
        version: str = "",
        column: str = "",
        direction: Direction = Direction.upstream,
        depth: int = 20,
        limit: int = 10_000,
    ) -> ColumnGraph:
        """Walk from a version's columns, or one of them, over the queries that made versions from versions.

        At most `depth` versions away and `limit` edges. Versions that no query made end the walk.
        """
        ...

    @route("GET /audit", needs=Role.viewer)
    def audit(
        self,
        *,
        kind: str = "",
        name: str = "",
        principal: str = "",
        action: str = "",
        before: int | None = None,
        limit: int = 100,
    ) -> tuple[AuditEntry, ...]:
        """Who did what, newest first; `before` is the sequence number to page on from."""
        ...

    @route("GET /grants", needs=Role.viewer)
    def grants(self) -> tuple[Grant, ...]:
        """Who may do what in this project, sorted by principal."""
        ...

    @route("PUT /grants/{principal}", needs=Role.admin)
    def grant(self, principal: str, role: Role) -> Grant:
        """Give a principal a role, in place of the one it had."""
        ...

    @route("DELETE /grants/{principal}", needs=Role.admin)
    def revoke(self, principal: str) -> None:
        """Take a principal's role away; its tokens stop working at once."""
        ...

    @route("GET /tokens", needs=Role.admin)
    def tokens(self) -> tuple[TokenInfo, ...]:
        """All tokens, newest first, without their secrets."""
        ...

    @route("POST /tokens", needs=Role.admin)
    def issue_token(
        self, principal: str, scope: Role, *, lifetime_s: float | None = None, purpose: str = ""
    ) -> NewToken:
        """Make a token for a principal that has a role; the secret is shown only now."""
        ...

    @route("DELETE /tokens/{token_id}", needs=Role.admin)
    def revoke_token(self, token_id: str) -> None:
        """Stop a token from working. Doing it twice is doing it once."""
        ...

    @route("GET /project", needs=Role.viewer)
    def project(self) -> Mapping[str, str]:
        """The project's own facts: its name, when it began, and what its people noted."""
        ...

    @route("PUT /project/{key}", needs=Role.editor)
    def set_project(self, key: str, value: str) -> None:
        """Note a fact about the project."""
        ...

    # In process only.

    def verify_token(self, secret: str) -> Identity:
        """Who this token speaks for. Raises `Unauthenticated` when unknown, expired or revoked."""
        ...

    def record_edges(self, edges: Sequence[Edge]) -> None:
        """Record what was made from what; an edge recorded twice counts once."""
        ...

    def record_query(self, made: MadeByQuery) -> None:
        """Record which query made a version, and which columns it let act on which. Once for a version."""
        ...

    def record(self, action: str, ref: Ref, *, facts: Mapping[str, object] | None = None) -> None:
        """Add an entry to the audit, by whoever acts now."""
        ...
