"""The data files of a write: one per partition, synced before any version names them."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake.transaction import AddAction

from fourfold.adapters.delta.disk import sync
from fourfold.core.errors import Refused

MOST_PARTITIONS = 10_000
"""Partitions that one write may touch: each is a file of its own."""
INDEXED_COLUMNS = 32
"""Columns whose smallest and largest values are noted per file, as the Delta protocol's default."""
LONGEST_STATISTIC = 64
"""Longer texts are not noted."""
ROW_GROUP_ROWS = 1 << 20


def write_files(folder: Path, name: str, data: pa.Table, partitions: Sequence[str]) -> Iterator[AddAction]:
    """Write the rows as files, each synced when it is given out; no rows, no files."""
    for values, piece in _pieces(name, data, partitions):
        path = folder / f"part-{secrets.token_hex(16)}.parquet"
        try:
            pq.write_table(
                piece,
                path,
                compression="snappy",  # a tenth larger than zstd, and the quickest that every engine reads
                row_group_size=ROW_GROUP_ROWS,
                write_statistics=[c for c in piece.column_names if not _has_nan(piece.column(c))],
            )
            sync(path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        status = path.stat()
        yield AddAction(
            path=path.name,
            size=status.st_size,
            partition_values=values,
            modification_time=int(status.st_mtime * 1000),
            data_change=True,
            stats=_statistics(piece),
        )


def _pieces(
    name: str, data: pa.Table, partitions: Sequence[str]
) -> Iterator[tuple[dict[str, str | None], pa.Table]]:
    """The rows of each partition, without the partition's own columns; no rows, no piece."""
    if not data.num_rows:
        return
    if not partitions:
        yield {}, data
        return
    keys = [(column, "ascending") for column in partitions]
    counts = data.group_by(list(partitions)).aggregate([([], "count_all")]).sort_by(keys)
    if len(counts) > MOST_PARTITIONS:
        raise Refused(
            f"this write has {len(counts)} partitions, more than {MOST_PARTITIONS}",
            ways_on=["partition by something coarser (the day, not the hour), or write in parts"],
            table=name,
        )
    ordered, offset = data.sort_by(keys), 0
    for row in counts.to_pylist():
        count = row.pop("count_all")
        yield (
            {column: partition_text(value) for column, value in row.items()},
            ordered.slice(offset, count).drop_columns(list(partitions)),
        )
        offset += count


def partition_text(value: object) -> str | None:
    if value is None:
        return None
    return str(value).lower() if isinstance(value, bool) else str(value)


def _has_nan(values: pa.ChunkedArray) -> bool:
    """Whether statistics would mislead: NaN is outside every range, and engines order it differently."""
    return pa.types.is_floating(values.type) and not pc.all(pc.is_finite(values)).as_py()


def _statistics(data: pa.Table) -> str:
    """What a reader may skip the file by: rows, nulls, smallest and largest values."""
    least: dict[str, object] = {}
    most: dict[str, object] = {}
    nulls: dict[str, int] = {}
    for column in data.schema.names[:INDEXED_COLUMNS]:
        values = data.column(column)
        if pa.types.is_nested(values.type):
            continue
        nulls[column] = values.null_count
        if (ends := _ends(values)) is not None:
            least[column], most[column] = ends
    return json.dumps(
        {"numRecords": data.num_rows, "minValues": least, "maxValues": most, "nullCount": nulls}
    )


def _ends(values: pa.ChunkedArray) -> tuple[object, object] | None:
    """The smallest and largest value as Delta writes them; `None` where they would mislead."""
    kind = values.type
    is_known = (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_string(kind)
        or pa.types.is_temporal(kind)
    )
    if not is_known:
        return None
    if _has_nan(values):
        return None
    ends = pc.min_max(values)
    try:
        least, most = ends["min"].as_py(), ends["max"].as_py()
    except (ValueError, OverflowError):
        return None  # a time that Python's calendar does not have
    if least is None:
        return None
    if pa.types.is_string(kind) and max(len(least), len(most)) > LONGEST_STATISTIC:
        return None
    if pa.types.is_timestamp(kind):
        spelling = "%Y-%m-%dT%H:%M:%S.%f" + ("Z" if kind.tz else "")
        return least.strftime(spelling), most.strftime(spelling)
    if pa.types.is_date(kind):
        return least.isoformat(), most.isoformat()
    return least, most
