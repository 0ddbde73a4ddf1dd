"""Writing rows whose keys may be there already, in one statement on both databases."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

T = TypeVar("T")

CHUNK = 500
"""Values in one statement: databases bound them, and more makes neither faster."""


def insert_new(connection: sa.Connection, table: sa.Table, values: Sequence[Mapping[str, Any]]) -> int:
    """Insert rows (all with the same columns), leaving those whose key is taken; how many were new."""
    if not values:
        return 0
    statement = _insert_missing(connection.dialect.name, table)
    return connection.execute(statement, [dict(value) for value in values]).rowcount


def put(connection: sa.Connection, table: sa.Table, value: Mapping[str, Any]) -> None:
    """Insert a row, or set its other columns where its primary key is taken."""
    connection.execute(_upsert(connection.dialect.name, table, tuple(value)), dict(value))


class Prepared:
    """A statement that is run often: compiled once, and handed to SQLite's driver as it is.

    Building, caching and executing it through SQLAlchemy takes three times as long as SQLite does. Every
    column that `execute` gives must be a `bindparam` of the statement.
    """

    def __init__(self, statement: Any) -> None:
        self._statement = statement
        self._text = ""
        self._order: Sequence[str] | None = None
        self._fixed: Mapping[str, Any] = {}

    def execute(self, connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> int:
        """Run it for each row; how many rows it met in all (of several rows, as the driver counts)."""
        if not rows:
            return 0
        self._compile(connection, rows[0])
        if self._fixed:
            rows = [{**self._fixed, **row} for row in rows]
        if self._order is None:
            return connection.exec_driver_sql(self._text, rows if len(rows) > 1 else rows[0]).rowcount
        order = self._order
        values = [tuple([row[name] for name in order]) for row in rows]
        cursor = connection.connection.cursor()
        try:
            cursor.executemany(self._text, values)
            return int(cursor.rowcount)
        except sqlite3.Error:
            return connection.exec_driver_sql(self._text, values).rowcount  # fails again, in our own words
        finally:
            cursor.close()

    def scalar(self, connection: sa.Connection) -> Any:
        """The first value of the first row of a query without parameters; `None` when there is no row."""
        self._compile(connection, {})
        if self._order is None:
            return connection.exec_driver_sql(self._text, dict(self._fixed)).scalar()
        values = tuple([self._fixed[name] for name in self._order])
        cursor = connection.connection.cursor()
        try:
            row = cursor.execute(self._text, values).fetchone()
            return None if row is None else row[0]
        except sqlite3.Error:
            return connection.exec_driver_sql(self._text, values).scalar()
        finally:
            cursor.close()

    def _compile(self, connection: sa.Connection, row: Mapping[str, Any]) -> None:
        if not self._text:
            compiled = self._statement.compile(dialect=connection.dialect)
            self._order, self._text = compiled.positiontup, str(compiled)
            self._fixed = {name: value for name, value in compiled.params.items() if name not in row}


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
def _insert_missing(dialect: str, table: sa.Table) -> Any:
    """Without the option SQLAlchemy forgets what psycopg counted."""
    return _insert(dialect, table).on_conflict_do_nothing().execution_options(preserve_rowcount=True)


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
