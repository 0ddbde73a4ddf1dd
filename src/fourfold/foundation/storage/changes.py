"""What differs between two versions, row by row: DuckDB compares what the two do not share.

Rows are compared as multisets, as DuckDB holds values equal: null with null, NaN with NaN. Memory is
bounded: what does not fit goes to a temporary folder. Of rows with very many columns, DuckDB sees the key
and a number that tells them apart.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from fourfold.core.decide.schemas import free
from fourfold.core.errors import FourfoldError, OutOfSpace, Refused, TooMuch
from fourfold.core.ports.tables import Difference
from fourfold.core.rows import plain, rows_of
from fourfold.core.storage import Row
from fourfold.foundation.storage.query import noted, quoted
from fourfold.foundation.storage.spooled import Spool

MEMORY = "512MB"
BATCH_ROWS = 65_536
WIDE = 500
"""Rows with more columns are told apart by groups of columns."""


class Changes:
    """Two versions compared. Rows are `added` or `removed`; with a key also `before` and `after` a change."""

    def __init__(
        self, connection: Any, schema: pa.Schema, names: Names, key: Sequence[str], spool: Spool | None
    ) -> None:
        self._connection = connection
        self.schema = pa.schema([pa.field(names.change, pa.string()), *schema])
        """What happened to a row, then the table's columns."""
        self._change, self._times, self._row = map(quoted, (names.change, names.times, names.row))
        self._columns = list(map(quoted, schema.names if spool is None else [names.place]))
        self._key = list(map(quoted, key))
        self._spool = spool

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
        shown = self._columns if self._spool is None else [self._row]
        names = ", ".join([self._change, *shown])
        query = f"SELECT {names} FROM compared, LATERAL (SELECT unnest(range({self._times}::BIGINT))) {rest}"  # noqa: S608
        for batch in self._connection.sql(query).to_arrow_reader(BATCH_ROWS):
            if self._spool is None:
                yield batch.cast(self.schema)
                continue
            start = 0
            for rows in self._spool.batches(batch.column(1).to_numpy()):
                words = batch.column(0).slice(start, rows.num_rows).cast(pa.string())
                start += rows.num_rows
                yield pa.RecordBatch.from_arrays([words, *rows.columns], schema=self.schema)


@dataclass(frozen=True, slots=True)
class Names:
    """Columns of our own beside those of the table."""

    change: str
    side: str
    times: str
    row: str
    place: str


@contextmanager
def compared(name: str, found: Difference, key: Sequence[str]) -> Iterator[Changes]:
    """The two sides of a difference, compared within the block; they are read once."""
    import duckdb

    schema = found.added.schema
    names = Names(*(free(schema, word) for word in ("change", "side", "times", "row", "place")))
    side, keys = quoted(names.side), ", ".join(map(quoted, key))
    failed: list[FourfoldError] = []
    with tempfile.TemporaryDirectory(prefix="fourfold-diff-") as folder, duckdb.connect(":memory:") as here:
        here.execute(f"SET memory_limit = '{MEMORY}'")
        here.execute("SET TimeZone = 'UTC'")
        here.execute("SET preserve_insertion_order = false")
        here.execute("SET temp_directory = $folder", {"folder": folder})
        # A changed row is one whose key was on both sides; a null in a key is equal to nothing.
        is_whole = " AND ".join(f"{quoted(column)} IS NOT NULL" for column in key)
        is_pair = (
            f"{is_whole} AND count(*) OVER (PARTITION BY {keys}) > "
            f"abs(sum(sign({side})) OVER (PARTITION BY {keys}))"
            if key
            else "false"
        )
        with _translated(failed):
            if len(schema) > WIDE:
                parts = [noted(each, failed) for each in (found.removed, found.added)]
                spool = Spool(Path(folder), schema, parts)
                told = _numbered(here, spool, names, key)
            else:
                spool = None
                here.register("removed", noted(found.removed, failed))
                here.register("added", noted(found.added, failed))
                here.execute(
                    f"CREATE VIEW sides AS SELECT *, -1 AS {side}, 0 AS {quoted(names.row)} FROM removed "  # noqa: S608
                    "UNION ALL SELECT *, 1, 0 FROM added"
                )
                told = schema.names
            columns, row = ", ".join(map(quoted, told)), quoted(names.row)
            here.execute(
                f"CREATE TABLE net AS SELECT {columns}, sum({side}) AS {side}, min({row}) AS {row} "  # noqa: S608
                f"FROM sides GROUP BY {columns} HAVING sum({side}) <> 0"
            )
            if key:
                _check_key(here, name, key, side)
            here.execute(
                f"CREATE TABLE compared AS SELECT CASE WHEN {is_pair} "  # noqa: S608
                f"THEN CASE WHEN {side} < 0 THEN 'before' ELSE 'after' END "
                f"ELSE CASE WHEN {side} < 0 THEN 'removed' ELSE 'added' END END AS {quoted(names.change)}, "
                f"abs({side}) AS {quoted(names.times)}, {row}, {columns} FROM net"
            )
            here.execute("DROP TABLE net")
            yield Changes(here, schema, names, key, spool)


def _numbered(here: Any, spool: Spool, names: Names, key: Sequence[str]) -> list[str]:
    """Make `sides` of the rows' keys, and of their places in the columns' stead; which columns tell a row."""
    rows = np.arange(spool.rows, dtype=np.int64)
    keys = spool.columns(key)
    own = pa.table({
        names.row: rows,
        names.place: spool.places(here),
        names.side: pa.array(np.where(rows < spool.ends[0], -1, 1), pa.int32()),
    })  # fmt: skip
    here.register("sides", pa.table([*keys.columns, *own.columns], [*keys.column_names, *own.column_names]))
    return [*key, names.place]


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
    except (duckdb.Error, pa.ArrowException, OSError) as error:
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
                "their rows, or single values of them, are too large",
                ways_on=["compare versions that differ less", "or read both with the columns that matter"],
            ) from error
        raise
