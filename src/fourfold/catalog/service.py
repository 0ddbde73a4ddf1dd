"""The catalog's service: each call is one unit of work, and every change is written with its audit entry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import sqlalchemy as sa

from fourfold.catalog import access, audit, lineage, picture, rows
from fourfold.catalog import columns as column_rows
from fourfold.catalog.database import Catalog
from fourfold.catalog.tables import project as project_table
from fourfold.core.catalog import AuditEntry, Grant, Identity, NewToken, TokenInfo, principal
from fourfold.core.context import Ref
from fourfold.core.errors import Refused
from fourfold.core.lineage import ColumnGraph, Direction, Edge, LineageGraph, MadeByQuery
from fourfold.core.ports.clock import Clock
from fourfold.core.routes import Role

MOST_DEPTH = 100
MOST_NODES = 20_000
MOST_COLUMN_EDGES = 50_000
MOST_ENTRIES = 10_000


class CatalogService:
    """Fulfils `core.services.catalog.CatalogService` over a database."""

    def __init__(self, catalog: Catalog, clock: Clock) -> None:
        self._catalog = catalog
        self._clock = clock

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
        _bound("depth", depth, MOST_DEPTH)
        _bound("limit", limit, MOST_NODES)
        with self._catalog.read() as connection:
            return lineage.walk(connection, Ref(kind, name, version), direction, depth=depth, limit=limit)

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
        if columns or column:
            return picture.of_columns(
                self.column_lineage(
                    kind, name, version=version, column=column, direction=direction, depth=depth
                )
            ).encode()
        return picture.of_things(
            self.lineage(kind, name, version=version, direction=direction, depth=depth)
        ).encode()

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
        _bound("depth", depth, MOST_DEPTH)
        _bound("limit", limit, MOST_COLUMN_EDGES)
        start = Ref(kind, name, version)
        with self._catalog.read() as connection:
            return column_rows.walk(connection, start, direction, column=column, depth=depth, limit=limit)

    def record_query(self, made: MadeByQuery) -> None:
        with self._catalog.write() as connection:
            column_rows.record(connection, self._clock.now(), made)

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
        _bound("limit", limit, MOST_ENTRIES)
        with self._catalog.read() as connection:
            return audit.entries(
                connection,
                kind=kind,
                name=name,
                principal=principal,
                action=action,
                before=before,
                limit=limit,
            )

    def grants(self) -> tuple[Grant, ...]:
        with self._catalog.read() as connection:
            return access.grants(connection)

    def grant(self, principal: str, role: Role) -> Grant:
        now = self._clock.now()
        with self._catalog.write(durable=True) as connection:
            given = access.put_grant(connection, now, principal, role)
            audit.record(connection, now, "role.grant", Ref("principal", principal), {"role": role.name})
            return given

    def revoke(self, principal: str) -> None:
        now = self._clock.now()
        with self._catalog.write(durable=True) as connection:
            access.remove_grant(connection, now, principal)
            audit.record(connection, now, "role.revoke", Ref("principal", principal))

    def tokens(self) -> tuple[TokenInfo, ...]:
        with self._catalog.read() as connection:
            return access.tokens(connection)

    def issue_token(
        self, principal: str, scope: Role, *, lifetime_s: float | None = None, purpose: str = ""
    ) -> NewToken:
        now = self._clock.now()
        with self._catalog.write(durable=True) as connection:
            made = access.put_token(connection, now, principal, scope, lifetime_s=lifetime_s, purpose=purpose)
            facts = {"principal": principal, "scope": scope.name, "purpose": purpose}
            audit.record(connection, now, "token.issue", Ref("token", made.info.id), facts)
            return made

    def revoke_token(self, token_id: str) -> None:
        now = self._clock.now()
        with self._catalog.write(durable=True) as connection:
            access.revoke_token(connection, now, token_id)
            audit.record(connection, now, "token.revoke", Ref("token", token_id))

    def verify_token(self, secret: str) -> Identity:
        with self._catalog.read() as connection:
            return access.verify(connection, self._clock.now(), secret)

    def project(self) -> Mapping[str, str]:
        with self._catalog.read() as connection:
            query = sa.select(project_table).order_by(project_table.c.key)
            return {row.key: row.value for row in connection.execute(query)}

    def set_project(self, key: str, value: str) -> None:
        if not key or len(key) > 100 or len(value) > 10_000:
            raise Refused("a project's fact needs a key of 1 to 100 and a value of at most 10,000 characters")
        now = self._clock.now()
        with self._catalog.write() as connection:
            fact = {"key": key, "value": value, "at_us": now, "by": principal()}
            rows.put(connection, project_table, fact)
            audit.record(connection, now, "project.set", Ref("project", key), {"value": value})

    def record_edges(self, edges: Sequence[Edge]) -> None:
        now = self._clock.now()
        with self._catalog.write() as connection:
            lineage.record(connection, [replace(e, at=e.at or now) for e in edges])

    def record(self, action: str, ref: Ref, *, facts: Mapping[str, object] | None = None) -> None:
        with self._catalog.write() as connection:
            audit.record(connection, self._clock.now(), action, ref, facts)


def _bound(name: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise Refused(f"{name} must be from 1 to {most}, not {value}")
