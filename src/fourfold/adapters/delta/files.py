"""The data files of a write: made in bounded memory, safe before any version names them.

A table in memory is cut into files that a few threads write at once. A stream is cut as it comes: when a
partition has `CHUNK_BYTES` waiting, they become a file, and when all partitions together have `HELD_BYTES`
waiting, those of the largest do. So at most `HELD_BYTES`, and `CHUNK_BYTES` a thread, are in memory.
"""

from __future__ import annotations

import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fourfold.adapters.delta.actions import DataFile
from fourfold.adapters.delta.errors import writable
from fourfold.adapters.delta.partitions import partition_text
from fourfold.adapters.delta.place import Place
from fourfold.adapters.delta.statistics import Tally, has_nan
from fourfold.core.errors import FourfoldError, Refused

MOST_PARTITIONS = 10_000
"""Partitions that one write may touch: each is a file of its own."""
FILE_BYTES = 128 * 2**20
"""A file that has reached this size is closed, and the next begun."""
ROW_GROUP_ROWS = 1 << 17
"""Rows that are read together at least: a filter that skips by ranges skips so many at once."""
CHUNK_BYTES = 64 * 2**20
"""Rows of a stream that become one file, counted before they are compressed."""
HELD_BYTES = 128 * 2**20
"""Rows of a stream that wait in memory until there are enough of them."""
WRITERS = min(4, os.cpu_count() or 1)
"""Threads that write files of one table at once."""
SAMPLE_ROWS = 4096
"""Rows by which it is judged whether a column's values repeat."""

Item = TypeVar("Item")
Result = TypeVar("Result")
Values = tuple[tuple[str, str | None], ...]
"""The partition of a file: each column with its value as the log spells it."""


class Staged:
    """The files that a write made and no version names yet. They go when it does not come to be."""

    def __init__(self, place: Place, table: str) -> None:
        self.place = place
        self.table = table
        self._paths: set[str] = set()
        self._unsettled: set[str] = set()

    def new_path(self) -> str:
        path = f"part-{secrets.token_hex(16)}.parquet"
        self._paths.add(path)
        self._unsettled.add(path)
        return path

    def settle(self) -> None:
        """Make the names of all files made so far safe."""
        if self._unsettled:
            self.place.settle([f"{self.table}/{path}" for path in sorted(self._unsettled)])
            self._unsettled.clear()

    def missing(self) -> list[str]:
        """Those of the files that somebody removed with the whole table."""
        return self.place.missing([f"{self.table}/{path}" for path in sorted(self._paths)])

    def keep(self, files: Iterable[DataFile]) -> None:
        """Have no more to do with these files: a version names them now."""
        self._paths.difference_update([file.path for file in files])

    def adopt(self, other: Staged, files: Iterable[DataFile]) -> None:
        """Have from here on to do with those of these files that another write made, and it no longer."""
        mine = other._paths.intersection(file.path for file in files)
        self._paths |= mine
        other._paths -= mine

    def discard(self) -> None:
        """Remove the files."""
        self._remove(set(self._paths))

    def discard_files(self, files: Iterable[DataFile]) -> None:
        """Remove some of the files, which others took the place of."""
        self._remove(self._paths.intersection(file.path for file in files))

    def _remove(self, gone: set[str]) -> None:
        with suppress(OSError, FourfoldError):  # else a vacuum finds them
            self.place.delete([f"{self.table}/{path}" for path in sorted(gone)])
        self._paths -= gone
        self._unsettled -= gone


