"""Versioned tables of Arrow data: what the storage floor asks of a table format."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, TypeAlias

import pyarrow as pa

from fourfold.core.storage import Condition, Scalar
from fourfold.core.times import Instant

Rows: TypeAlias = pa.Table | pa.RecordBatchReader
"""Data to write. A stream is read once, batch by batch, and may be larger than memory."""

RowKey: TypeAlias = Mapping[str, Scalar]
"""Columns with the value that each has in the rows that are meant: text, a whole number, or a truth."""


class Ability(StrEnum):
    """What not every table format can do. A store refuses what it does not list, and says why."""

    upsert = "upsert"
    delete = "delete"
    evolve = "evolve"
    restore = "restore"
    compact = "compact"
    vacuum = "vacuum"
    erase = "erase"
    branch = "branch"
    overwrite_part = "overwrite_part"
    write_keys = "write_keys"


@dataclass(frozen=True, slots=True)
class Commit:
    """One version as the table's own log tells it."""

    version: int
    at: Instant
    operation: str
    """`create`, `append`, `overwrite`, `upsert`, `delete`, `evolve`, `restore`, `compact`, `branch`,
    `publish`, `erase`; another program's word where it wrote the log."""
    rows: int
    """Rows in the whole table after it."""
    rows_added: int
    """Rows that this version brings: all of an append, an overwrite or an upsert. What a restore or a
    publish brings may be counted by whole files; `rows` is always the rows before, plus these, less
    `rows_removed`. A branch's first version brings none."""
    rows_removed: int = 0
    """Rows that it takes away: those an overwrite or an upsert replaces, and those deleted."""
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
    file_count: int = 0
    watermark: int = -1
    """The highest `Mark.watermark` of all commits up to it; -1 when none carried one."""


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
    watermark: int = -1
    """Up to which row of the buffer this write brings the table; kept in the log, and never going back."""
    since: int = -1
    """The watermark that the table must still have for a write that carries one. Where it has another when
    the commit is made, the write changes nothing and answers with the newest commit: of two flushes of
    the same rows that race, one is done. `NotFound` where the table is gone."""

    def __post_init__(self) -> None:
        if 0 <= self.watermark <= self.since:
            raise ValueError(f"watermark {self.watermark} does not go on from {self.since}")


UNMARKED = Mark()


@dataclass(frozen=True, slots=True)
class Evolution:
    """How a table's columns change. Nothing that would lose data can be said; nothing at all makes a version
    that is as the one before (a new name for a column lives in the catalog, from a version on)."""

    add: tuple[pa.Field, ...] = ()
    """New columns, at the end; older rows are null there, so they must be nullable."""
    widen: Mapping[str, pa.DataType] = field(default_factory=dict)
    """Columns whose numbers get a wider type: int32 to int64, float32 to float64, a longer decimal.

    What is allowed is said by `core.decide.evolving`."""


@dataclass(frozen=True, slots=True)
class Vacuumed:
    """What a vacuum removed, or would remove."""

    file_count: int
    size_bytes: int
    versions: tuple[int, ...]
    """Versions that can no longer be read because of it, oldest first."""


@dataclass(frozen=True, slots=True)
class Erased:
    """What an erasure took out of a table, or would take."""

    rows: Mapping[str, Mapping[int, int]]
    """By address (the table's and its branches') and version, how many rows that version had of those."""
    file_count: int
    """Files that held such rows, each counted once."""
    size_bytes: int
    commits: Mapping[str, Commit]
    """By address, the version that was made; none in a dry run, and none where there was nothing to erase."""
    unsure_files: int = 0
    """Files that hold such rows, are named by no version, and were made so lately that somebody may still be
    writing them. They were left where they are: erase again later."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Rows in the files that only one of two versions has. Rows that both have may be in both streams."""

    removed: pa.RecordBatchReader
    added: pa.RecordBatchReader


