"""The rows of a table that wait in the buffer, decoded once and kept for the next reader."""

from __future__ import annotations

import threading
from bisect import bisect_right
from contextlib import suppress

import pyarrow as pa

from fourfold.core.decide import schemas
from fourfold.core.errors import Corrupted, Refused
from fourfold.core.ports.buffer import Entry, RowBuffer


def encode(rows: pa.Table) -> bytes:
    """Rows as an Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows.combine_chunks())
    return bytes(sink.getvalue())


def decode(name: str, entry: Entry) -> pa.Table:
    """The rows of an entry."""
    try:
        return pa.ipc.open_stream(entry.data).read_all()
    except pa.ArrowException as error:
        raise Corrupted(
            f"rows that wait for table '{name}' cannot be read (number {entry.number}): {error}",
            table=name,
            number=entry.number,
        ) from error


def fit_later(name: str, rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Rows that fitted the table once, in its present columns: new ones are null, numbers may have widened.

    Refused where a column is gone or has another type.
    """
    if rows.schema.equals(schema):
        return rows
    there = frozenset(rows.schema.names)
    new = [field for field in schema if field.name not in there]
    if new:  # at once: to append thousands of columns one by one copies the others as often
        nulls = [pa.nulls(len(rows), field.type) for field in new]
        rows = pa.table([*rows.columns, *nulls], schema=pa.schema([*rows.schema, *new]))
    return schemas.fit(name, rows, schema)


class Tail:
    """What waits of one table, in the columns that the table has now. Used under its `lock`.

    Entries never change and come by rising number, so each is fetched and decoded once. Small pieces are
    put together as they come: a table of thousands of chunks is slow to filter.
    """

    def __init__(self, name: str) -> None:
        self.lock = threading.Lock()
        self._name = name
        self.begin_anew(pa.schema([]))

    def begin_anew(self, schema: pa.Schema) -> None:
        """Forget what was decoded: the table has other columns now."""
        self.schema = schema
        self._seen = -1
        self._numbers: list[int] = []
        self._ends: list[int] = []
        """How many rows there are up to and with each number."""
        self._pieces: list[pa.Table] = []

    def read_on(self, buffer: RowBuffer) -> None:
        """Fetch what came since. What does not fit the columns is left out; a flush sets it aside."""
        fitting: list[pa.Table] = []
        end = self._ends[-1] if self._ends else 0
        for entry in buffer.after(self._name, self._seen):
            rows = decode(self._name, entry)
            self._seen = entry.number
            with suppress(Refused):
                rows = fit_later(self._name, rows, self.schema)
                fitting.append(rows)
                end += len(rows)
                self._numbers.append(entry.number)
                self._ends.append(end)
        if fitting:
            self._pieces.append(pa.concat_tables(fitting).combine_chunks())
        while len(self._pieces) > 1 and len(self._pieces[-2]) <= 2 * len(self._pieces[-1]):
            self._pieces[-2:] = [pa.concat_tables(self._pieces[-2:]).combine_chunks()]

    def rows_above(self, number: int) -> pa.Table:
        """The rows with greater numbers; those up to it are let go, because they are in the table."""
        gone = bisect_right(self._numbers, number)
        if gone == len(self._numbers):
            self._numbers, self._ends, self._pieces = [], [], []
            return self.schema.empty_table()
        rows = pa.concat_tables(self._pieces)
        if gone:
            skipped = self._ends[gone - 1]
            rows = rows.slice(skipped)
            self._pieces = [rows]
            self._numbers = self._numbers[gone:]
            self._ends = [end - skipped for end in self._ends[gone:]]
        return rows
