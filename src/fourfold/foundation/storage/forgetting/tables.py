"""What the catalog keeps of rows that were forgotten: that they were, never whose."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable

import sqlalchemy as sa

from fourfold.catalog import audit, lineage, rows
from fourfold.catalog.database import Catalog, metadata
from fourfold.core import wire
from fourfold.core.context import Ref
from fourfold.core.forgetting import TableForgotten, Tombstone
from fourfold.core.times import Instant

forgotten_table = sa.Table(
    "storage_forgotten",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("keys", sa.Text, nullable=False),
    sa.Column("is_done", sa.Integer, nullable=False),
    sa.Column("told", sa.LargeBinary, nullable=False),
    sa.Column("format", sa.Integer, nullable=False, server_default="1"),
    sa.Index(None, "name", "at_us"),
)
secret_table = sa.Table(
    "storage_secret",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
FORGETTING = "forgetting"
"""The secret without which a tombstone's digests say nothing. It goes with the catalog's backups, so that a
person can be known again in an older state."""


class ForgottenRecords:
    """Rows about what was forgotten; each call is one unit of work."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def secret(self) -> bytes:
        """The project's secret, made when it is first needed."""
        query = sa.select(secret_table.c.value).where(secret_table.c.name == FORGETTING)
        with self._catalog.read() as connection:
            found = connection.execute(query).scalar()
        if found is None:
            with self._catalog.write(durable=True) as connection:
                fresh = {"name": FORGETTING, "value": secrets.token_hex(32)}
                rows.insert_new(connection, secret_table, [fresh])
                found = connection.execute(query).scalar_one()
        return bytes.fromhex(found)

    def begin(self, tombstone: Tombstone) -> None:
        """Keep that something is about to be forgotten, before anything is."""
        with self._catalog.write(durable=True) as connection:
            rows.put(connection, forgotten_table, _row(tombstone))
            facts = {"forgetting": tombstone.id, "columns": _columns(tombstone), "why": tombstone.why}
            audit.record(connection, tombstone.at, "table.forget", Ref("table", tombstone.table), facts)

    def finish(self, tombstone: Tombstone, at: Instant) -> None:
        """Keep that it is done, and what it took."""
        told = tombstone.told
        facts = {
            "forgetting": tombstone.id,
            "versions": len(told.versions),
            "files": told.file_count,
            "kept_rows": told.kept_rows,
        }
        with self._catalog.write(durable=True) as connection:
            rows.put(connection, forgotten_table, _row(tombstone))
            audit.record(connection, at, "table.forgotten", Ref("table", tombstone.table), facts)

    def all(self, name: str | None, *, limit: int) -> tuple[Tombstone, ...]:
        """A table's tombstones (all, if none is named), newest first."""
        kept = forgotten_table.c
        query = sa.select(forgotten_table).order_by(kept.at_us.desc(), kept.id.desc()).limit(limit)
        query = query if name is None else query.where(kept.name == name)
        with self._catalog.read() as connection:
            return tuple(_tombstone(row) for row in connection.execute(query))

    def onward(self, starts: Iterable[Ref], *, depth: int, limit: int) -> tuple[dict[Ref, Ref], bool]:
        """What lineage tells was made from these, each with the one of them that it leads back to."""
        with self._catalog.read() as connection:
            return lineage.onward(connection, starts, depth=depth, limit=limit)


def _row(tombstone: Tombstone) -> dict[str, object]:
    keys = [tombstone.columns, tombstone.digests]
    return {
        "id": tombstone.id,
        "name": tombstone.table,
        "at_us": tombstone.at,
        "by": tombstone.by,
        "why": tombstone.why,
        "keys": json.dumps(keys),
        "is_done": int(tombstone.is_done),
        "told": wire.encode(tombstone.told),
    }


def _tombstone(row: sa.Row[tuple[object, ...]]) -> Tombstone:
    columns, digests = json.loads(row.keys)
    return Tombstone(
        id=row.id,
        table=row.name,
        at=Instant(row.at_us),
        by=row.by,
        why=row.why,
        columns=tuple(map(tuple, columns)),
        digests=tuple(digests),
        is_done=bool(row.is_done),
        told=wire.decode(row.told, TableForgotten, what="kept word of what was forgotten"),
    )


def _columns(tombstone: Tombstone) -> list[str]:
    return sorted({column for columns in tombstone.columns for column in columns})