class TableStore(Protocol):
    """Keeps tables whose every version stays readable until it is vacuumed.

    Names passed `core.storage.table_address`: `flights`, or `flights@dev/try-1` for a branch, which every
    method takes in a table's place, but for `fork`, `publish`, `branches`, `vacuum` and `erase`. Versions and
    write keys are a branch's own: it begins at 0 and knows no key. Versions have no gaps: each write makes
    one, also one that changes no row. A write that returned survives `kill -9` and, on a local disk, a power
    cut; one that raised or died left nothing to see. Writers at once are put in some order, as if one had
    waited for the other. Columns keep their Arrow types, as `core.decide.schemas` says: timestamps in
    microseconds, those with a zone in UTC. Days and times beyond the years 1 to 9999 come back too, or are
    refused.

    Errors: `Refused` when the schema differs (it names the columns), a column is unknown, partitions are
    given that the table does not have, or the store lacks the ability (the fact `ability` names it);
    `NotFound` for an unknown table, branch or version, and for the rows of a version whose files were
    vacuumed (`snapshot` and `history` still tell of it); `Conflict` when others kept changing the table;
    `OutOfSpace`; `Corrupted` when stored bytes cannot be read; `Unavailable` when the place does not answer.
    """

    @property
    def abilities(self) -> frozenset[Ability]:
        """What this store can do beyond appending, overwriting whole tables and reading at a version."""
        ...

    # Writing

    def append(
        self, name: str, data: Rows, *, partition_by: tuple[str, ...] = (), mark: Mark = UNMARKED
    ) -> Commit:
        """Add rows, creating the table (never a branch) if there is none. A table may hold no rows."""
        ...

    def overwrite(
        self,
        name: str,
        data: Rows,
        *,
        where: Mapping[str, Scalar] | None = None,
        partition_by: tuple[str, ...] = (),
        mark: Mark = UNMARKED,
    ) -> Commit:
        """Replace all rows (columns may change), or those where partition columns have these values."""
        ...

    def upsert(self, name: str, data: Rows, *, key: tuple[str, ...], mark: Mark = UNMARKED) -> Commit:
        """Put each row in the place of the one with its key, or add it where there is none.

        The first creates the table. Refused: a key column that is null, or of floats or nested, or a key
        that the data holds twice (`core.decide.keys`). Where the table holds a key several times, all of
        those rows are replaced by the one; its rows with null in a key column stay.
        """
        ...

    def delete(self, name: str, *, where: tuple[Condition, ...], mark: Mark = UNMARKED) -> Commit:
        """Remove the rows for which all conditions hold; no condition removes all rows.

        Older versions keep them. A comparison with null holds for none, so such rows stay.
        """
        ...

    def evolve(self, name: str, change: Evolution, *, mark: Mark = UNMARKED) -> Commit:
        """Change the columns; rows stay what they were (`core.decide.evolving`)."""
        ...

    def restore(self, name: str, *, version: int, mark: Mark = UNMARKED) -> Commit:
        """Make a new version that holds what an older one held, its columns too."""
        ...

    def compact(
        self,
        name: str,
        *,
        cluster_by: tuple[str, ...] = (),
        target_bytes: int = 128 * 2**20,
        mark: Mark = UNMARKED,
    ) -> Commit | None:
        """Write small files together; `None` when there is nothing to gain.

        With `cluster_by`, rows are laid along a Z-order curve over these columns (one column: sorted), so
        that a filter on any of them skips files. No row changes, and readers and appenders go on meanwhile.
        Files of `target_bytes` or more are left as they are, unless rows are laid anew.
        """
        ...

    # Reading

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

    def difference(self, name: str, *, before: int, after: int) -> Difference:
        """What two versions do not share, at the grain of files: all that a comparison must look at.

        Columns are those that both versions have, in the wider of their types and the order of `after`; one
        whose types do not meet is not among them. Refused when none is left.
        """
        ...

    def history(self, name: str, *, after: int = -1, limit: int = 1000) -> tuple[Commit, ...]:
        """Commits with a version greater than `after`, newest first, at most `limit`."""
        ...

    def names(self) -> tuple[str, ...]:
        """All tables, sorted; branches are not among them."""
        ...

    # Branches: cheap copies of a name

    def fork(self, name: str, branch: str, *, version: int, mark: Mark = UNMARKED) -> Commit:
        """Begin a branch at a version of the table. It shares the table's files; no row is copied.

        Its version 0 is what that version is, its watermark too. Refused when the branch is there already.
        """
        ...

    def publish(
        self,
        name: str,
        branch: str,
        *,
        onto: int | None = None,
        becoming: bool = False,
        mark: Mark = UNMARKED,
    ) -> Commit:
        """Bring what was done on a branch into the table, as one version; the branch stays.

        With `onto` only while this is the table's newest version, with `becoming` only where the table
        becomes what the branch is, else `Conflict`: so what was found out before holds of what is made.

        When the table did not change since the branch began (or was last published, and became what it
        was), it becomes what the branch is. When both only added rows, it gets the branch's new ones. Else
        `Conflict`, and nothing changes; also `Refused` where the branch has nothing new
        (`core.decide.branching`).
        """
        ...

    def branches(self, name: str) -> tuple[str, ...]:
        """The branches of a table, sorted."""
        ...

    # Removing

    def vacuum(self, name: str, *, keep: Collection[int], before: Instant, dry_run: bool = False) -> Vacuumed:
        """Remove data files that only versions older than `before` use, other than those in `keep`.

        A version is older when it and the one that followed it were made before then: what was current
        since stays readable (`core.decide.retention`). The newest version is always kept, and so is what
        any branch uses. Files of writes that never came to be are removed once they are older than
        `before`. The history stays.
        """
        ...

    def erase(
        self,
        name: str,
        *,
        keys: Sequence[RowKey],
        before: Instant,
        mark: Mark = UNMARKED,
        dry_run: bool = False,
    ) -> Erased:
        """Take the rows that have one of these keys out of every version of a table and its branches.

        Afterwards nothing in the store holds them: no file, no statistics. Versions keep their numbers, stay
        readable and tell counts without these rows; the table, and each branch that had such a row, get a
        version more, `erase`. What was vacuumed stays vacuumed. It is the one word that changes what a
        version holds, so whoever reads at this moment may be told `NotFound` and reads again.

        A column of a key need not be in every version: where it is missing, no row is meant. Refused when no
        version has it (`core.decide.erasing`). A killed erasure left every version whole, with these rows or
        without, and is finished by doing it again; done twice, the second changes nothing. Files that no
        version names go when they are older than `before`. Rows that others add meanwhile came later.
        """
        ...

    def drop(self, name: str) -> None:
        """Remove the table with all its versions and branches, or one branch, or nothing if it is gone."""
        ...
