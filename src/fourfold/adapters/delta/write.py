"""Appending, and overwriting all of a table or some of its partitions."""

from __future__ import annotations

import time

from fourfold.adapters.delta import metadata as meta
from fourfold.adapters.delta.actions import DataFile
from fourfold.adapters.delta.partitions import partition_value
from fourfold.adapters.delta.payload import Payload, Shape
from fourfold.adapters.delta.state import State
from fourfold.adapters.delta.transaction import Outcome
from fourfold.core.decide import partitions, schemas
from fourfold.core.storage import Scalar


class Write:
    """Rows added, in the place of some (`where`), of all, or of none."""

    def __init__(
        self,
        name: str,
        payload: Payload,
        *,
        operation: str,
        where: dict[str, Scalar],
        partition_by: tuple[str, ...],
    ) -> None:
        self.operation = operation
        self._name = name
        self._payload = payload
        self._where = where
        self._partition_by = partition_by

    @property
    def only_adds(self) -> bool:
        return self.operation == "append"

    def prepare(self, state: State | None) -> bool:
        shape = self._shape(state)
        if self._payload.shape != shape:
            self._payload.put(shape, where=self._where)
        return True

    def outcome(self, state: State | None) -> Outcome | None:
        shape = self._shape(state)
        if self._payload.shape != shape:
            return None
        removed = [] if state is None or self.only_adds else self._replaced(state)
        metadata = metadata_for(state, shape)
        return Outcome(
            metadata=metadata,
            protocol=meta.protocol_for(shape.schema, None if state is None else state.protocol),
            added=self._payload.files,
            removed=removed,
            rows_added=self._payload.rows,
            rows_removed=sum(file.rows for file in removed),
        )

    def _shape(self, state: State | None) -> Shape:
        """What the files must be for the table as it is; refused where the rows do not fit."""
        replaces_all = self.operation == "overwrite" and not self._where
        schema = None if state is None or replaces_all else state.schema
        columns = partitions.columns(
            self._name, None if state is None else state.partition_by, self._partition_by
        )
        return Shape(schemas.fitting(self._name, self._payload.columns, schema), columns)

    def _replaced(self, state: State) -> list[DataFile]:
        values = partitions.values(self._name, state.schema, self._where)
        return [
            file
            for file in state.files.values()
            if all(
                partition_value(file.partition_values.get(column), state.schema.field(column)).equals(value)
                for column, value in values.items()
            )
        ]


def metadata_for(state: State | None, shape: Shape) -> meta.Metadata:
    """The table's metadata with these columns; that of a new table where there is none."""
    if state is None:
        return meta.created(shape.schema, shape.partition_by, time.time_ns() // 1_000_000)
    return state.metadata if state.schema == shape.schema else state.metadata.with_schema(shape.schema)
