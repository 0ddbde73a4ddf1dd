"""Tags: names that people give to versions, and where each pointed before."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from fourfold.catalog import rows
from fourfold.catalog.tables import tag as table
from fourfold.catalog.tables import tag_move
from fourfold.core.catalog import principal
from fourfold.core.errors import Conflict
from fourfold.core.times import Instant


@dataclass(frozen=True, slots=True)
class Move:
    """A tag was made to point at `target`; `source` is empty for its first move."""

    tag: str
    source: str
    target: str
    at: Instant
    by: str
    why: str


_HERE = (
    (table.c.kind == sa.bindparam("of_kind"))
    & (table.c.name == sa.bindparam("of_name"))
    & (table.c.tag == sa.bindparam("of_tag"))
)
# Built once: building a statement costs more than running it.
_FIND = sa.select(table.c.target, table.c.version).where(_HERE)
_SWAP = table.update().where(_HERE & (table.c.version == sa.bindparam("seen")))
_NOTE = tag_move.insert()


def put(
    connection: sa.Connection, at: Instant, kind: str, name: str, tag: str, target: str, *, why: str = ""
) -> None:
    """Make a tag of a thing point at a version; where it points there already, nothing happens."""
    thing = {"of_kind": kind, "of_name": name, "of_tag": tag}
    row = connection.execute(_FIND, thing).one_or_none()
    if row is not None and row.target == target:
        return
    named = {"kind": kind, "name": name, "tag": tag}
    values = {"target": target, "at_us": at, "by": principal(), "why": why}
    if row is None:
        moved = rows.insert_new(connection, table, [{**named, **values, "version": 1}])
    else:
        swap = {**thing, "seen": row.version, **values, "version": row.version + 1}
        moved = connection.execute(_SWAP, swap).rowcount
    if moved != 1:
        raise Conflict(f"tag '{tag}' of {kind} '{name}' was moved by somebody else just now")
    connection.execute(_NOTE, {**named, **values, "source": "" if row is None else row.target})


def targets(connection: sa.Connection, kind: str, name: str) -> dict[str, str]:
    """Tag to version, for one thing, sorted by tag."""
    query = (
        sa.select(table.c.tag, table.c.target)
        .where(table.c.kind == kind, table.c.name == name)
        .order_by(table.c.tag)
    )
    return {row.tag: row.target for row in connection.execute(query)}


def moves(connection: sa.Connection, kind: str, name: str, *, limit: int = 1000) -> tuple[Move, ...]:
    """Where the tags of a thing pointed, newest first."""
    query = (
        sa.select(tag_move)
        .where(tag_move.c.kind == kind, tag_move.c.name == name)
        .order_by(tag_move.c.sequence.desc())
        .limit(limit)
    )
    return tuple(
        Move(row.tag, row.source, row.target, Instant(row.at_us), row.by, row.why)
        for row in connection.execute(query)
    )
