"""Files without some of their rows: copy on write, each file decided once, two at a time.

A file is first read in the columns that tell which rows go; only if some go and some stay is it read whole,
row group by row group, and written anew. What was decided about a file holds as long as the table has it,
so a change that must look again, because others committed, looks only at what they added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from fourfold.adapters.delta.actions import DataFile
from fourfold.adapters.delta.errors import readable
from fourfold.adapters.delta.files import Staged, in_threads, write_file
from fourfold.adapters.delta.reading import OpenFile
from fourfold.adapters.delta.state import State

ASKED_ROWS = 1 << 20
"""Rows of which only the deciding columns are in memory, to be asked about together."""

Finder = Callable[[pa.Table], pa.ChunkedArray | pa.BooleanArray]
"""Tells for each row whether it goes: true or false, never null."""


@dataclass(frozen=True, slots=True)
class Decided:
    """What becomes of a file."""

    is_kept: bool
    files: tuple[DataFile, ...] = ()
    """What stands in its place."""
    rows_removed: int = 0


KEPT = Decided(is_kept=True)


class Rewriting:
    """Decides about the files of a table, and remembers."""

    def __init__(self, name: str, staged: Staged) -> None:
        self._name = name
        self._staged = staged
        self._schema: pa.Schema | None = None
        self._decided: dict[str, Decided] = {}

    def begin(self, state: State) -> None:
        """Go on with this version: forget what was decided of files that are gone, or in other columns."""
        stays = self._schema == state.schema
        gone = [path for path in self._decided if not stays or path not in state.files]
        for path in gone:
            self._staged.discard_files(self._decided.pop(path).files)
        self._schema = state.schema

    def decide(self, state: State, files: Iterable[DataFile], columns: Sequence[str], finder: Finder) -> None:
        """Decide about these files of a version. `finder` gets these columns of some rows."""
        asked = [file for file in files if file.path not in self._decided]
        with readable(self._name, state.version):
            answers = in_threads(lambda file: self._without(file, state.schema, columns, finder), asked)
        self._decided |= {file.path: answer for file, answer in zip(asked, answers, strict=True)}

    def put(self, file: DataFile, decided: Decided) -> None:
        """Say what becomes of a file, where it is known without looking."""
        self._decided.setdefault(file.path, decided)

    def knows(self, state: State, files: Iterable[DataFile]) -> bool:
        """Whether all of these files are decided, in the columns of this version."""
        return self._schema == state.schema and all(file.path in self._decided for file in files)

    def removed(self, files: Iterable[DataFile]) -> list[DataFile]:
        return [file for file in files if not self._decided[file.path].is_kept]

    def added(self, files: Iterable[DataFile]) -> list[DataFile]:
        return [new for file in files for new in self._decided[file.path].files]

    def rows_removed(self, files: Iterable[DataFile]) -> int:
        return sum(self._decided[file.path].rows_removed for file in files)

    def _without(self, file: DataFile, schema: pa.Schema, columns: Sequence[str], finder: Finder) -> Decided:
        with OpenFile(self._staged.place, self._staged.table, file, schema) as opened:
            going = list(masks(opened.pieces(columns), finder))
            count = sum(pc.sum(mask).as_py() or 0 for mask in going)
            if not count:
                return KEPT
            kept = (
                piece if not pc.any(mask).as_py() else piece.filter(pc.invert(mask))
                for mask, piece in zip(going, opened.pieces(stored_columns(file, schema)), strict=True)
            )
            values = tuple(file.partition_values.items())
            rows = sum(len(mask) for mask in going)
            files = () if count == rows else write_file(self._staged, values, kept)
            return Decided(is_kept=False, files=tuple(files), rows_removed=count)


def rewritten(staged: Staged, file: DataFile, schema: pa.Schema) -> list[DataFile]:
    """A file's rows in other columns."""
    with OpenFile(staged.place, staged.table, file, schema) as opened:
        values = tuple(file.partition_values.items())
        return write_file(staged, values, opened.pieces(stored_columns(file, schema)))


def stored_columns(file: DataFile, schema: pa.Schema) -> list[str]:
    """The columns that are in the file itself: all but those it is partitioned by."""
    return [column for column in schema.names if column not in file.partition_values]


def masks(pieces: Iterable[pa.Table], finder: Finder) -> Iterator[pa.BooleanArray]:
    """For each piece which rows go. Several are asked about at once: asking may have a price of its own."""
    waiting: list[pa.Table] = []
    rows = 0
    for piece in pieces:
        waiting.append(piece)
        rows += len(piece)
        if rows >= ASKED_ROWS:
            yield from _asked(waiting, finder)
            waiting, rows = [], 0
    if waiting:
        yield from _asked(waiting, finder)


def _asked(pieces: list[pa.Table], finder: Finder) -> Iterator[pa.BooleanArray]:
    answer = finder(pa.concat_tables(pieces))
    whole = answer.combine_chunks() if isinstance(answer, pa.ChunkedArray) else answer
    offset = 0
    for piece in pieces:
        yield whole.slice(offset, len(piece))
        offset += len(piece)
