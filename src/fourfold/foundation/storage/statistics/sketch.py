"""A whole table's figures: one pass over its batches, merged with those of other parts, kept as bytes."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import datasketches
import msgspec
import pyarrow as pa
import pyarrow.ipc

from fourfold.core import wire
from fourfold.core.errors import Corrupted
from fourfold.core.statistics import ColumnStatistics, TableStatistics
from fourfold.foundation.storage.statistics.column import KLL_K, ColumnSketch, Kind, Stored, kind_of

FORMAT = 1
MOST_ROWS = 65_536
"""Rows counted at once: what numpy makes of them stays in the processor's cache."""
LEAST_ROWS = 8_192
"""Smaller batches are put together first: a call for each column costs more than its few rows."""


@dataclass(frozen=True, slots=True)
class _Kept:
    rows: int
    schema: bytes
    columns: tuple[Stored, ...]
    format: int = FORMAT


class TableSketch:
    """Figures of all columns. It takes some 30 kB of memory for each column, however many rows."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._rows = 0
        self._columns = [ColumnSketch(field.name, field.type) for field in schema]
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_rows = 0

    @classmethod
    def of(cls, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> TableSketch:
        """The figures of a whole stream."""
        sketch = cls(schema)
        for batch in batches:
            sketch.see(batch)
        return sketch

    @property
    def rows(self) -> int:
        return self._rows + self._waiting_rows

    def see(self, batch: pa.RecordBatch) -> None:
        """Count a batch; its columns are found by name."""
        self._waiting.append(batch.select(self._schema.names))
        self._waiting_rows += batch.num_rows
        if self._waiting_rows >= LEAST_ROWS:
            self._count_waiting()

    def merge(self, later: TableSketch) -> bool:
        """Count what the later part counted too; `False`, and nothing done, where the two do not go together.

        They do when the later part has all columns, of the same kind; rows from before a column was added
        count as null there.
        """
        self._count_waiting()
        later._count_waiting()
        mine = {column.facts.name: column for column in self._columns}
        names = set(later._schema.names)
        if not names.issuperset(mine) or not all(
            _go_together(mine[field.name].type, field.type) for field in later._schema if field.name in mine
        ):
            return False
        columns = []
        for part in later._columns:
            column = mine.get(part.facts.name)
            if column is None:
                column = ColumnSketch(part.facts.name, part.type)
                column.add_nulls(self._rows)
            column.merge(part)
            column.become(part.type)
            columns.append(column)
        self._columns, self._schema = columns, later._schema
        self._rows += later._rows
        return True

    def dump(self) -> bytes:
        """The figures as bytes, for `load`."""
        self._count_waiting()
        schema = self._schema.serialize().to_pybytes()
        kept = _Kept(self._rows, schema, tuple(column.dump() for column in self._columns))
        return zlib.compress(msgspec.msgpack.encode(kept), level=1)

    @classmethod
    def load(cls, data: bytes) -> TableSketch:
        """The figures from bytes."""
        try:
            kept = msgspec.msgpack.decode(zlib.decompress(data), type=_Kept)
            sketch = cls(pa.schema([]))
            sketch._rows, sketch._schema = kept.rows, pa.ipc.read_schema(pa.py_buffer(kept.schema))
            sketch._columns = [
                ColumnSketch(field.name, field.type, stored)
                for field, stored in zip(sketch._schema, kept.columns, strict=True)
            ]
        except (zlib.error, msgspec.DecodeError, pa.ArrowException, ValueError, RuntimeError) as error:
            raise Corrupted(f"kept statistics cannot be read: {error}") from error
        return sketch

    def statistics(self, table: str, version: int) -> TableStatistics:
        """The figures for people and programs."""
        self._count_waiting()
        columns = tuple(column.statistics() for column in self._columns)
        return TableStatistics(
            table=table,
            version=version,
            rows=self._rows,
            columns=columns,
            rank_error=datasketches.kll_doubles_sketch.get_normalized_rank_error(KLL_K, False),
            digest=_digest(self._rows, columns),
        )

    def _count_waiting(self) -> None:
        if not self._waiting_rows:
            self._waiting.clear()
            return
        table = pa.Table.from_batches(self._waiting)
        self._waiting, self._waiting_rows = [], 0
        for batch in _cut(table):
            self._rows += batch.num_rows
            for sketch, array in zip(self._columns, batch.columns, strict=True):
                sketch.update(array)


def _cut(table: pa.Table) -> Iterator[pa.RecordBatch]:
    """The table in batches of at most `MOST_ROWS`, whole ones where it can be."""
    for start in range(0, table.num_rows, MOST_ROWS):
        yield from table.slice(start, MOST_ROWS).combine_chunks().to_batches()


def _go_together(before: pa.DataType, after: pa.DataType) -> bool:
    kind = kind_of(before)
    return kind is kind_of(after) and (before == after or kind in {Kind.integer, Kind.float, Kind.decimal})


def _digest(rows: int, columns: Iterable[ColumnStatistics]) -> str:
    """What is exact, hashed: sketches toss coins, and moments round."""
    exact = [
        replace(column, mean=None, deviation=None, distinct=None, quantiles=(), histogram=None, frequent=())
        for column in columns
    ]
    return "sha256:" + hashlib.sha256(wire.encode((rows, exact))).hexdigest()
