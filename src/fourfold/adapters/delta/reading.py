"""A version's files as Arrow reads them: in the table's columns, whatever each file has.

`deltalake` makes datasets too, but where a file lacks a column's smallest or largest value it states a
comparison with null, and Arrow then skips the file: rows with NaN or with long texts would not be found.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from fourfold.adapters.delta.actions import DataFile
from fourfold.adapters.delta.errors import readable
from fourfold.adapters.delta.files import ROW_GROUP_ROWS
from fourfold.adapters.delta.partitions import partition_value
from fourfold.adapters.delta.place import Place

BATCH_BYTES = 4 * 2**20
"""About so much is in a batch of a stream; wide tables have short batches."""
BATCHES_AHEAD = 4
FILES_AHEAD, FILES_AHEAD_FAR = 4, 16
"""Files that are read at once: as many as keep a disk busy, or hide how long a far place takes to answer."""
KEPT_CHUNKS = 100_000
"""Column chunks whose place in their file is remembered (about a kilobyte each), so that a file's end is
not read again with every scan."""

_ReadOptions = ds.ParquetReadOptions(coerce_int96_timestamp_unit="us")


class Reader:
    """Makes datasets of data files, and remembers what it learnt about each file."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._format = ds.ParquetFileFormat(
            read_options=_ReadOptions,
            # Reading a whole file's columns ahead is for far places; on a disk it only takes memory.
            default_fragment_scan_options=ds.ParquetFragmentScanOptions(pre_buffer=place.is_far),
        )
        self._filesystem = place.filesystem
        self._files_ahead = FILES_AHEAD_FAR if place.is_far else FILES_AHEAD
        self._known: OrderedDict[tuple[str, pa.Schema], tuple[ds.Fragment, int]] = OrderedDict()
        self._known_chunks = 0
        self._lock = threading.Lock()

    def dataset(
        self, table: str, files: Iterable[DataFile], schema: pa.Schema, partition_by: Sequence[str]
    ) -> ds.Dataset:
        """Files as one dataset. Partition columns are not in them: each file has one value, which is told."""
        partitions = pa.schema([schema.field(column) for column in partition_by])
        chunks = len(schema) - len(partitions)
        with self._lock:
            fragments = [self._fragment(table, file, partitions, chunks) for file in files]
        return ds.FileSystemDataset(fragments, schema, self._format, self._filesystem)

    def scanned(
        self, name: str, version: int, files: ds.Dataset, columns: pa.Schema, condition: pc.Expression | None
    ) -> pa.RecordBatchReader:
        """The rows that meet the condition, as a stream; only what is needed is read."""

        def batches() -> Iterator[pa.RecordBatch]:
            with readable(name, version):
                scanner = files.scanner(
                    columns=columns.names,
                    filter=condition,
                    batch_size=_batch_rows(columns),
                    batch_readahead=BATCHES_AHEAD,
                    fragment_readahead=self._files_ahead,
                )
                for batch in scanner.to_batches():
                    if batch.num_rows:
                        yield batch if batch.schema.equals(columns) else batch.cast(columns)

        return pa.RecordBatchReader.from_batches(columns, batches())

    def _fragment(self, table: str, file: DataFile, partitions: pa.Schema, chunks: int) -> ds.Fragment:
        path = self._place.located(f"{table}/{file.stored_at}")
        if (found := self._known.get((path, partitions))) is not None:
            self._known.move_to_end((path, partitions))
            return found[0]
        known = pc.scalar(True)
        for field in partitions:
            value = partition_value(file.partition_values.get(field.name), field)
            known &= pc.field(field.name) == value if value.is_valid else pc.field(field.name).is_null()
        fragment = self._format.make_fragment(path, self._filesystem, partition_expression=known)
        weight = chunks * (1 + file.rows // ROW_GROUP_ROWS)
        self._known[path, partitions] = fragment, weight
        self._known_chunks += weight
        while self._known_chunks > KEPT_CHUNKS:
            self._known_chunks -= self._known.popitem(last=False)[1][1]
        return fragment


def _batch_rows(columns: pa.Schema) -> int:
    width = sum(_width(field.type) for field in columns)
    return max(1024, min(ROW_GROUP_ROWS, BATCH_BYTES // max(1, width)))


def _width(kind: pa.DataType) -> int:
    """Bytes of a value, guessed where they differ."""
    try:
        return int(max(1, kind.bit_width // 8))
    except ValueError:
        return 32


class OpenFile:
    """One data file, read row group by row group in the table's columns."""

    def __init__(self, place: Place, table: str, file: DataFile, schema: pa.Schema) -> None:
        path = place.located(f"{table}/{file.stored_at}")
        self._parquet = pq.ParquetFile(
            path, filesystem=place.filesystem, coerce_int96_timestamp_unit="us", pre_buffer=True
        )
        self._file = file
        self._schema = schema
        self._has = frozenset(self._parquet.schema_arrow.names)

    def __enter__(self) -> OpenFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._parquet.close()

    @property
    def schema_arrow(self) -> pa.Schema:
        """The columns that the file itself has."""
        return self._parquet.schema_arrow

    def pieces(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """These columns of each row group, one after the other."""
        wanted = pa.schema([self._schema.field(column) for column in columns])
        stored = [column for column in columns if column in self._has]
        for group in range(self._parquet.num_row_groups):
            rows = self._parquet.metadata.row_group(group).num_rows
            found = self._parquet.read_row_group(group, columns=stored) if stored else None
            yield pa.Table.from_arrays([self._column(field, found, rows) for field in wanted], schema=wanted)

    def _column(self, field: pa.Field, found: pa.Table | None, rows: int) -> pa.ChunkedArray:
        if field.name in self._file.partition_values:
            value = partition_value(self._file.partition_values[field.name], field)
            return pa.chunked_array([pa.repeat(value, rows)], field.type)
        if field.name not in self._has or found is None:
            return pa.chunked_array([pa.nulls(rows, field.type)])
        column = found.column(field.name)
        return column if column.type == field.type else column.cast(field.type)
