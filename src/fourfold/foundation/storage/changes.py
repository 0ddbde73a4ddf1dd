"""What differs between two versions, row by row: DuckDB compares what the two do not share.

Rows are compared as multisets, as DuckDB holds values equal: null with null, NaN with NaN. Memory is
bounded: what does not fit goes to a temporary folder.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from fourfold.core.errors import FourfoldError, OutOfSpace, Refused, TooMuch
from fourfold.core.ports.tables import Difference
from fourfold.core.rows import plain, rows_of
from fourfold.core.storage import Row
from fourfold.foundation.storage.query import noted, quoted

MEMORY = "512MB"
BATCH_ROWS = 65_536


class Changes:
    """Two versions compared. Rows are `added` or `removed`; with a key also `before` and `after` a change."""

    def __init__(self, connection: Any, schema: pa.Schema, key: Sequence[str], times: str) -> None:
        self._connection = connection
        self.schema = schema
        """What happened to a row, then the table's columns."""
        self._change, *self._columns = map(quoted, schema.names)
        self._key = list(map(quoted, key))
        self._times = quoted(times)

    def counts(self) -> dict[str, int]:
        """How many rows of each kind."""
        found = self._connection.execute(
            f"SELECT {self._change}, sum({self._times}) FROM compared GROUP BY ALL"  # noqa: S608 - quoted
        ).fetchall()
        return {"added": 0, "removed": 0, "before": 0, "after": 0} | {word: int(n) for word, n in found}

    def some(self, word: str, limit: int) -> list[Row]:
        """A few rows of one kind, the same each time."""
        order = ", ".join([*self._key, *self._columns])
        rest = f"WHERE {self._change} = '{word}' ORDER BY {order} LIMIT {limit}"
        rows = [row for batch in self._batches(rest) for row in rows_of(batch)]
        return [{name: plain(row[name]) for name in self.schema.names[1:]} for row in rows]

    def stream(self) -> Iterator[pa.RecordBatch]:
        """Every row; those before and after a change follow one another."""
        order = ", ".join([*self._key, f"{self._change} DESC"])
        return self._batches(f"ORDER BY {order}" if self._key else "")

    def _batches(self, rest: str) -> Iterator[pa.RecordBatch]:
        names = ", ".join([self._change, *self._columns])
        query = f"SELECT {names} FROM compared, LATERAL (SELECT unnest(range({self._times}::BIGINT))) {rest}"  # noqa: S608
        for batch in self._connection.sql(query).to_arrow_reader(BATCH_ROWS):
            yield batch.cast(self.schema)


@contextmanager
def compared(name: str, found: Difference, key: Sequence[str]) -> Iterator[Changes]:
    """The two sides of a difference, compared within the block; they are read once."""
    import duckdb

    schema = found.added.schema
    change, side, times = free(schema, "change"), free(schema, "side"), free(schema, "times")
    columns, keys = ", ".join(map(quoted, schema.names)), ", ".join(map(quoted, key))
    failed: list[FourfoldError] = []
    with tempfile.TemporaryDirectory(prefix="fourfold-diff-") as folder, duckdb.connect(":memory:") as here:
        here.execute(f"SET memory_limit = '{MEMORY}'")
        here.execute("SET TimeZone = 'UTC'")
        here.execute("SET preserve_insertion_order = false")
        here.execute("SET temp_directory = $folder", {"folder": folder})
        here.register("removed", noted(found.removed, failed))
        here.register("added", noted(found.added, failed))
        # A changed row is one whose key was on both sides; a null in a key is equal to nothing.
        is_whole = " AND ".join(f"{quoted(column)} IS NOT NULL" for column in key)
        is_pair = (
            f"{is_whole} AND count(*) OVER (PARTITION BY {keys}) > "
            f"abs(sum(sign({quoted(side)})) OVER (PARTITION BY {keys}))"
            if key
            else "false"
        )
        with _translated(failed):
            here.execute(
                f"CREATE TABLE net AS SELECT {columns}, sum({quoted(side)}) AS {quoted(side)} FROM "  # noqa: S608
                f"(SELECT *, -1 AS {quoted(side)} FROM removed UNION ALL SELECT *, 1 FROM added) "
                f"GROUP BY {columns} HAVING sum({quoted(side)}) <> 0"
            )
            if key:
                _check_key(here, name, key, quoted(side))
            here.execute(
                f"CREATE TABLE compared AS SELECT CASE WHEN {is_pair} "  # noqa: S608
                f"THEN CASE WHEN {quoted(side)} < 0 THEN 'before' ELSE 'after' END "
                f"ELSE CASE WHEN {quoted(side)} < 0 THEN 'removed' ELSE 'added' END END AS {quoted(change)}, "
                f"abs({quoted(side)}) AS {quoted(times)}, {columns} FROM net"
            )
            here.execute("DROP TABLE net")
            yield Changes(here, pa.schema([pa.field(change, pa.string()), *schema]), key, times)


def free(schema: pa.Schema, wanted: str) -> str:
    """A name that no column has."""
    taken = {column.lower() for column in schema.names}
    while wanted in taken:
        wanted += "_"
    return wanted


def _check_key(here: Any, name: str, key: Sequence[str], side: str) -> None:
    keys = ", ".join(map(quoted, key))
    is_whole = " AND ".join(f"{quoted(column)} IS NOT NULL" for column in key)
    twice = here.execute(
        f"SELECT {keys}, sum(abs({side})) FROM net WHERE {is_whole} "  # noqa: S608 - names are quoted
        f"GROUP BY {keys}, sign({side}) HAVING sum(abs({side})) > 1 LIMIT 1"
    ).fetchone()
    if twice is not None:
        *values, count = twice
        told = ", ".join(f"{column} = {value!r}" for column, value in zip(key, values, strict=True))
        raise Refused(
            f"table '{name}': {int(count)} rows that differ have the key {told}, so they cannot be matched",
            ways_on=["give more columns as key, or none: then a changed row is one removed and one added"],
            table=name,
        )


@contextmanager
def _translated(failed: list[FourfoldError]) -> Iterator[None]:
    import duckdb

    try:
        yield
    except (duckdb.Error, pa.ArrowException) as error:
        if failed:
            raise failed[0] from error
        if "No space left" in str(error) or "max_temp_directory_size" in str(error):
            raise OutOfSpace(
                "no space left to compare two versions; nothing was changed",
                ways_on=[f"free space under {tempfile.gettempdir()}"],
            ) from error
        if isinstance(error, duckdb.OutOfMemoryException):
            raise TooMuch(
                f"what two versions differ in does not fit into the {MEMORY} that a comparison takes: "
                "rows are compared whole, and these have very many columns",
                ways_on=["compare versions that differ less", "or read both with the columns that matter"],
            ) from error
        raise
