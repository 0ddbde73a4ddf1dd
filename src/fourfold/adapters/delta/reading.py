"""A version's files as Arrow reads them: in the table's columns, whatever each file has.

`deltalake` makes datasets too, but where a file lacks a column's smallest or largest value it states a
comparison with null, and Arrow then skips the file: rows with NaN or with long texts would not be found.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from fourfold.adapters.delta.actions import DataFile
from fourfold.adapters.delta.errors import readable
from fourfold.adapters.delta.partitions import partition_value
from fourfold.adapters.delta.place import Place

_FORMAT = ds.ParquetFileFormat(
    read_options=ds.ParquetReadOptions(coerce_int96_timestamp_unit="us"),
    default_fragment_scan_options=ds.ParquetFragmentScanOptions(pre_buffer=True),
)


def dataset(
    place: Place, table: str, files: Iterable[DataFile], schema: pa.Schema, partition_by: Sequence[str]
) -> ds.Dataset:
    """Files as one dataset. Partition columns are not in them: each file has one value, which is told."""
    filesystem = place.filesystem
    fragments = []
    for file in files:
        known = pc.scalar(True)
        for column in partition_by:
            value = partition_value(file.partition_values.get(column), schema.field(column))
            known &= pc.field(column) == value if value.is_valid else pc.field(column).is_null()
        path = place.located(f"{table}/{file.stored_at}")
        fragments.append(_FORMAT.make_fragment(path, filesystem, partition_expression=known))
    return ds.FileSystemDataset(fragments, schema, _FORMAT, filesystem)


def scanned(
    name: str, version: int, files: ds.Dataset, columns: pa.Schema, condition: pc.Expression | None
) -> pa.RecordBatchReader:
    """The rows that meet the condition, as a stream; only what is needed is read."""

    def batches() -> Iterator[pa.RecordBatch]:
        with readable(name, version):
            for batch in files.scanner(columns=columns.names, filter=condition).to_batches():
                if batch.num_rows:
                    yield batch.cast(columns)

    return pa.RecordBatchReader.from_batches(columns, batches())


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