class Sink:
    """One data file being written, row group by row group."""

    def __init__(self, staged: Staged, values: Values, first: pa.Table, tags: dict[str, str] | None) -> None:
        self._name = staged.table
        self._path = staged.new_path()
        self._values = values
        self._tags = tags
        self._tally = Tally(first.schema)
        self._vague = _vague(first)
        repeating = [path for name in first.column_names for path in _repeating(name, first.column(name))]
        with writable(self._name), ExitStack() as stack:
            self._file = stack.enter_context(staged.place.new_file(f"{self._name}/{self._path}"))
            self._writer = pq.ParquetWriter(
                self._file,
                first.schema,
                compression="snappy",  # a tenth larger than zstd, and the quickest that every engine reads
                use_dictionary=repeating,
                write_statistics=[name for name in first.column_names if name not in self._vague],
            )
            self._stack = stack.pop_all()

    @property
    def size_bytes(self) -> int:
        return int(self._file.tell())

    def takes(self, piece: pa.Table) -> bool:
        """Whether these rows may follow: a range that was begun must not mislead about NaN."""
        return _vague(piece) <= self._vague

    def write(self, piece: pa.Table) -> None:
        self._tally.add(piece)
        with writable(self._name):
            self._writer.write_table(piece, row_group_size=ROW_GROUP_ROWS)

    def close(self) -> DataFile:
        with writable(self._name):
            self._writer.close()
            size = self.size_bytes
            self._stack.close()
        return DataFile(
            path=self._path,
            size_bytes=size,
            partition_values=dict(self._values),
            modified_ms=time.time_ns() // 1_000_000,
            stats=self._tally.text(),
            tags=self._tags,
        )

    def abandon(self, error: BaseException) -> None:
        """Leave no file."""
        with suppress(OSError):
            self._writer.close()
        with suppress(BaseException):  # the error goes on from where it was raised
            self._stack.__exit__(type(error), error, error.__traceback__)


def write_table(staged: Staged, name: str, data: pa.Table, partition_by: Sequence[str]) -> list[DataFile]:
    """Write a table in memory: one file a partition, several for one that is large."""
    pieces = [(values, part) for values, piece in pieces_of(name, data, partition_by) for part in _cut(piece)]
    return in_threads(lambda piece: write_file(staged, piece[0], [piece[1]])[0], pieces)


def write_file(
    staged: Staged, values: Values, pieces: Iterable[pa.Table], *, tags: dict[str, str] | None = None,
    file_bytes: int = FILE_BYTES,
) -> list[DataFile]:  # fmt: skip
    """Write the rows of one partition one after the other, as one file or a few."""
    found: list[DataFile] = []
    sink: Sink | None = None
    try:
        for piece in pieces:
            if sink is not None and (sink.size_bytes >= file_bytes or not sink.takes(piece)):
                found.append(sink.close())
                sink = None
            if len(piece):
                sink = sink or Sink(staged, values, piece, tags)
                sink.write(piece)
        if sink is not None:
            found.append(sink.close())
    except BaseException as error:
        if sink is not None:
            sink.abandon(error)
        raise
    return found


@dataclass
class _Part:
    """What of a partition waits to be written."""

    pieces: list[pa.Table] = field(default_factory=list)
    size_bytes: int = 0


class StreamWriter:
    """Cuts a stream into files: `add` rows, then `finish`, in a `with` block, which ends its threads."""

    def __init__(self, staged: Staged, name: str, partition_by: Sequence[str]) -> None:
        self._staged = staged
        self._name = name
        self._partition_by = partition_by
        self._parts: dict[Values, _Part] = {}
        self._held_bytes = 0
        self._pool = ThreadPoolExecutor(WRITERS, thread_name_prefix="fourfold-files")
        self._begun: deque[Future[list[DataFile]]] = deque()
        self._done: list[DataFile] = []

    def __enter__(self) -> StreamWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def add(self, rows: pa.Table) -> None:
        for values, piece in pieces_of(self._name, rows, self._partition_by):
            part = self._parts.setdefault(values, _Part())
            if len(self._parts) > MOST_PARTITIONS:
                raise _too_many(self._name, len(self._parts))
            part.pieces.append(piece)
            part.size_bytes += piece.nbytes
            self._held_bytes += piece.nbytes
            if part.size_bytes >= CHUNK_BYTES:
                self._write_out(values, part)
        while self._held_bytes > HELD_BYTES:
            self._write_out(*max(self._parts.items(), key=lambda item: item[1].size_bytes))

    def finish(self) -> list[DataFile]:
        for values, part in self._parts.items():
            if part.pieces:
                self._write_out(values, part)
        while self._begun:
            self._done += self._begun.popleft().result()
        return self._done

    def _write_out(self, values: Values, part: _Part) -> None:
        """Have what waits of a partition written, as a file of its own."""
        while len(self._begun) >= WRITERS:
            self._done += self._begun.popleft().result()
        rows = pa.concat_tables(part.pieces)
        self._begun.append(self._pool.submit(write_file, self._staged, values, [rows]))
        self._held_bytes -= part.size_bytes
        part.pieces, part.size_bytes = [], 0


