"""Which blobs the project's rows cite: what must be kept, found without asking any room.

The database itself is asked for its tables, so nothing depends on which rooms this process has loaded, or
on a list that somebody must keep. Any text or bytes that hold a digest count as a citation: too much is
kept rather than too little. A column named `manifest`, or `..._manifest`, cites a blob that itself names
blobs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from fourfold.core.storage import Digest

HISTORY = frozenset(
    {"catalog_audit", "catalog_node", "catalog_tag_move", "storage_sha256", "alembic_version"}
)
"""Tables that tell what once was, or what is true of bytes wherever they are. They keep no blob."""
DIGEST = re.compile(r"blake3:[0-9a-f]{64}")
PAGE = 1000

_BYTES = re.compile(DIGEST.pattern.encode())
_PLAIN = (sa.Integer, sa.Numeric, sa.Boolean, sa.Date, sa.DateTime, sa.Time, sa.Interval, sa.Uuid)
"""Types whose values hold no digest."""


@dataclass(frozen=True, slots=True)
class Citation:
    """A digest, and the row that cites it."""

    digest: Digest
    by: str
    is_manifest: bool = False


def hold_still(connection: sa.Connection) -> None:
    """Let all further reads of this unit see one state: a citation that moves from one table to another
    while both are read could be missed in both. On SQLite they do so anyway."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")


def citations(connection: sa.Connection) -> Iterator[Citation]:
    """Every digest in every row but those of `HISTORY`, in bounded memory."""
    inspector = sa.inspect(connection)
    for name in sorted(set(inspector.get_table_names()) - HISTORY):
        described = inspector.get_columns(name)
        columns = [sa.column(each["name"], each["type"]) for each in described]
        holders = [column for column in columns if not isinstance(column.type, _PLAIN)]
        if not holders:
            continue
        keys: list[sa.ColumnClause[Any]] = [
            sa.column(key) for key in inspector.get_pk_constraint(name)["constrained_columns"]
        ]
        held = [_as_held(column) for column in holders]
        query = (
            sa.select(*keys, *held)
            .select_from(sa.table(name))
            .where(sa.or_(*(_holds_one(connection, column) for column in held)))
        )
        for row in connection.execution_options(yield_per=PAGE).execute(query):
            by = " ".join([name, *(f"{k.name}={v}" for k, v in zip(keys, row, strict=False))])
            for column, value in zip(holders, row[len(keys) :], strict=True):
                for digest in _digests(value):
                    yield Citation(digest, by, column.name.endswith("manifest"))


def _as_held(column: sa.ColumnClause[Any]) -> sa.ColumnElement[Any]:
    """Bytes as bytes, all else as text."""
    is_plain = isinstance(column.type, sa.LargeBinary | sa.String)
    return column if is_plain else sa.cast(column, sa.Text)


def _holds_one(connection: sa.Connection, column: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
    is_bytes = isinstance(column.type, sa.LargeBinary)
    if connection.dialect.name == "sqlite":
        return sa.func.instr(column, sa.literal_column("x'626c616b65333a'" if is_bytes else "'blake3:'")) > 0
    mark: sa.ColumnClause[Any] = sa.literal_column("'blake3:'::bytea" if is_bytes else "'blake3:'")
    return sa.func.position(mark.op("IN")(column)) > 0


def _digests(value: str | bytes | None) -> Iterator[Digest]:
    if isinstance(value, str):
        yield from map(Digest, DIGEST.findall(value))
    elif value is not None:
        yield from (Digest(found.decode()) for found in _BYTES.findall(value))
