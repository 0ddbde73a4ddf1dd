"""The tables that events live in, as the feature store reads and fills them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pyarrow as pa

from fourfold.core import context
from fourfold.core.errors import Refused, did_you_mean
from fourfold.core.features import Kind, Source
from fourfold.core.services.storage import Storage
from fourfold.foundation.storage.given import columns_at
from fourfold.mlplatform.features.columns import normal_table
from fourfold.mlplatform.features.ingest import Batch, Ingest, batch_of
from fourfold.mlplatform.features.offline import unique_events
from fourfold.mlplatform.features.tables import ViewRecord


class SourceTables:
    """Reads events from tables, and moves pushed events there."""

    def __init__(self, storage: Storage, ingest: Ingest) -> None:
        self._storage = storage
        self._ingest = ingest

    def schema(self, table: str) -> pa.Schema:
        """The columns of a table. Looking at them is not a read that lineage should know of."""
        with context.within(None):
            return self._storage.scan(table).schema

    def columns(self, table: str, version: int) -> tuple[str, ...]:
        """The names of a version's columns."""
        return columns_at(self._storage, table, version)

    def newest_version(self, table: str) -> int:
        """A version with all rows that are there now, those of inserts too."""
        return self._storage.flush(table).version

    def rows(self, source: Source, kinds: Mapping[str, Kind], version: int) -> pa.Table:
        """These columns of a version of the source's table, each as its kind's one type."""
        found = self._storage.read(source.table, version=version, columns=tuple(kinds))
        return normal_table(found, kinds, what=f"table '{source.table}'")

    def events(self, source: Source, kinds: Mapping[str, Kind], version: int) -> pa.Table:
        """The events of a version: rows that have a time and an id, each event once."""
        return unique_events(self.rows(source, kinds, version), source)

    def flush(self, source: Source) -> int:
        """Move pushed events from the buffer to the table; returns how many.

        They reach the table under a key of their own, and as nobody's write: whoever is about to read the
        table did not make them.
        """

        def append(rows: pa.Table, key: str) -> None:
            with context.within(None), context.writing_as(key):
                self._storage.append(source.table, _fitted(rows, self.schema(source.table), source))

        return self._ingest.flush(source, append)

    def recorded(self, source: Source, events: pa.Table) -> pa.Table:
        """Pushed events as rows of the source's table, or a refusal; absent columns are null."""
        schema = self.schema(source.table)
        for column in events.schema.names:
            if column not in schema.names:
                raise Refused(
                    f"table '{source.table}' of source '{source.name}' has no column '{column}'",
                    ways_on=[
                        *did_you_mean(column, schema.names, what="columns"),
                        "or push with record=False, if another way brings the events to the table",
                    ],
                    column=column,
                )
        return _fitted(events, schema, source)


def kinds_of_records(records: Iterable[ViewRecord]) -> dict[str, Kind]:
    """The kinds of all columns that these views of one source read, sorted by name."""
    kinds: dict[str, Kind] = {}
    for record in records:
        kinds.update(record.columns)
    return dict(sorted(kinds.items()))


def pushed(source: Source, kinds: Mapping[str, Kind], events: pa.Table) -> Batch:
    """Pushed events ready to be applied, or a refusal of what a view cannot read."""
    what = f"the pushed events of source '{source.name}'"
    for column in kinds:
        if column not in events.schema.names:
            raise Refused(
                f"{what} have no column '{column}'",
                ways_on=did_you_mean(column, events.schema.names, what="columns"),
                column=column,
            )
    return batch_of(source, normal_table(events, kinds, what=what))


def _fitted(rows: pa.Table, schema: pa.Schema, source: Source) -> pa.Table:
    columns = []
    for field in schema:
        if field.name not in rows.schema.names:
            if not field.nullable:
                raise Refused(
                    f"the pushed events of source '{source.name}' have no column '{field.name}', which "
                    f"table '{source.table}' demands",
                    column=field.name,
                )
            columns.append(pa.nulls(len(rows), field.type))
            continue
        try:
            columns.append(rows.column(field.name).cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise Refused(
                f"column '{field.name}' of the pushed events of source '{source.name}' does not fit "
                f"{field.type}: {error}",
                column=field.name,
            ) from error
    return pa.table(columns, schema=schema)
