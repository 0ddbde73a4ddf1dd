"""One try of a write: its files written, its snapshot put to the catalog.

`pyiceberg` tries a commit again by itself, without asking whether the write was done already or its
counts still hold. So we go the steps of its commit one by one. They have no public names, hence
the pinned minor version.
"""

# ruff: noqa: SLF001

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from pyiceberg.exceptions import CommitFailedException, NoSuchTableError, TableAlreadyExistsError
from pyiceberg.io.pyarrow import _dataframe_to_data_files
from pyiceberg.manifest import DataFile
from pyiceberg.table import Transaction
from pyiceberg.table.update import AddSchemaUpdate, AssertTableUUID, SetCurrentSchemaUpdate

from fourfold.adapters.iceberg import columns
from fourfold.adapters.iceberg.catalogs import Opened
from fourfold.adapters.iceberg.versions import TOLD, State, Told, Version
from fourfold.core.errors import Conflict, Refused
from fourfold.core.ports.tables import Mark, Rows
from fourfold.core.times import Instant

PIECE_BYTES = 64 << 20
"""Rows of a stream that are written as one file: so many are held in memory."""
PROPERTIES = {
    "format-version": "2",
    "commit.manifest-merge.enabled": "true",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "100",
    "write.target-file-size-bytes": str(128 << 20),
}
"""What tables of ours are made with; the rest is `pyiceberg`'s own."""


class Late(Exception):
    """Somebody else's commit came first."""


@dataclass(frozen=True, slots=True)
class Draft:
    """What a write makes of a table, beside its files."""

    operation: str
    rows_added: int = 0
    rows_removed: int = 0


@dataclass
class Source:
    """Data to write, and the files that it became. A stream is read once, so its files are kept."""

    data: Rows
    files: list[DataFile] = field(default_factory=list)
    rows: int = 0
    form: object = None
    """The columns and partitions for which the files were written."""

    @property
    def schema(self) -> pa.Schema:
        return self.data.schema

    def pieces(self) -> Iterator[pa.Table]:
        """The rows in pieces of bounded size; at least one piece, which may be empty."""
        if isinstance(self.data, pa.Table):
            yield self.data
            return
        waiting: list[pa.RecordBatch] = []
        size, is_first = 0, True
        for batch in self.data:
            waiting.append(batch)
            size += batch.nbytes
            if size >= PIECE_BYTES:
                yield pa.Table.from_batches(waiting, schema=self.schema)
                waiting, size, is_first = [], 0, False
        if waiting or is_first:
            yield pa.Table.from_batches(waiting, schema=self.schema)


