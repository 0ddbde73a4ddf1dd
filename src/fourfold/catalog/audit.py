"""Who did what: an entry is written in the unit of work of the deed, so neither is without the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from fourfold.catalog.tables import audit as table
from fourfold.core import wire
from fourfold.core.catalog import AuditEntry, principal
from fourfold.core.context import Ref
from fourfold.core.times import Instant

_INSERT = table.insert()


def record(
    connection: sa.Connection,
    at: Instant,
    action: str,
    ref: Ref,
    facts: Mapping[str, Any] | None = None,
    *,
    by: str | None = None,
) -> None:
    """Add an entry. `by` is whoever acts now, unless somebody else is named."""
    connection.execute(
        _INSERT,
        {
            "at_us": at,
            "principal": principal() if by is None else by,
            "action": action,
            "kind": ref.kind,
            "name": ref.name,
            "version": ref.version,
            "facts": wire.encode(facts or {}),
        },
    )


def entries(
    connection: sa.Connection,
    *,
    kind: str = "",
    name: str = "",
    principal: str = "",
    action: str = "",
    before: int | None = None,
    limit: int = 100,
) -> tuple[AuditEntry, ...]:
    """Entries that match all that is given, newest first."""
    query = sa.select(table).order_by(table.c.sequence.desc()).limit(limit)
    for column, wanted in (("kind", kind), ("name", name), ("principal", principal), ("action", action)):
        if wanted:
            query = query.where(table.c[column] == wanted)
    if before is not None:
        query = query.where(table.c.sequence < before)
    return tuple(
        AuditEntry(
            sequence=row.sequence,
            at=Instant(row.at_us),
            principal=row.principal,
            action=row.action,
            ref=Ref(row.kind, row.name, row.version),
            facts=wire.decode(row.facts, dict[str, Any], what="audit facts"),
        )
        for row in connection.execute(query)
    )
