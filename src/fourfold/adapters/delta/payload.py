"""The rows that a write was given, put into files: once, and again only where the table's columns changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa

from fourfold.adapters.delta.actions import DataFile
from fourfold.adapters.delta.files import Staged, StreamWriter, write_table
from fourfold.adapters.delta.reading import OpenFile
from fourfold.core.decide import partitions, schemas
from fourfold.core.errors import Refused
from fourfold.core.ports.tables import Rows
from fourfold.core.storage import Scalar

PIECE_ROWS = 1 << 16
"""Rows of a stream that are looked at together: batches may be very small."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a table's data files have in common: its columns, and by which of them it is partitioned."""

    schema: pa.Schema
    partition_by: tuple[str, ...]


class Payload:
    """The given rows. A stream is read once, and later from the files that it was put into."""

    def __init__(self, name: str, data: Rows, staged: Staged) -> None:
        self.files: list[DataFile] = []
        self.shape: Shape | None = None
        """In which they are."""
        self._name = name
        self._data = data
        self._staged = staged

    @property
    def columns(self) -> pa.Schema:
        """The columns as they were given."""
        return self._data.schema

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)

    def put(
        self,
        shape: Shape,
        *,
        where: Mapping[str, Scalar] | None = None,
        seen: Callable[[pa.Table], None] | None = None,
    ) -> None:
        """Have the rows in files of this shape. They are checked first, and shown to `seen` as they pass."""

        first_row = 1

        def fitted(piece: pa.Table) -> pa.Table:
            nonlocal first_row
            rows = schemas.fit(self._name, piece, shape.schema, first_row=first_row)
            first_row += len(rows)
            partitions.check(self._name, rows, shape.partition_by, where or {})
            _check_nulls(self._name, rows)
            if seen is not None:
                seen(rows)
            return rows

        before, self.files = self.files, []
        if isinstance(self._data, pa.Table):
            whole = fitted(self._data)
            self._staged.discard_files(before)
            self.files = write_table(self._staged, self._name, whole, shape.partition_by)
        else:
            pieces = _batches(self._data) if self.shape is None else self._again(before, self.shape)
            self.files = self._streamed(map(fitted, pieces), shape)
            self._staged.discard_files(before)
        self.shape = shape

    def _streamed(self, pieces: Iterator[pa.Table], shape: Shape) -> list[DataFile]:
        with StreamWriter(self._staged, self._name, shape.partition_by) as writer:
            for piece in pieces:
                writer.add(piece)
            return writer.finish()

    def _again(self, files: list[DataFile], shape: Shape) -> Iterator[pa.Table]:
        """A stream's rows a second time."""
        yield shape.schema.empty_table()
        for file in files:
            with OpenFile(self._staged.place, self._staged.table, file, shape.schema) as opened:
                yield from opened.pieces(shape.schema.names)


def _batches(stream: pa.RecordBatchReader) -> Iterator[pa.Table]:
    """A stream in pieces of some size; at least one, so that its columns are checked."""
    waiting: list[pa.RecordBatch] = []
    rows = 0
    for batch in stream:
        waiting.append(batch)
        rows += batch.num_rows
        if rows >= PIECE_ROWS:
            yield pa.Table.from_batches(waiting, stream.schema)
            waiting, rows = [], 0
    yield pa.Table.from_batches(waiting, stream.schema)


def _check_nulls(name: str, rows: pa.Table) -> None:
    """Refuse nulls where another program that made the table allows none."""
    for field in rows.schema:
        if not field.nullable and (count := rows.column(field.name).null_count):
            raise Refused(
                f"table '{name}': column '{field.name}' is null in {count} rows, and may not be",
                ways_on=["fill them, or leave those rows out"],
                table=name,
                column=field.name,
            )
