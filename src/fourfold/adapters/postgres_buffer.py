"""The row buffer in PostgreSQL: shared by all machines of a team, durable as its server is."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fourfold.core.errors import FourfoldError, Missing, OutOfSpace, Refused, TooMuch, Unavailable
from fourfold.core.ports.buffer import NEVER, Addition, Entry, Receipt, Waiting
from fourfold.core.ports.tables import Mark
from fourfold.core.times import Instant

try:
    import psycopg
except ImportError as error:  # pragma: no cover
    raise Missing(
        "a buffer in PostgreSQL needs psycopg", ways_on=["pip install 'fourfold[postgres]'"]
    ) from error

FORMAT = 1
_MAKING = 0x464F5542  # "FOUB": the advisory lock of whoever makes the tables

_TABLES = """
CREATE TABLE buffered_table (
    name text PRIMARY KEY, newest bigint NOT NULL, rows bigint NOT NULL, bytes bigint NOT NULL
);
CREATE TABLE buffered_entry (
    name text, number bigint, rows bigint NOT NULL, key text NOT NULL, at_us bigint NOT NULL,
    by text NOT NULL, step text NOT NULL, data bytea NOT NULL, PRIMARY KEY (name, number)
);
CREATE TABLE buffered_key (
    name text, key text, number bigint NOT NULL, rows bigint NOT NULL, at_us bigint NOT NULL,
    PRIMARY KEY (name, key)
);
CREATE TABLE buffered_format (format integer NOT NULL);
"""
# The row of a table is locked from here to the commit. So additions of a table happen one after another,
# and a number becomes visible only after all below it.
_LOCK = """
INSERT INTO buffered_table VALUES (%s, -1, 0, 0)
ON CONFLICT (name) DO UPDATE SET newest = buffered_table.newest
RETURNING newest, rows, bytes
"""
_ENTRIES = "SELECT number, rows, data, key, at_us, by, step FROM buffered_entry "
_WAITING = """
SELECT name, rows, bytes, newest,
    (SELECT e.at_us FROM buffered_entry e WHERE e.name = t.name ORDER BY e.number LIMIT 1)
