"""Small files written together, and rows laid so that filters skip files. No row changes."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fourfold.adapters.delta.actions import DataFile
from fourfold.adapters.delta.errors import no_table, readable
from fourfold.adapters.delta.files import Staged, Values, in_threads, regrouped, write_file
from fourfold.adapters.delta.reading import OpenFile
from fourfold.adapters.delta.rewrite import stored_columns
from fourfold.adapters.delta.skipping import range_of
from fourfold.adapters.delta.state import State
from fourfold.adapters.delta.transaction import Outcome
from fourfold.core.decide import schemas
from fourfold.core.errors import Refused

SORTED_BYTES = 512 * 2**20
"""Rows that are sorted together, in memory. Larger partitions are laid anew in runs of this size."""
CLUSTERED = "fourfold.clustered"
"""A file's tag: by which columns its rows were laid, in which compaction."""


@dataclass(frozen=True, slots=True)
class _Group:
    """Files that are written anew together."""

    values: Values
    files: tuple[DataFile, ...]
    made: tuple[DataFile, ...] = ()


class Compact:
    """Commits as long as the files that it wrote anew are still there, whatever was added meanwhile."""

    operation = "compact"
    only_adds = True

    def __init__(self, name: str, staged: Staged, *, cluster_by: tuple[str, ...], target_bytes: int) -> None:
        self._name = name
        self._staged = staged
        self._cluster_by = cluster_by
        self._target_bytes = target_bytes
        self._id = secrets.token_hex(4)
        self._schema: pa.Schema | None = None
        self._groups: list[_Group] = []

    def prepare(self, state: State | None) -> bool:
        if state is None:
            raise no_table(self._name)
        if self._standing(state):
            return True
        self._staged.discard()
        _check_columns(self._name, self._cluster_by, state.schema)
        planned = list(self._planned(state))
        with readable(self._name, state.version):
            if self._cluster_by:  # each group may fill the memory that is allowed
                made = [self._laid_anew(group, state.schema) for group in planned]
            else:
                made = in_threads(lambda group: self._together(group, state.schema), planned)
        self._groups = [replace(g, made=tuple(m)) for g, m in zip(planned, made, strict=True)]
        self._schema = state.schema
        return bool(planned)

    def outcome(self, state: State | None) -> Outcome | None:
        if state is None:
            raise no_table(self._name)
        groups = self._standing(state)
        if not groups:
            return None
        return Outcome(
            metadata=state.metadata,
            protocol=state.protocol,
            added=[file for group in groups for file in group.made],
            removed=[file for group in groups for file in group.files],
            is_change=False,
        )

    def _standing(self, state: State) -> list[_Group]:
        """The groups all of whose files the table still has."""
        if self._schema != state.schema:
            return []
        return [g for g in self._groups if all(file.path in state.files for file in g.files)]

    def _planned(self, state: State) -> Iterator[_Group]:
        parts: dict[Values, list[DataFile]] = {}
        for file in state.files.values():
            parts.setdefault(tuple(file.partition_values.items()), []).append(file)
        for values, files in parts.items():
            if self._cluster_by:
                if not self._is_laid(files):
                    yield _Group(values, tuple(files))
                continue
            small = [file for file in files if file.size_bytes < self._target_bytes]
            for group in _packed(small, self._target_bytes):
                yield _Group(values, tuple(group))

    def _is_laid(self, files: Sequence[DataFile]) -> bool:
        """Whether one compaction laid the rows of all these files by the same columns."""
        tags = {(file.tags or {}).get(CLUSTERED, "") for file in files}
        return len(tags) == 1 and tags.pop().startswith(f"{self._columns}:")

    @property
    def _columns(self) -> str:
        return ",".join(self._cluster_by)

    def _together(self, group: _Group, schema: pa.Schema) -> list[DataFile]:
        pieces = regrouped(self._pieces(group.files, schema))
        return write_file(self._staged, group.values, pieces, file_bytes=self._target_bytes)

    def _laid_anew(self, group: _Group, schema: pa.Schema) -> list[DataFile]:
        """The group's rows in runs, each sorted: runs of files whose values are near each other."""
        columns = [column for column in self._cluster_by if column not in dict(group.values)]
        files = group.files
        if columns:
            files = tuple(sorted(files, key=lambda file: _least(file, schema.field(columns[0]))))
        tags = {CLUSTERED: f"{self._columns}:{self._id}"}
        runs = (curved(run, columns) for run in _runs(self._pieces(files, schema)))
        pieces = (piece for run in runs for piece in self._sliced(run))
        return write_file(self._staged, group.values, pieces, tags=tags, file_bytes=self._target_bytes)

    def _pieces(self, files: Iterable[DataFile], schema: pa.Schema) -> Iterator[pa.Table]:
        for file in files:
            with OpenFile(self._staged.place, self._staged.table, file, schema) as opened:
                yield from opened.pieces(stored_columns(file, schema))

    def _sliced(self, run: pa.Table) -> Iterator[pa.Table]:
        """Pieces small enough that files of the wanted size can be made of them."""
        count = max(1, -(-run.nbytes // self._target_bytes))
        rows = max(1, -(-len(run) // count))
        for offset in range(0, len(run), rows):
            yield run.slice(offset, rows)


def curved(rows: pa.Table, columns: Sequence[str]) -> pa.Table:
    """The rows along a Z-order curve over these columns: near in each of them, near in the file."""
    if not columns or not len(rows):
        return rows
    if len(columns) == 1:
        return rows.take(pc.sort_indices(rows, sort_keys=[(columns[0], "ascending")]))
    bits = 63 // len(columns)
    place = np.zeros(len(rows), dtype=np.uint64)
    for index, column in enumerate(columns):
        place |= _spread(_scaled(rows.column(column), bits), bits, index, len(columns))
    return rows.take(pa.array(np.argsort(place, kind="stable")))


def _scaled(values: pa.ChunkedArray, bits: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Each value's rank among all, stretched over so many bits: then columns count alike, however spread."""
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.int8())
    ranks = pc.rank(values, sort_keys="ascending", tiebreaker="dense").to_numpy().astype(np.float64) - 1
    most = max(1.0, float(ranks.max()))
    scaled: np.ndarray[Any, np.dtype[np.uint64]] = (ranks * ((2.0**bits - 1) / most)).astype(np.uint64)
    return scaled


def _spread(
    values: np.ndarray[Any, np.dtype[np.uint64]], bits: int, offset: int, step: int
) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """The bits of each value, `step` apart, the first at `offset`: room for the bits of the others."""
    found = np.zeros_like(values)
    one = np.uint64(1)
    for bit in range(bits):
        found |= ((values >> np.uint64(bit)) & one) << np.uint64(bit * step + offset)
    return found


def _runs(pieces: Iterable[pa.Table]) -> Iterator[pa.Table]:
    waiting: list[pa.Table] = []
    size = 0
    for piece in pieces:
        waiting.append(piece)
        size += piece.nbytes
        if size >= SORTED_BYTES:
            yield pa.concat_tables(waiting)
            waiting, size = [], 0
    if waiting:
        yield pa.concat_tables(waiting)


def _packed(files: Sequence[DataFile], target_bytes: int) -> Iterator[list[DataFile]]:
    """Files in groups of about the wanted size, in their order; one alone gains nothing."""
    group: list[DataFile] = []
    for file in files:
        if group and sum(each.size_bytes for each in group) + file.size_bytes > target_bytes:
            if len(group) > 1:
                yield group
            group = []
        group.append(file)
    if len(group) > 1:
        yield group


def _least(file: DataFile, field: pa.Field) -> tuple[bool, Any]:
    """Sorts files by their smallest value; those of which none is known come last, in their order."""
    least = range_of(file, field).least
    return (least is None, 0 if least is None else least)


def _check_columns(name: str, columns: Sequence[str], schema: pa.Schema) -> None:
    schemas.check_columns(name, columns, schema)
    for column in columns:
        if pa.types.is_nested(kind := schema.field(column).type):
            raise Refused(
                f"table '{name}': rows cannot be laid by column '{column}', which is {kind}",
                ways_on=["cluster by text, numbers, dates or times"],
                table=name,
                column=column,
            )