def in_threads(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """The results in the order of the items; when one raises, no further one is begun."""
    if len(items) < 2 or WRITERS < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(WRITERS, thread_name_prefix="fourfold-files") as pool:
        begun = [pool.submit(work, item) for item in items]
        try:
            return [future.result() for future in begun]
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def pieces_of(name: str, data: pa.Table, partition_by: Sequence[str]) -> Iterator[tuple[Values, pa.Table]]:
    """The rows of each partition, without the partition's own columns; no rows, no piece."""
    if not data.num_rows:
        return
    if not partition_by:
        yield (), data
        return
    keys = [(column, "ascending") for column in partition_by]
    counts = data.group_by(list(partition_by)).aggregate([([], "count_all")]).sort_by(keys)
    if len(counts) > MOST_PARTITIONS:
        raise _too_many(name, len(counts))
    stored, offset = data.drop_columns(list(partition_by)), 0
    if len(counts) > 1:
        order = pc.sort_indices(data.select(list(partition_by)), sort_keys=keys)
        stored = stored.combine_chunks()
    for row in counts.to_pylist():
        count = row.pop("count_all")
        values = tuple((column, partition_text(value)) for column, value in row.items())
        # Copied, not cut out: a few rows that wait must not keep all the others in memory.
        yield values, stored if len(counts) == 1 else stored.take(order.slice(offset, count))
        offset += count


def regrouped(pieces: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in pieces of a row group's size."""
    waiting: list[pa.Table] = []
    rows = size = 0
    for piece in pieces:
        waiting.append(piece)
        rows, size = rows + len(piece), size + piece.nbytes
        if rows >= ROW_GROUP_ROWS or size >= CHUNK_BYTES:
            yield pa.concat_tables(waiting)
            waiting, rows, size = [], 0, 0
    if waiting:
        yield pa.concat_tables(waiting)


def _cut(piece: pa.Table) -> Iterator[pa.Table]:
    """Rows in files of about equal size, none of them much larger than a file should be."""
    count = max(1, -(-piece.nbytes // FILE_BYTES))
    rows = -(-len(piece) // count)
    for offset in range(0, len(piece), max(1, rows)):
        yield piece.slice(offset, rows)


def _vague(piece: pa.Table) -> frozenset[str]:
    """Columns whose range would mislead."""
    return frozenset(name for name in piece.column_names if has_nan(piece.column(name)))


def _repeating(name: str, values: pa.ChunkedArray) -> list[str]:
    """The column's path where a dictionary of its values saves something; trying costs more than looking."""
    if pa.types.is_nested(values.type):
        return list(_leaves(name, values.type))
    if pa.types.is_boolean(values.type):
        return []
    sample = values.slice(0, SAMPLE_ROWS)
    return [name] if pc.count_distinct(sample).as_py() <= len(sample) // 2 else []


def _leaves(path: str, kind: pa.DataType) -> Iterator[str]:
    """The paths, as Parquet spells them, of the columns that a nested one is kept in."""
    if pa.types.is_list(kind):
        yield from _leaves(f"{path}.list.element", kind.value_type)
    elif pa.types.is_map(kind):
        yield from _leaves(f"{path}.key_value.key", kind.key_type)
        yield from _leaves(f"{path}.key_value.value", kind.item_type)
    elif pa.types.is_struct(kind):
        for index in range(kind.num_fields):
            yield from _leaves(f"{path}.{kind.field(index).name}", kind.field(index).type)
    else:
        yield path


def _too_many(name: str, count: int) -> Refused:
    return Refused(
        f"this write has {count} partitions, more than {MOST_PARTITIONS}",
        ways_on=["partition by something coarser (the day, not the hour), or write in parts"],
        table=name,
    )