FROM buffered_table t ORDER BY name COLLATE "C"
"""
_REMOVE = """
WITH gone AS (
    DELETE FROM buffered_entry WHERE name = %s AND number <= %s RETURNING rows, length(data) AS size
)
SELECT coalesce(sum(rows), 0)::bigint, coalesce(sum(size), 0)::bigint FROM gone
"""


class PostgresBuffer:
    """A buffer in three tables of a database. Connections are opened when needed and kept, a few of them."""

    def __init__(self, url: str, *, most_bytes: int) -> None:
        scheme, _, rest = url.partition("://")
        self._url = f"{scheme.partition('+')[0]}://{rest}"  # SQLAlchemy's address also names the driver
        self._most_bytes = most_bytes
        self._idle: deque[psycopg.Connection[Any]] = deque()
        self._process = os.getpid()
        self._inherited: deque[psycopg.Connection[Any]] = deque()
        self._is_made = False
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<PostgresBuffer {self._url.rpartition('@')[2].partition('?')[0]}>"

    def add(self, additions: Sequence[Addition]) -> tuple[Receipt, ...]:
        with self._connected() as connection, connection.transaction():
            connection.execute("SET LOCAL synchronous_commit = on")
            tables = _locked(connection, additions)
            known = _known(connection, additions)
            adding = sum(
                len(a.data) for a in additions if not a.mark.key or (a.name, a.mark.key) not in known
            )
            if adding:
                self._check_bound(connection, adding)
            receipts: list[Receipt] = []
            entries: list[tuple[object, ...]] = []
            keys: list[tuple[object, ...]] = []
            for addition in additions:
                name, mark, table = addition.name, addition.mark, tables[addition.name]
                first = known.get((name, mark.key)) if mark.key else None
                if first is None:
                    table.add(addition)
                    first = (table.newest, addition.rows)
                    entries.append(
                        (
                            name,
                            table.newest,
                            addition.rows,
                            mark.key,
                            mark.at,
                            mark.by,
                            mark.step,
                            addition.data,
                        )
                    )
                    if mark.key:
                        known[name, mark.key] = first
                        keys.append((name, mark.key, *first, mark.at))
                receipts.append(Receipt(*first, table.rows, table.bytes))
            with connection.cursor() as cursor:
                cursor.executemany(
                    "INSERT INTO buffered_entry (name, number, rows, key, at_us, by, step, data) "
                    "VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
                    entries,
                )
                cursor.executemany("INSERT INTO buffered_key VALUES (%s, %s, %s, %s, %s)", keys)
                cursor.executemany(
                    "UPDATE buffered_table SET newest = %s, rows = %s, bytes = %s WHERE name = %s",
                    [(table.newest, table.rows, table.bytes, name) for name, table in tables.items()],
                )
            return tuple(receipts)

    def _check_bound(self, connection: psycopg.Connection[Any], adding: int) -> None:
        """The bound of the whole buffer; additions of other tables at this moment may pass it by theirs."""
        (total,) = _one(connection, "SELECT coalesce(sum(bytes), 0)::bigint FROM buffered_table")
        if total + adding > self._most_bytes:
            raise TooMuch(
                f"{total} bytes of rows wait in the buffer, and {adding} more would pass its bound of "
                f"{self._most_bytes}; nothing was added",
                ways_on=["flush the tables: fourfold table flush", "or raise buffer.most_bytes"],
                waiting_bytes=total,
                most_bytes=self._most_bytes,
            )

    def after(self, name: str, number: int = -1) -> tuple[Entry, ...]:
        with self._connected() as connection:
            found = connection.execute(
                _ENTRIES + "WHERE name = %s AND number > %s ORDER BY number", (name, number)
            )
            return tuple(_entry(row) for row in found)

    def waiting(self) -> tuple[Waiting, ...]:
        with self._connected() as connection:
            return tuple(Waiting(*row) for row in connection.execute(_WAITING))

    def forget(self, name: str, *, upto: int, keys_before: Instant = NEVER) -> int:
        with self._connected() as connection, connection.transaction():
            locked = "SELECT 1 FROM buffered_table WHERE name = %s FOR UPDATE"
            if connection.execute(locked, (name,)).fetchone() is None:
                return 0
            rows, size = _one(connection, _REMOVE, (name, upto))
            connection.execute(
                "UPDATE buffered_table SET rows = rows - %s, bytes = bytes - %s WHERE name = %s",
                (rows, size, name),
            )
            connection.execute(
                "DELETE FROM buffered_key WHERE name = %s AND at_us < %s AND number <= %s",
                (name, keys_before, upto),
            )
            return int(rows)

    @contextmanager
    def still(self) -> Iterator[None]:
        with self._connected() as connection, connection.transaction():
            connection.execute("LOCK TABLE buffered_table IN EXCLUSIVE MODE")  # which readers do not mind
            yield

    def scrub(self) -> bool:
        with self._connected() as connection:
            connection.execute("VACUUM FULL buffered_entry")
        return True

    def close(self) -> None:
        with self._lock:
            while self._idle:
                connection = self._idle.pop()
                if self._process == os.getpid():
                    connection.close()

    # Connections

    @contextmanager
    def _connected(self) -> Iterator[psycopg.Connection[Any]]:
        """A connection for one thread. One that failed is not kept, nor one of before a fork."""
        try:
            connection = self._take()
            try:
                yield connection
            except BaseException:
                connection.close()
                raise
            with self._lock:
                self._idle.append(connection)
        except psycopg.Error as error:
            raise _ours(error) from error

    def _take(self) -> psycopg.Connection[Any]:
        with self._lock:
            if self._process != os.getpid():
                self._inherited = self._idle  # never closed here: that would end the parent's sessions
                self._idle, self._process = deque(), os.getpid()
            while self._idle:
                connection = self._idle.pop()
                if not connection.closed:
                    return connection
        connection = psycopg.connect(self._url, autocommit=True)
        try:
            if not self._is_made:
                _make_tables(connection)
                self._is_made = True
        except BaseException:
            connection.close()
            raise
        return connection


class _Table:
    """The sums of a table while it is locked."""

    def __init__(self, newest: int, rows: int, size: int) -> None:
        self.newest, self.rows, self.bytes = newest, rows, size

    def add(self, addition: Addition) -> None:
        self.newest = max(self.newest, addition.above) + 1
        self.rows += addition.rows
        self.bytes += len(addition.data)


def _make_tables(connection: psycopg.Connection[Any]) -> None:
    """Make the tables once, whoever comes first; those of a later format are refused."""
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_MAKING,))
        (is_there,) = _one(connection, "SELECT to_regclass('buffered_format') IS NOT NULL")
        if not is_there:
            connection.execute(_TABLES)
            connection.execute("INSERT INTO buffered_format VALUES (%s)", (FORMAT,))
        (found,) = _one(connection, "SELECT format FROM buffered_format")
    if found > FORMAT:
        raise Refused(
            f"the buffer was written by a newer Fourfold (format {found}, ours is {FORMAT})",
            ways_on=["upgrade: pip install -U fourfold"],
        )


def _locked(connection: psycopg.Connection[Any], additions: Sequence[Addition]) -> dict[str, _Table]:
    """The tables of the additions, locked in the order of their names: nobody waits in a circle."""
    names = sorted({addition.name for addition in additions})
    return {name: _Table(*_one(connection, _LOCK, (name,))) for name in names}


def _known(
    connection: psycopg.Connection[Any], additions: Sequence[Addition]
) -> dict[tuple[str, str], tuple[int, int]]:
    """What the keys among the additions were answered with before."""
    keyed = [(a.name, a.mark.key) for a in additions if a.mark.key]
    if not keyed:
        return {}
    found = connection.execute(
        "SELECT name, key, number, rows FROM buffered_key "
        "WHERE (name, key) IN (SELECT * FROM unnest(%s::text[], %s::text[]))",
        ([name for name, _ in keyed], [key for _, key in keyed]),
    )
    return {(name, key): (number, rows) for name, key, number, rows in found}


def _one(connection: psycopg.Connection[Any], statement: Any, values: Sequence[object] = ()) -> Any:
    row = connection.execute(statement, values or None).fetchone()
    assert row is not None, "the statement has a row whatever is there"
    return row


def _entry(row: tuple[int, int, bytes, str, int, str, str]) -> Entry:
    number, rows, data, key, at, by, step = row
    return Entry(number, rows, bytes(data), Mark(key=key, at=Instant(at), by=by, step=step))


def _ours(error: psycopg.Error) -> FourfoldError:
    state = error.sqlstate or ""
    if state == "53100":
        return OutOfSpace(
            "PostgreSQL has no space left for the buffer; nothing was added",
            ways_on=["free some space there and try again"],
        )
    return Unavailable(
        f"the buffer in PostgreSQL does not answer: {str(error).strip() or state}",
        ways_on=["check the catalog's address, and that the server runs"],
    )
