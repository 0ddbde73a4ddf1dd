"""Rows of very many columns, kept on disk, and told apart by groups of columns.

DuckDB holds some thousands of values of each column at once, so that rows of 10,000 columns do not fit into
any sensible memory. Each row gets a number instead: its place in the order of all rows. The places by the
first columns and the next group of columns give the places by both, so that a group at a time is enough,
and what comes out is exact: equal rows, and only they, have the same place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fourfold.foundation.storage.query import quoted

GROUP = 250
"""Columns that are compared at once."""
MOST_VALUES = 4 * 2**20
"""Values of a batch that is handed out."""

Numbers = npt.NDArray[np.int64]


class Spool:
    """Rows in a file of a folder that its maker removes; they are read where they lie."""

    def __init__(self, folder: Path, schema: pa.Schema, parts: Iterable[Iterable[pa.RecordBatch]]) -> None:
        self.schema = schema
        self.ends: list[int] = []
        """How many rows there are up to the end of each part."""
        path, count = folder / "rows.arrow", 0
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for part in parts:
                for batch in part:
                    writer.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=schema))
                    count += batch.num_rows
                self.ends.append(count)
        self.rows = count
        file = pa.ipc.open_file(pa.memory_map(str(path)))
        self._batches = [file.get_batch(index) for index in range(file.num_record_batches)]
        self._starts = np.cumsum([0, *(batch.num_rows for batch in self._batches)], dtype=np.int64)

    def columns(self, names: Sequence[str]) -> pa.Table:
        """Some columns of all rows."""
        schema = pa.schema([self.schema.field(name) for name in names])
        return pa.Table.from_batches([batch.select(list(names)) for batch in self._batches], schema=schema)

    def places(self, connection: Any) -> pa.ChunkedArray:
        """For each row its place in the order of all rows by all columns; equal rows have the same."""
        places = pa.chunked_array([pa.array(np.zeros(self.rows, np.int64))])
        row = pa.array(np.arange(self.rows, dtype=np.int64))
        for start in range(0, len(self.schema), GROUP):
            group = self.columns(self.schema.names[start : start + GROUP])
            # Under names of our own, which no column has.
            names = [f"c{index}" for index in range(group.num_columns)]
            piece = group.rename_columns(names).append_column("place", places).append_column("row", row)
            connection.register("piece", piece)
            order = ", ".join(["place", *map(quoted, names)])
            ranked = f"SELECT row, dense_rank() OVER (ORDER BY {order}) AS place FROM piece"  # noqa: S608 - ours
            found = connection.sql(f"SELECT place FROM ({ranked}) ORDER BY row")  # noqa: S608
            places = found.to_arrow_table().column(0)
            connection.unregister("piece")
        return places

    def batches(self, rows: Numbers) -> Iterator[pa.RecordBatch]:
        """The rows of these numbers, in this order."""
        most = max(1, MOST_VALUES // max(1, len(self.schema)))
        for start in range(0, len(rows), most):
            yield self._taken(rows[start : start + most])

    def _taken(self, rows: Numbers) -> pa.RecordBatch:
        order = np.argsort(rows, kind="stable")
        sorted_rows = rows[order]
        bounds = np.searchsorted(sorted_rows, self._starts)
        pieces = [
            batch.take(pa.array(sorted_rows[low:high] - first))
            for batch, first, (low, high) in zip(
                self._batches, self._starts.tolist(), pairwise(bounds.tolist()), strict=False
            )
            if low < high
        ]
        back = np.empty(len(rows), np.int64)
        back[order] = np.arange(len(rows))
        together = pa.concat_batches(pieces)
        return together if len(rows) == 1 else together.take(pa.array(back))
