"""One write: its data files, made once for as long as the table's columns stay, and its commit."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Schema, Transaction
from deltalake.transaction import AddAction, PostCommitHookProperties, create_table_with_add_actions

from fourfold.adapters.delta.disk import out_of_space, sync
from fourfold.adapters.delta.files import partition_text, write_files
from fourfold.core.decide import partitions, schemas
from fourfold.core.ports.tables import Mark
from fourfold.core.storage import Scalar

OVERWRITE = "fourfold.overwrite"
"""Every overwrite carries this Delta transaction, so that of two at once one sees the other. Without it
two writers could both "replace" a partition that was empty, and both their rows would stay."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a table's data files have in common: its columns, and by which of them it is partitioned."""

    schema: pa.Schema
    partitions: tuple[str, ...]

    @classmethod
    def of(cls, table: DeltaTable) -> Shape:
        return cls(arrow_schema(table), tuple(table.metadata().partition_columns))


class Write:
    """Prepared for the table's present shape, then committed; again, if others change the table first."""

    def __init__(
        self,
        folder: Path,
        data: pa.Table,
        operation: str,
        where: dict[str, Scalar],
        partition_by: tuple[str, ...],
        mark: Mark,
    ) -> None:
        self.token = secrets.token_hex(16)
        self.is_in_doubt = False
        """Whether a commit was begun and nobody looked yet what became of it."""
        self._folder = folder
        self._name = folder.name
        self._data = data
        self._operation = operation
        self._where = where
        self._partition_by = partition_by
        self._mark = mark
        self._found: Shape | None = None
        self._shape: Shape | None = None
        self._files: list[AddAction] = []
        self._filters: list[tuple[str, str, str]] = []

    @contextmanager
    def discarded_unless_committed(self) -> Iterator[None]:
        """Files of a write that did not come to be are removed (a killed process leaves them, unseen)."""
        try:
            yield
        except BaseException:
            if not self.is_in_doubt:
                self.discard()
            raise

    def is_prepared_for(self, shape: Shape | None) -> bool:
        """Whether the files on the disk suit the table as it is."""
        return self._shape is not None and self._found == shape

    def prepare(self, shape: Shape | None) -> None:
        """Check the data against the table as it is (`None`: not there yet), and write the files."""
        replaces_all = self._operation == "overwrite" and not self._where
        columns = partitions.columns(
            self._name, None if shape is None else shape.partitions, self._partition_by
        )
        schema = None if shape is None or replaces_all else shape.schema
        fitted = schemas.fit(self._name, self._data, schema)
        partitions.check(self._name, fitted, columns, self._where)
        self._found = shape
        if self._shape == Shape(fitted.schema, columns):
            return  # only what does not matter to the files has changed
        values = partitions.values(self._name, fitted.schema, self._where)
        self._filters = [(c, "=", partition_text(v.as_py()) or "") for c, v in values.items()]
        self.discard()
        with out_of_space(self._name):
            self._folder.mkdir(parents=True, exist_ok=True)
            for file in write_files(self._folder, self._name, fitted, columns):
                self._files.append(file)
            sync(self._folder)
        self._shape = Shape(fitted.schema, columns)

    def discard(self) -> None:
        """Remove the files that were written."""
        for file in self._files:
            (self._folder / file.path).unlink(missing_ok=True)
        self._files, self._shape = [], None

    def commit(self, table: DeltaTable | None) -> None:
        """Put the files to the log; either all of them are in a version, or none."""
        assert self._shape is not None, "prepared"
        mark, base = self._mark, -1 if table is None else table.version()
        own = {
            "id": self.token,
            "operation": "create" if table is None else self._operation,
            "at": mark.at,
            "key": mark.key,
            "by": mark.by,
            "step": mark.step,
        }
        transactions = [Transaction(mark.key, base + 1)] if mark.key else []
        if self._operation == "overwrite":
            transactions.append(Transaction(OVERWRITE, base + 1))
        properties = CommitProperties(custom_metadata={"fourfold": own}, app_transactions=transactions)
        hooks = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)
        schema = Schema.from_arrow(self._shape.schema)
        self.is_in_doubt = True
        if table is None:
            create_table_with_add_actions(
                str(self._folder),
                schema,
                self._files,
                mode="error",
                partition_by=list(self._shape.partitions),
                # Every version stays readable: nobody else is to clean the log by age.
                configuration={"delta.enableExpiredLogCleanup": "false"},
                commit_properties=properties,
                post_commithook_properties=hooks,
            )
        else:
            table.create_write_transaction(
                list(self._files),
                self._operation,
                schema,
                list(self._shape.partitions),
                self._filters or None,
                commit_properties=properties,
                post_commithook_properties=hooks,
            )


def arrow_schema(table: DeltaTable) -> pa.Schema:
    """The table's columns as Arrow has them."""
    return pa.schema(table.schema().to_arrow())
