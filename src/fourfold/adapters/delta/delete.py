"""Deleting rows by conditions."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from fourfold.adapters.delta.actions import DataFile
from fourfold.adapters.delta.errors import no_table
from fourfold.adapters.delta.files import Staged
from fourfold.adapters.delta.rewrite import KEPT, Decided, Rewriting
from fourfold.adapters.delta.skipping import Verdict, tests, verdict
from fourfold.adapters.delta.state import State
from fourfold.adapters.delta.transaction import Outcome
from fourfold.core.decide import schemas
from fourfold.core.storage import Condition


class Delete:
    """Files that hold no such row are left alone, those of which every row goes are not even read."""

    operation = "delete"
    only_adds = False

    def __init__(self, name: str, staged: Staged, *, where: tuple[Condition, ...]) -> None:
        self._name = name
        self._where = where
        self._rewriting = Rewriting(name, staged)

    def prepare(self, state: State | None) -> bool:
        if state is None:
            raise no_table(self._name)
        condition = schemas.expression(self._name, self._where, state.schema)
        asked = tests(self._name, self._where, state.schema)
        unsure: list[DataFile] = []
        self._rewriting.begin(state)
        for file in state.files.values():
            match verdict(file, asked, state.schema):
                case Verdict.none:
                    self._rewriting.put(file, KEPT)
                case Verdict.every:
                    self._rewriting.put(file, Decided(is_kept=False, rows_removed=file.rows))
                case Verdict.some:
                    unsure.append(file)
        columns = list(dict.fromkeys(column for column, _, _ in self._where))

        def going(rows: pa.Table) -> pa.ChunkedArray:
            return pc.fill_null(ds.dataset(rows).to_table(columns={"going": condition})["going"], False)

        if condition is not None:
            self._rewriting.decide(state, unsure, columns, going)
        return True

    def outcome(self, state: State | None) -> Outcome | None:
        if state is None:
            raise no_table(self._name)
        files = list(state.files.values())
        if not self._rewriting.knows(state, files):
            return None
        return Outcome(
            metadata=state.metadata,
            protocol=state.protocol,
            added=self._rewriting.added(files),
            removed=self._rewriting.removed(files),
            rows_removed=self._rewriting.rows_removed(files),
        )
