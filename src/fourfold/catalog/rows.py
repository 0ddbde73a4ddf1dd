"""Writing rows whose keys may be there already, in one statement on both databases."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
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
        statement = _insert(connection.dialect.name, table).values(list(chunk)).on_conflict_do_nothing()
        # Without the option SQLAlchemy forgets what psycopg counted.
        count += connection.execute(statement.execution_options(preserve_rowcount=True)).rowcount
    return count


def put(connection: sa.Connection, table: sa.Table, value: Mapping[str, Any]) -> None:
    """Insert a row, or set its other columns where its primary key is taken."""
    connection.execute(_upsert(connection.dialect.name, table, tuple(value)), dict(value))


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


@cache
def _upsert(dialect: str, table: sa.Table, columns: tuple[str, ...]) -> Any:
    """Built once for the columns given: building costs more than running it."""
    keys = {column.name for column in table.primary_key}
    statement = _insert(dialect, table)
    rest = {name: statement.excluded[name] for name in columns if name not in keys}
    return statement.on_conflict_do_update(index_elements=sorted(keys), set_=rest)


def _insert(dialect: str, table: sa.Table) -> Any:
    """The dialects' inserts know `ON CONFLICT` and share its spelling, but no base class."""
    return (sqlite if dialect == "sqlite" else postgresql).insert(table)
