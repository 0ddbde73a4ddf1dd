"""Upserts: rows put in the place of those that have their key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from fourfold.adapters.delta import metadata as meta
from fourfold.adapters.delta.actions import DataFile
from fourfold.adapters.delta.files import Staged
from fourfold.adapters.delta.payload import Payload, Shape
from fourfold.adapters.delta.rewrite import Rewriting
from fourfold.adapters.delta.skipping import comparable, range_of
from fourfold.adapters.delta.state import State
from fourfold.adapters.delta.transaction import Outcome
from fourfold.adapters.delta.write import metadata_for
from fourfold.core.decide import keys, partitions, schemas


class Upsert:
    """Rows that replace those with their key. Only the keys are held in memory, not the rows."""

    operation = "upsert"
    only_adds = False

    def __init__(self, name: str, payload: Payload, staged: Staged, *, key: tuple[str, ...]) -> None:
        self._name = name
        self._payload = payload
        self._key = key
        self._rewriting = Rewriting(name, staged)
        self._keys = KeySet(pa.table({}))

    def prepare(self, state: State | None) -> bool:
        shape = self._shape(state)
        if self._payload.shape != shape:
            self._put(shape)
        if state is not None:
            self._rewriting.begin(state)
            self._rewriting.decide(state, self._candidates(state), self._key, self._keys.among)
        return True

    def outcome(self, state: State | None) -> Outcome | None:
        shape = self._shape(state)
        if self._payload.shape != shape:
            return None
        files = [] if state is None else self._candidates(state)
        if state is not None and not self._rewriting.knows(state, files):
            return None
        return Outcome(
            metadata=metadata_for(state, shape),
            protocol=meta.protocol_for(shape.schema, None if state is None else state.protocol),
            added=[*self._rewriting.added(files), *self._payload.files],
            removed=self._rewriting.removed(files),
            rows_added=self._payload.rows,
            rows_removed=self._rewriting.rows_removed(files),
        )

    def _put(self, shape: Shape) -> None:
        keys.check_columns(self._name, shape.schema, self._key)
        seen: list[pa.Table] = []

        def note(rows: pa.Table) -> None:
            keys.check_nulls(self._name, rows, self._key)
            seen.append(rows.select(list(self._key)))

        self._payload.put(shape, seen=note)
        found = pa.concat_tables(seen)
        keys.check_unique(self._name, found)
        self._keys = KeySet(found)

    def _shape(self, state: State | None) -> Shape:
        columns = partitions.columns(self._name, None if state is None else state.partition_by, ())
        schema = None if state is None else state.schema
        return Shape(schemas.fitting(self._name, self._payload.columns, schema), columns)

    def _candidates(self, state: State) -> list[DataFile]:
        """The files whose statistics allow that they hold one of the keys."""
        return [file for file in state.files.values() if self._keys.may_be_in(file)]


class KeySet:
    """Keys to look for, of one column or several: each value a number, each key a number of those."""

    def __init__(self, keys: pa.Table) -> None:
        self._keys = keys
        self._ends: list[tuple[pa.Field, Any, Any]] = [
            (field, comparable(pc.min(keys[field.name])), comparable(pc.max(keys[field.name])))
            for field in keys.schema
            if len(keys) and not pa.types.is_boolean(field.type) and not pa.types.is_binary(field.type)
        ]
        self._values = [column.unique() for column in keys.columns]
        self._pairs: list[pa.Array] = []
        """The numbers that the first two columns, the first three, and so on, have together."""
        if len(keys):
            self._build()

    def may_be_in(self, file: DataFile) -> bool:
        """Whether the file's statistics allow that it holds one of the keys."""
        if not len(self._keys):
            return False
        for field, least, most in self._ends:
            known = range_of(file, field)
            if known.rows and known.nulls == known.rows:
                return False
            if known.is_known and (known.most < least or known.least > most):
                return False
        return True

    def among(self, rows: pa.Table) -> pa.ChunkedArray:
        """For each row whether its key is one of these; a key with a null never is."""
        if rows.num_columns == 1:
            return pc.is_in(rows.column(0), value_set=self._values[0])
        numbers = self._numbers(rows.columns, self._values, self._pairs)
        return pc.is_valid(numbers)

    def _build(self) -> None:
        """Number the keys column by column, so that the numbers never grow beyond 64 bits."""
        for index in range(1, self._keys.num_columns):
            pairs = _paired(
                self._numbers(self._keys.columns[:index], self._values, self._pairs),
                pc.index_in(self._keys.column(index), value_set=self._values[index]),
                len(self._values[index]),
            )
            self._pairs.append(pairs.unique())

    @staticmethod
    def _numbers(
        columns: Sequence[pa.ChunkedArray], values: Sequence[pa.Array], pairs: Sequence[pa.Array]
    ) -> pa.ChunkedArray:
        """Each row's number among the keys' first columns; null where no key begins so."""
        numbers = pc.index_in(columns[0], value_set=values[0])
        for index, column in enumerate(columns[1:]):
            second = pc.index_in(column, value_set=values[index + 1])
            pair = _paired(numbers, second, len(values[index + 1]))
            numbers = pc.index_in(pair, value_set=pairs[index])
        return numbers


def _paired(first: pa.ChunkedArray, second: pa.ChunkedArray, count: int) -> pa.ChunkedArray:
    return pc.add(pc.multiply(first.cast(pa.int64()), count), second.cast(pa.int64()))
