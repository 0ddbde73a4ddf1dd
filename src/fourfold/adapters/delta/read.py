"""The data files of a version as one Arrow dataset, with what is known of each to skip it by.

`deltalake` makes such datasets too, but where a file lacks a column's smallest or largest value it states a
comparison with null, and Arrow then skips the file: rows with NaN or with long texts would not be found.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs as pafs
from deltalake import DeltaTable

from fourfold.core.errors import Refused

FEATURES = frozenset({"timestampNtz"})
"""What a table's writers may have used beyond plain Delta for us to read it."""

_OWN_FILE = re.compile(r"part-[0-9a-f]{32}\.parquet")
_FORMAT = ds.ParquetFileFormat(read_options=ds.ParquetReadOptions(coerce_int96_timestamp_unit="us"))
_DISK = pafs.LocalFileSystem()


def dataset(table: DeltaTable, folder: Path, schema: pa.Schema, asked: Iterable[str]) -> ds.Dataset:
    """The version's files; by their statistics on the columns `asked`, files may be skipped."""
    _check_features(table, folder.name)
    files = pa.table(table.get_add_actions(flatten=True))
    partitions = [
        (column, _known(files, f"partition.{column}")) for column in table.metadata().partition_columns
    ]
    ranges = [
        (schema.field(column), *(_known(files, f"{what}.{column}") for what in ("min", "max", "null_count")))
        for column in sorted(set(asked) - {column for column, _ in partitions})
        if not pa.types.is_nested(schema.field(column).type)
    ]
    fragments = []
    for index, path in enumerate(files["path"].to_pylist()):
        known = pc.scalar(True)
        for column, values in partitions:
            known &= _is(pc.field(column), values[index])
        for field, least, most, nulls in ranges:
            if pa.types.is_floating(field.type) and not _OWN_FILE.fullmatch(path):
                continue  # others leave NaN out of the range; we then give none
            known &= _lies_in(field, least[index], most[index], nulls[index])
        fragments.append(
            _FORMAT.make_fragment(str(folder / unquote(path)), _DISK, partition_expression=known)
        )
    return ds.FileSystemDataset(fragments, schema, _FORMAT, _DISK)


def _check_features(table: DeltaTable, name: str) -> None:
    protocol = table.protocol()
    unknown = set(protocol.reader_features or ()) - FEATURES
    if protocol.min_reader_version == 2:
        unknown.add("columnMapping")
    if unknown:
        raise Refused(
            f"table '{name}' uses what we cannot read: {', '.join(sorted(unknown))}",
            ways_on=["let the program that wrote it write plain Delta, or read it with that program"],
            table=name,
        )


def _known(files: pa.Table, key: str) -> pa.ChunkedArray:
    """One figure of each file; null where it was not noted."""
    index = files.schema.get_field_index(key)
    return files.column(index) if index >= 0 else pa.chunked_array([pa.nulls(len(files))])


def _is(column: pc.Expression, value: pa.Scalar) -> pc.Expression:
    return column == value if value.is_valid else column.is_null()


def _lies_in(field: pa.Field, least: pa.Scalar, most: pa.Scalar, nulls: pa.Scalar) -> pc.Expression:
    """What holds for each of a file's values; nothing, where an end of their range is not known."""
    if not (least.is_valid and most.is_valid):
        return pc.scalar(True)
    if pa.types.is_timestamp(field.type):  # others may cut it down to the millisecond
        most = pc.add(most, pa.scalar(timedelta(milliseconds=1), pa.duration("us")))
    column = pc.field(field.name)
    above, below = column >= least, column <= most
    if nulls.as_py() == 0:
        return above & below
    return (above | column.is_null()) & (below | column.is_null())
