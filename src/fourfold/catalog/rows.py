"""Writing rows whose keys may be there already, in one statement on both databases."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

T = TypeVar("T")

CHUNK = 500
"""Values in one statement; both databases take more, but neither gets faster."""


def insert_new(connection: sa.Connection, table: sa.Table, values: Sequence[Mapping[str, Any]]) -> int:
    """Insert rows, leaving those whose key is taken as they are; how many were new."""
    if not values:
        return 0
    count = 0
    for chunk in chunks(values):
        statement = _insert(connection, table).values(list(chunk)).on_conflict_do_nothing()
        # Without the option SQLAlchemy forgets what psycopg counted.
        count += connection.execute(statement.execution_options(preserve_rowcount=True)).rowcount
    return count


def put(connection: sa.Connection, table: sa.Table, value: Mapping[str, Any]) -> None:
    """Insert a row, or set its other columns where its primary key is taken."""
    keys = {column.name for column in table.primary_key}
    statement = _insert(connection, table).values(dict(value))
    rest = {name: statement.excluded[name] for name in value if name not in keys}
    connection.execute(statement.on_conflict_do_update(index_elements=sorted(keys), set_=rest))


def chunks(values: Iterable[T], size: int = CHUNK) -> Iterator[list[T]]:
    """The values in lists of at most `size`."""
    chunk: list[T] = []
    for value in values:
        chunk.append(value)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _insert(connection: sa.Connection, table: sa.Table) -> Any:
    """The dialects' inserts know `ON CONFLICT` and share its spelling, but no base class."""
    return (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(table)
