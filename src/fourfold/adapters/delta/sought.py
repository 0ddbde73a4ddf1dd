"""A person's rows in data files: which files hold some, and what stands in the place of each without them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from fourfold.adapters.delta.actions import DataFile
from fourfold.adapters.delta.errors import readable
from fourfold.adapters.delta.files import Staged, in_threads, write_file
from fourfold.adapters.delta.keyed import KeySet
from fourfold.adapters.delta.reading import OpenFile
from fourfold.adapters.delta.rewrite import masks, stored_columns
from fourfold.adapters.delta.skipping import comparable, range_of
from fourfold.core.decide.erasing import Wanted
from fourfold.core.errors import Corrupted
from fourfold.core.ports.tables import RowKey


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of a file that holds, or may have held, such rows."""

    file: DataFile
    rows: int
    """How many go."""
    files: tuple[DataFile, ...] = ()
    """What stands in its place; nothing where all of its rows go."""
    is_gone: bool = False
    """A vacuum took the file, so that nobody can look. It goes from the log where its statistics say that it
    held nothing else; else what is told of its values is no longer told."""
    is_vague: bool = False
    """The latter."""


class Sought:
    """Decides about files, each once. With `writes`, makes what stands in their place."""

    def __init__(self, name: str, staged: Staged, keys: Sequence[RowKey], *, writes: bool) -> None:
        self.staged = staged
        self._name = name
        self._wanted = Wanted(keys)
        self._writes = writes
        self._fates: dict[str, Fate | None] = {}
        self._sets: dict[pa.Schema, list[tuple[list[str], KeySet, pa.Table]]] = {}

    @property
    def fates(self) -> dict[str, Fate]:
        """The files that are touched, by their path as the log spells it."""
        return {path: fate for path, fate in self._fates.items() if fate is not None}

    def fate(self, path: str) -> Fate | None:
        return self._fates.get(path)

    def knows(self, paths: Iterable[str]) -> bool:
        return all(path in self._fates for path in paths)

    def decide(self, files: Iterable[tuple[DataFile, pa.Schema]]) -> None:
        """Decide about files, each with the columns of the version that first had it."""
        asked = {file.path: (file, schema) for file, schema in files if file.path not in self._fates}
        answers = in_threads(lambda each: self._decided(*each), list(asked.values()))
        self._fates |= dict(zip(asked, answers, strict=True))

    def rows_in(self, file: DataFile) -> int:
        """How many such rows a file holds that no version names, in whatever columns it has."""
        schema = pa.schema([])
        with readable(self._name, -1), OpenFile(self.staged.place, self.staged.table, file, schema) as opened:
            schema = opened.schema_arrow
        fate = self._looked(file, schema, self._sets_for(schema), writes=False)
        return 0 if fate is None else fate.rows

    def _decided(self, file: DataFile, schema: pa.Schema) -> Fate | None:
        sets = [each for each in self._sets_for(schema) if each[1].may_be_in(file)]
        if not sets:
            return None
        try:
            return self._looked(file, schema, sets, writes=self._writes)
        except FileNotFoundError:
            return self._of_a_missing(file, sets)

    def _looked(
        self,
        file: DataFile,
        schema: pa.Schema,
        sets: Sequence[tuple[list[str], KeySet, pa.Table]],
        *,
        writes: bool,
    ) -> Fate | None:
        columns = list(dict.fromkeys(column for names, _, _ in sets for column in names))

        def going(rows: pa.Table) -> pa.ChunkedArray:
            found = pa.chunked_array([pa.repeat(pa.scalar(False), len(rows))])
            for names, keys, _ in sets:
                found = pc.or_(found, keys.among(rows.select(names)))
            return found

        try:
            with OpenFile(self.staged.place, self.staged.table, file, schema) as opened:
                found = list(masks(opened.pieces(columns), going)) if columns else []
                count = sum(pc.sum(mask).as_py() or 0 for mask in found)
                rows = sum(len(mask) for mask in found)
                if not count:
                    return None
                if not writes or count == rows:
                    return Fate(file, count)
                kept = (
                    piece if not pc.any(mask).as_py() else piece.filter(pc.invert(mask))
                    for mask, piece in zip(found, opened.pieces(stored_columns(file, schema)), strict=True)
                )
                values = tuple(file.partition_values.items())
                tags = None if file.tags is None else dict(file.tags)
                return Fate(file, count, tuple(write_file(self.staged, values, kept, tags=tags)))
        except (OSError, pa.ArrowException) as error:
            path = f"{self.staged.table}/{file.stored_at}"
            if self.staged.place.missing([path]):
                raise FileNotFoundError(path) from error
            raise Corrupted(
                f"table '{self._name}' cannot be erased from: its file {file.stored_at} cannot be read, and "
                "may hold such rows",
                ways_on=["restore the file from a backup, or vacuum the versions that use it"],
                table=self._name,
                file=file.stored_at,
            ) from error

    def _of_a_missing(
        self, file: DataFile, sets: Sequence[tuple[list[str], KeySet, pa.Table]]
    ) -> Fate | None:
        """A file that was vacuumed: all of its rows go where its statistics say so."""
        if any(_are_all(file, keys) for _, _, keys in sets):
            return Fate(file, file.rows, is_gone=True)
        if not file.tags and not file.noted.keys() - {"numRecords"}:
            return None  # nothing is told of its values already
        return Fate(file, 0, is_gone=True, is_vague=True)

    def _sets_for(self, schema: pa.Schema) -> list[tuple[list[str], KeySet, pa.Table]]:
        if schema not in self._sets:
            found = self._wanted.keys_for(schema)
            self._sets[schema] = [(keys.column_names, KeySet(keys), keys) for keys in found]
        return self._sets[schema]


def _are_all(file: DataFile, keys: pa.Table) -> bool:
    """Whether every row of a file has one and the same key, and that is wanted."""
    values = []
    for field in keys.schema:
        known = range_of(file, field)
        if not (known.is_exact and known.is_known and known.least == known.most and known.nulls == 0):
            return False
        values.append(known.least)
    rows = zip(*(keys.column(index) for index in range(keys.num_columns)), strict=True)
    return any([comparable(value) for value in row] == values for row in rows)
