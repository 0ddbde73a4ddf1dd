"""Who did what: an entry is written in the unit of work of the deed, so neither is without the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import sqlalchemy as sa

from fourfold.catalog.tables import audit as table
from fourfold.core import wire
from fourfold.core.catalog import AuditEntry, principal
from fourfold.core.context import Ref
from fourfold.core.times import Instant

_INSERT = table.insert()
_ENTRIES = sa.select(
    *(table.c.sequence, table.c.at_us, table.c.principal, table.c.action),
    *(table.c.kind, table.c.name, table.c.version, table.c.facts),
).order_by(table.c.sequence.desc())
_facts = msgspec.json.Decoder(dict[str, Any]).decode


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
    query = _ENTRIES.limit(limit)
    for column, wanted in (("kind", kind), ("name", name), ("principal", principal), ("action", action)):
        if wanted:
            query = query.where(table.c[column] == wanted)
    if before is not None:
        query = query.where(table.c.sequence < before)
    return tuple(
        AuditEntry(sequence, Instant(at), by, action, Ref(kind, name, version), _facts(facts))
        for sequence, at, by, action, kind, name, version, facts in connection.execute(query)
    )
