"""Versioned tables of Arrow data: what the storage floor asks of a table format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from fourfold.core.storage import Condition, Scalar
from fourfold.core.times import Instant


@dataclass(frozen=True, slots=True)
class Commit:
    """One version as the table's own log tells it."""

    version: int
    at: Instant
    operation: str
    """`create`, `append`, `overwrite`; another program's word where it wrote the log."""
    rows: int
    """Rows in the whole table after it."""
    rows_added: int
    key: str = ""
    """The write key given, if any."""
    by: str = ""
    step: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A table at one version."""

    version: int
    at: Instant
    schema: pa.Schema
    partition_by: tuple[str, ...]
    rows: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Mark:
    """What a write leaves in the log beside its data: when, by whom, in which step.

    `key` makes the write repeatable: a store that has seen it for this table changes nothing and answers
    with the first commit, also when attempts race.
    """

    key: str = ""
    at: Instant = Instant(0)
    """Zero asks the store for its own time."""
    by: str = ""
    step: str = ""


UNMARKED = Mark()


class TableStore(Protocol):
    """Keeps tables whose every version stays readable.

    Names passed `core.storage.table_name`. Versions count from 0 without gaps. A write that returned
    survives `kill -9` and, on a local disk, a power cut; one that raised or died left nothing to see.
    Writers at once are put in some order, as if one had waited for the other. Columns keep their Arrow
    types, as `core.decide.schemas` says: timestamps in microseconds, those with a zone in UTC.

    Errors: `Refused` when the schema differs (it names the columns), a column is unknown, or partitions
    are given that the table does not have; `NotFound` for an unknown table or version; `Conflict` when
    others kept changing the table; `OutOfSpace`; `Corrupted` when stored bytes cannot be read.
    """

    def append(
        self, name: str, data: pa.Table, *, partition_by: tuple[str, ...] = (), mark: Mark = UNMARKED
    ) -> Commit:
        """Add rows, creating the table if there is none. A table may hold no rows."""
        ...

    def overwrite(
        self,
        name: str,
        data: pa.Table,
        *,
        where: Mapping[str, Scalar] | None = None,
        partition_by: tuple[str, ...] = (),
        mark: Mark = UNMARKED,
    ) -> Commit:
        """Replace all rows (columns may change), or those where partition columns have these values."""
        ...

    def snapshot(self, name: str, *, version: int | None = None) -> Snapshot:
        """The newest version, or the one numbered."""
        ...

    def scan(
        self,
        name: str,
        *,
        version: int,
        columns: tuple[str, ...] | None = None,
        where: tuple[Condition, ...] = (),
    ) -> pa.RecordBatchReader:
        """Rows of a version for which all conditions hold; only what is needed is read from disk."""
        ...

    def history(self, name: str, *, after: int = -1, limit: int = 1000) -> tuple[Commit, ...]:
        """Commits with a version greater than `after`, newest first, at most `limit`."""
        ...

    def names(self) -> tuple[str, ...]:
        """All tables, sorted."""
        ...

    def drop(self, name: str) -> None:
        """Remove the table and all its versions; removing what is not there is nothing."""
        ...