class Try:
    """A write on top of the table as it was when the try began."""

    def __init__(self, catalog: Opened, name: str, state: State | None) -> None:
        self._catalog = catalog
        self.name = name
        self.state = state
        self.removed: list[DataFile] = []
        self._added: list[DataFile] = []
        self._own: list[DataFile] = []
        """Files that this try wrote, and nobody else may go on with."""
        self._transaction: Transaction | None = None
        self._producer: Any = None
        self._digest = ""
        self.is_in_doubt = False
        """Whether it may have come to be, so that no file of it may be touched."""
        self.id = secrets.token_hex(16)

    @property
    def newest(self) -> Version | None:
        return None if self.state is None else self.state.newest

    @property
    def schema(self) -> pa.Schema | None:
        return None if self.state is None else self.state.schema

    @property
    def partition_by(self) -> tuple[str, ...] | None:
        return None if self.state is None else self.state.partition_by

    def begin(
        self, schema: pa.Schema, partition_by: tuple[str, ...], *, schema_id: int | None = None
    ) -> None:
        """Take these columns, for a table that is new or has others; those of `schema_id` if it is given."""
        self._digest, kept = columns.kept(schema)
        if self.state is None:
            numbered = columns.numbered(schema)
            folder = f"{self._catalog.namespace}/{self.name}-{secrets.token_hex(4)}"
            self._transaction = self._catalog.catalog.create_table_transaction(
                (self._catalog.namespace, self.name),
                numbered,
                location=f"{self._root}/{folder}" if self._catalog.places_tables else None,
                partition_spec=columns.partition_spec(numbered, partition_by),
                properties=PROPERTIES | kept,
            )
            return
        metadata = self.state.metadata
        self._transaction = self.state.table.transaction()
        if schema_id is None:
            numbered = columns.numbered(schema, metadata)
            schema_id = numbered.schema_id
            if all(each.schema_id != schema_id for each in metadata.schemas):
                self._transaction._apply((AddSchemaUpdate(schema=numbered),))
        if schema_id != metadata.current_schema_id:
            self._transaction._apply((SetCurrentSchemaUpdate.model_validate({"schema-id": schema_id}),))
        if not kept.keys() <= metadata.properties.keys():
            self._transaction.set_properties(kept)

    def write(self, rows: pa.Table) -> list[DataFile]:
        """Write rows, in the columns of `begin`, as data files of the version to be."""
        files = self._written(rows)
        self._own += files
        self._added += files
        return files

    def write_all(self, source: Source, fitted: Iterable[pa.Table]) -> None:
        """Write all data of a source, unless it was written in the same form before."""
        metadata = self._begun.table_metadata
        form = (metadata.schema().fields, metadata.spec().fields)
        if source.form is None:
            for piece in fitted:
                source.rows += len(piece)
                source.files += self._written(piece)
            source.form = form
        elif source.form != form:
            raise Conflict(
                f"the columns of table '{self.name}' were changed while rows were written to it",
                ways_on=["write them again"],
                table=self.name,
            )
        self._added += source.files

    def own(self, source: Source) -> None:
        """What the source became is this try's alone."""
        self._own += source.files

    def keep(self, files: Iterable[DataFile]) -> None:
        """Name files that an older version names."""
        self._added += files

    def stage(self, draft: Draft, mark: Mark) -> Told:
        """Write what names the files; nobody sees it before `put`."""
        before = self.newest
        transaction = self._begun
        told = Told(
            id=self.id,
            version=0 if before is None else before.number + 1,
            operation="create" if before is None else draft.operation,
            at=mark.at or Instant(time.time_ns() // 1000),
            rows=(0 if before is None else before.rows) + draft.rows_added - draft.rows_removed,
            rows_added=draft.rows_added,
            rows_removed=draft.rows_removed,
            columns=self._digest,
            key=mark.key,
            by=mark.by,
            step=mark.step,
            watermark=max(mark.watermark, -1 if before is None else before.watermark),
        )
        update = transaction.update_snapshot(snapshot_properties={TOLD: told.text()})
        producer = update.overwrite() if self.removed else update.merge_append()
        for file in self.removed:
            producer.delete_data_file(file)
        for file in self._added:
            producer.append_data_file(file)
        producer.commit()
        self._producer = producer
        return told

    def put(self) -> None:
        """Make it the next version; `Late` when another one came first.

        From here on it is in doubt, until somebody has looked: an answer may be lost, and a service that was
        asked again by the way says of our own commit that it came first.
        """
        transaction = self._begun
        self.is_in_doubt = True
        try:
            if self.state is None:
                transaction.commit_transaction()
            else:
                uuid = AssertTableUUID(uuid=self.state.metadata.table_uuid)
                requirements = (*transaction._requirements, uuid)
                # Not `commit_transaction`, which would try again on top of what it has not looked at.
                self.state.table._do_commit(transaction._updates, requirements)
        except (CommitFailedException, TableAlreadyExistsError, NoSuchTableError) as error:
            raise Late from error

    def failed(self) -> None:
        """It did not come to be: what names its files goes."""
        self.is_in_doubt = False
        self._producer._clean_all_uncommitted()

    def discard(self, source: Source | None = None) -> None:
        """Remove the files that no version names; with `source`, also those that its data became."""
        if self.is_in_doubt:
            return
        gone = self._own + (source.files if source else [])
        for file in gone:
            with suppress(Exception):  # left behind, it is named by nobody
                self._begun._table.io.delete(file.file_path)
        self._own = []

    @property
    def _begun(self) -> Transaction:
        assert self._transaction is not None, "begin comes first"
        return self._transaction

    @property
    def _root(self) -> str:
        return str(self._catalog.catalog.properties["fourfold.place"]).rstrip("/")

    def _written(self, rows: pa.Table) -> list[DataFile]:
        if not len(rows):
            return []
        metadata = self._begun.table_metadata
        form = columns.iceberg_form(metadata.schema())
        data = pa.Table.from_arrays([rows.column(field.name).cast(field.type) for field in form], schema=form)
        try:
            return list(_dataframe_to_data_files(metadata, data, self._begun._table.io))
        except OverflowError as error:  # of the ends of a file's columns, which pyiceberg makes Python's
            raise Refused(
                f"table '{self.name}': pyiceberg keeps no times beyond the years 1 to 9999",
                ways_on=["leave such values out, or keep them as text", "tables in Delta format keep them"],
                table=self.name,
            ) from error
