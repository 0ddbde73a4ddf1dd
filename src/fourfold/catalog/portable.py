"""The catalog's rows as lines of JSON that either database gives and takes: what a backup holds of it.

A part is one table: a line with its name and columns, then a line for each row, by ascending key. Tables are
read from the database itself rather than from the rooms' code, so that the rows of any release can be given
and taken. Text is text, a whole number a number; bytes are text where they are UTF-8, else a list of their
base64; floats that JSON lacks are `"NaN"`, `"Infinity"`, `"-Infinity"`.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec
import sqlalchemy as sa

from fourfold.catalog import rows, upgrade
from fourfold.catalog.database import Catalog
from fourfold.catalog.rows import chunks
from fourfold.core import wire
from fourfold.core.errors import Corrupted, Refused

CHUNK_ROWS = 500
VERSIONS = "alembic_version"
"""Alembic's own table: which migrations a database has seen."""

_encode = msgspec.json.Encoder().encode


class _Head(msgspec.Struct):
    table: str
    columns: list[str]


def tables(connection: sa.Connection) -> list[sa.Table]:
    """All tables of the catalog, those that others point at first; a database may hold others beside them."""
    return [table for table in _reflected(connection).sorted_tables if table.name != VERSIONS]


def _reflected(connection: sa.Connection) -> sa.MetaData:
    ours = upgrade.table_names() | {VERSIONS}
    found = sa.MetaData()
    found.reflect(connection, only=lambda name, _: name in ours)
    return found


def give(connection: sa.Connection, table: sa.Table) -> Iterator[bytes]:
    """A table as a part, some hundred lines at a time; each piece begins and ends with a line."""
    yield _encode(_Head(str(table.name), [str(column.name) for column in table.columns])) + b"\n"
    out = [_writer(column) for column in table.columns]
    query = sa.select(table).order_by(*(_in_bytes_order(connection, column) for column in table.primary_key))
    for some in connection.execute(query.execution_options(yield_per=CHUNK_ROWS)).partitions():
        yield b"".join(
            _encode([write(value) for write, value in zip(out, row, strict=True)]) + b"\n" for row in some
        )


def take(catalog: Catalog, revision: str, parts: Iterable[Iterable[bytes]]) -> dict[str, int]:
    """Make an empty database hold these parts, written at `revision`, brought up to date; rows by table.

    One transaction: all of it is there, or nothing. A part is the lines of one table.
    """
    with upgrade.alone(catalog) as connection:
        _check(connection, revision)
        if upgrade.revision(connection) != revision:
            _drop_all(connection)
            upgrade.migrate(connection, revision)
        known = {table.name: table for table in tables(connection)}
        taken = dict(_take_part(connection, known, part) for part in parts)
        if connection.dialect.name == "postgresql":
            _count_on(connection, known.values())
        if revision != upgrade.HEAD:
            upgrade.migrate(connection)
        return taken


def add(catalog: Catalog, lines: Iterable[bytes], *, changed: Mapping[str, Any]) -> int:
    """Add the rows of a part whose keys are not there yet, with some columns set anew; how many were new."""
    with catalog.write(durable=True) as connection:
        table, read = _read_part({each.name: each for each in tables(connection)}, lines)
        return sum(
            rows.insert_new(connection, table, [value | dict(changed) for value in values]) for values in read
        )


def check_takes(catalog: Catalog, revision: str) -> None:
    """Refuse what `take` would refuse: rows of a newer release, or a database that is not empty."""
    with catalog.read() as connection:
        _check(connection, revision)


def is_empty(catalog: Catalog) -> bool:
    """Whether no table of ours has a row."""
    with catalog.read() as connection:
        return not _full(connection)


def _check(connection: sa.Connection, revision: str) -> None:
    if revision > upgrade.HEAD:
        raise Refused(
            f"these rows are of a newer Fourfold (migration {revision}; this one knows {upgrade.HEAD})",
            ways_on=["upgrade: pip install -U fourfold"],
        )
    if full := _full(connection):
        raise Refused(
            f"the catalog is not empty: there are rows in {full}",
            ways_on=["name another database, or another project folder"],
        )


