"""Upserts: rows put in the place of those that have their key."""

from __future__ import annotations

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
    """Keys to look for in files: which of them may have one, which of their rows do."""

    def __init__(self, wanted: pa.Table) -> None:
        self._is_empty = not len(wanted)
        self._index = keys.KeyIndex(wanted)
        self._ends: list[tuple[pa.Field, Any, Any]] = [
            (field, comparable(pc.min(wanted[field.name])), comparable(pc.max(wanted[field.name])))
            for field in wanted.schema
            if len(wanted) and not pa.types.is_boolean(field.type) and not pa.types.is_binary(field.type)
        ]

    def may_be_in(self, file: DataFile) -> bool:
        """Whether the file's statistics allow that it holds one of the keys."""
        if self._is_empty:
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
        return self._index.among(rows)
