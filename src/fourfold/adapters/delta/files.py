"""The data files of a write: made in bounded memory, safe before any version names them.

A table in memory is cut into files that two threads write at once. A stream is cut by partition as it comes:
at most `HELD_BYTES` of its rows wait in memory, at most `OPEN_FILES` files are open, and when either is
reached the partition that holds most (or was idle longest) is written out.
"""

from __future__ import annotations

import os
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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
HELD_BYTES = 256 * 2**20
"""Rows of a stream that wait in memory, before they are compressed."""
OPEN_FILES = 16
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

    def discard(self, *, but: Iterable[str] = ()) -> None:
        """Remove the files, but those that are named by a version now."""
        self._remove(self._paths.difference(but))

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
        repeating = [name for name in first.column_names if _repeats(first.column(name))]
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
    """What a stream has brought of one partition."""

    waiting: list[pa.Table] = field(default_factory=list)
    waiting_bytes: int = 0
    waiting_rows: int = 0
    sink: Sink | None = None


class StreamWriter:
    """Cuts a stream into files. `add` rows as they come, then `finish`; `abandon` when it broke off."""

    def __init__(self, staged: Staged, name: str, partition_by: Sequence[str]) -> None:
        self._staged = staged
        self._name = name
        self._partition_by = partition_by
        self._parts: OrderedDict[Values, _Part] = OrderedDict()
        self._held_bytes = 0
        self._done: list[DataFile] = []

    def add(self, rows: pa.Table) -> None:
        for values, piece in pieces_of(self._name, rows, self._partition_by):
            part = self._parts.setdefault(values, _Part())
            if len(self._parts) > MOST_PARTITIONS:
                raise _too_many(self._name, len(self._parts))
            part.waiting.append(piece)
            part.waiting_bytes += piece.nbytes
            part.waiting_rows += len(piece)
            self._held_bytes += piece.nbytes
            if part.waiting_rows >= ROW_GROUP_ROWS or part.waiting_bytes >= HELD_BYTES // 4:
                self._write_out(values, part)
        while self._held_bytes > HELD_BYTES:
            self._write_out(*max(self._parts.items(), key=lambda item: item[1].waiting_bytes))

    def finish(self) -> list[DataFile]:
        for values, part in list(self._parts.items()):
            if part.waiting:
                self._write_out(values, part)
            self._close(part)
        return self._done

    def abandon(self, error: BaseException) -> None:
        for part in self._parts.values():
            if part.sink is not None:
                part.sink.abandon(error)
                part.sink = None

    def _write_out(self, values: Values, part: _Part) -> None:
        """Put what waits into the partition's file, as a row group of its own."""
        piece = pa.concat_tables(part.waiting)
        self._held_bytes -= part.waiting_bytes
        part.waiting, part.waiting_bytes, part.waiting_rows = [], 0, 0
        if part.sink is not None and (part.sink.size_bytes >= FILE_BYTES or not part.sink.takes(piece)):
            self._close(part)
        if part.sink is None:
            open_parts = [other for other in self._parts.values() if other.sink is not None]
            if len(open_parts) >= OPEN_FILES:
                self._close(open_parts[0])  # idle longest
            part.sink = Sink(self._staged, values, piece, None)
        part.sink.write(piece)
        self._parts.move_to_end(values)

    def _close(self, part: _Part) -> None:
        if part.sink is not None:
            sink, part.sink = part.sink, None
            try:
                self._done.append(sink.close())
            except BaseException as error:
                sink.abandon(error)
                raise


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
    ordered, offset = data if len(counts) == 1 else data.sort_by(keys), 0
    for row in counts.to_pylist():
        count = row.pop("count_all")
        yield (
            tuple((column, partition_text(value)) for column, value in row.items()),
            ordered.slice(offset, count).drop_columns(list(partition_by)),
        )
        offset += count


def regrouped(pieces: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in pieces of a row group's size."""
    waiting: list[pa.Table] = []
    rows = size = 0
    for piece in pieces:
        waiting.append(piece)
        rows, size = rows + len(piece), size + piece.nbytes
        if rows >= ROW_GROUP_ROWS or size >= HELD_BYTES // 4:
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


def _repeats(values: pa.ChunkedArray) -> bool:
    """Whether a dictionary of its values would save anything; trying costs more than looking."""
    if pa.types.is_nested(values.type) or pa.types.is_boolean(values.type):
        return False
    sample = values.slice(0, SAMPLE_ROWS)
    return bool(pc.count_distinct(sample).as_py() <= len(sample) // 2)


def _too_many(name: str, count: int) -> Refused:
    return Refused(
        f"this write has {count} partitions, more than {MOST_PARTITIONS}",
        ways_on=["partition by something coarser (the day, not the hour), or write in parts"],
        table=name,
    )