def _take_part(
    connection: sa.Connection, known: dict[str, sa.Table], lines: Iterable[bytes]
) -> tuple[str, int]:
    table, read = _read_part(known, lines)
    insert = table.insert()
    count = 0
    for values in read:
        try:
            connection.execute(insert, values)
        except Refused as error:  # the other database kept what this one does not
            raise Refused(
                f"rows {count} to {count + len(values)} of {table.name}: {error.message}",
                ways_on=error.ways_on,
            ) from error
        count += len(values)
    return table.name, count


def _read_part(
    known: Mapping[str, sa.Table], lines: Iterable[bytes]
) -> tuple[sa.Table, Iterator[list[dict[str, Any]]]]:
    """The table of a part, and its rows, some hundred at a time."""
    lines = iter(lines)
    try:
        head = msgspec.json.decode(next(lines), type=_Head)
        table = known[head.table]
        columns = [table.columns[name] for name in head.columns]
    except (StopIteration, KeyError, *wire.UNREADABLE) as error:
        raise Corrupted("this is no part of a catalog, or of another migration than it says") from error
    into = [_reader(column) for column in columns]

    def read() -> Iterator[list[dict[str, Any]]]:
        count = 0
        for chunk in chunks(lines, CHUNK_ROWS):
            try:
                yield [
                    {
                        column.name: read_one(value)
                        for column, read_one, value in zip(
                            columns, into, msgspec.json.decode(line), strict=True
                        )
                    }
                    for line in chunk
                ]
            except (ValueError, TypeError, *wire.UNREADABLE) as error:
                what = f"rows {count} to {count + len(chunk)} of {table.name}"
                raise Corrupted(f"{what} cannot be read") from error
            count += len(chunk)

    return table, read()


def _full(connection: sa.Connection) -> str:
    """A table that has rows; empty when none has."""
    for table in tables(connection):
        if connection.execute(sa.select(sa.literal(1)).select_from(table).limit(1)).first() is not None:
            return str(table.name)
    return ""


def _drop_all(connection: sa.Connection) -> None:
    """Empty tables of another release may stand there: whoever opened the project made them."""
    _reflected(connection).drop_all(connection)


def _count_on(connection: sa.Connection, made: Iterable[sa.Table]) -> None:
    """Let PostgreSQL's counting keys go on after the greatest that is taken; SQLite looks by itself."""
    for table in made:
        for column in table.primary_key:
            if not isinstance(column.type, sa.Integer):
                continue
            quoted = connection.dialect.identifier_preparer.quote(table.name)
            sequence = connection.execute(
                sa.select(sa.func.pg_get_serial_sequence(quoted, column.name))
            ).scalar()
            greatest = connection.execute(sa.select(sa.func.max(column))).scalar()
            if sequence and greatest is not None:
                connection.execute(sa.select(sa.func.setval(sequence, greatest)))


def _in_bytes_order(connection: sa.Connection, column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    """Text sorted as SQLite does, whatever language PostgreSQL was told of."""
    is_text = isinstance(column.type, sa.String) and connection.dialect.name == "postgresql"
    return column.collate("C") if is_text else column


def _writer(column: sa.Column[Any]) -> Callable[[Any], Any]:
    match column.type:
        case sa.LargeBinary():
            return _bytes_out
        case sa.Float():
            return lambda value: None if value is None else wire.number_out(value)
        case _:
            return lambda value: value


def _reader(column: sa.Column[Any]) -> Callable[[Any], Any]:
    match column.type:
        case sa.LargeBinary():
            return _bytes_in
        case sa.Float():
            return lambda value: None if value is None else wire.number(value)
        case _:
            return lambda value: value


def _bytes_out(value: bytes | None) -> str | list[str] | None:
    if value is None:
        return None
    try:
        return bytes(value).decode()
    except UnicodeDecodeError:
        return [base64.b64encode(value).decode()]


def _bytes_in(value: str | list[str] | None) -> bytes | None:
    if value is None:
        return None
    return value.encode() if isinstance(value, str) else base64.b64decode(value[0], validate=True)
