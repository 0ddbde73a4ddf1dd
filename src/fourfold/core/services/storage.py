"""The storage floor's service: versioned tables and content-addressed blobs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from fourfold.core.access import Access, TableGrant
from fourfold.core.forgetting import PersonKey, TableForgotten, Tombstone
from fourfold.core.routes import Role, route
from fourfold.core.storage import (
    Branch,
    Condition,
    Digest,
    Exported,
    Inserted,
    Scalar,
    TableDiff,
    TableInfo,
    TableVacuum,
    TableVersion,
)
from fourfold.core.times import Instant

if TYPE_CHECKING:
    import pyarrow as pa


RETENTION_S = 7 * 86400.0
"""How long a version that was replaced stays readable, unless something else is said."""


class Storage(Protocol):
    """Tables whose every version stays readable, and blobs under their own digest.

    A table's name may be a branch's address, `flights@dev/try-1`, everywhere but where a branch itself is
    named. A write that returned survives `kill -9` and, locally, a power cut; one that raised left nothing
    to see. Inside a step, reads and writes are recorded as lineage, and a repeated attempt's write is
    recognised: it changes nothing and answers as the first one did.

    Errors: `Refused` for a wrong name, schema, column or value (nothing was changed), `NotFound` for an
    unknown table, branch, version, tag or digest and for a version that was vacuumed, `Conflict` when two
    writers changed the same rows, `Corrupted`, `OutOfSpace`, `Unavailable`.
    """

    # Writing. Data that is a stream is written batch by batch, and is one version all the same.

    @route("POST /tables/{name}/append", needs=Role.editor)
    def append(
        self, name: str, data: pa.Table | pa.RecordBatchReader, *, partition_by: tuple[str, ...] = ()
    ) -> TableVersion:
        """Add rows; the first write creates the table with the data's columns.

        `partition_by` counts at creation, and is checked afterwards when given.
        """
        ...

    @route("POST /tables/{name}/insert", needs=Role.editor)
    def insert(self, name: str, data: pa.Table) -> Inserted:
        """Add rows that come a few at a time: kept durably and seen by readers at once, in a version later.

        Costs one transaction, where an append costs a file and a log entry. The first insert creates the
        table. Rows wait until there are enough of them, or a minute, or until somebody needs a version.
        """
        ...

    @route("POST /tables/{name}/flush", needs=Role.viewer)
    def flush(self, name: str) -> TableVersion:
        """Bring what was inserted into a version, and say which; the newest one when nothing waited.

        It changes nothing that is read, so whoever may read may ask for it.
        """
        ...

    @route("POST /tables/{name}/overwrite", needs=Role.editor)
    def overwrite(
        self,
        name: str,
        data: pa.Table | pa.RecordBatchReader,
        *,
        where: Mapping[str, Scalar] | None = None,
        partition_by: tuple[str, ...] = (),
    ) -> TableVersion:
        """Replace all rows, or those of one partition: `where={"day": "2013-01-01"}`.

        Older versions stay readable. Replacing all rows may change the columns too.
        """
        ...

    @route("POST /tables/{name}/upsert", needs=Role.editor)
    def upsert(
        self, name: str, data: pa.Table | pa.RecordBatchReader, *, key: tuple[str, ...]
    ) -> TableVersion:
        """Put each row in the place of the one with its key, or add it where there is none.

        Refused: a key that is null, or that the data holds twice.
        """
        ...

    @route("POST /tables/{name}/delete", needs=Role.editor)
    def delete(self, name: str, *, where: tuple[Condition, ...]) -> TableVersion:
        """Remove the rows for which all conditions hold, all if there is none. Older versions keep them."""
        ...

    @route("POST /tables/{name}/evolve", needs=Role.editor)
    def evolve(
        self,
        name: str,
        *,
        add: Mapping[str, str] | None = None,
        widen: Mapping[str, str] | None = None,
        rename: Mapping[str, str] | None = None,
    ) -> TableVersion:
        """Change the columns: new ones and wider types (`{"gate": "string"}`), or names (`{"old": "new"}`).

        Rows stay what they were; a new column is null in them. A new name counts from this version on:
        older versions keep the names that they had. What would lose data is refused.
        """
        ...

    @route("POST /tables/{name}/restore", needs=Role.editor)
    def restore(
        self, name: str, *, version: int | None = None, at: Instant | None = None, tag: str | None = None
    ) -> TableVersion:
        """Make a new version that is what an older one was, its columns and their names too."""
        ...

    @route("POST /tables/{name}/compact", needs=Role.editor)
    def compact(
        self, name: str, *, cluster_by: tuple[str, ...] = (), target_bytes: int = 128 * 2**20
    ) -> TableVersion | None:
        """Write small files together; nothing is answered when there is nothing to gain.

        `cluster_by` lays rows so that a condition on any of these columns skips files. No row changes.
        """
        ...

    # Reading

    @route("POST /tables/{name}/read", needs=Role.viewer)
    def read(
        self,
        name: str,
        *,
        version: int | None = None,
        at: Instant | None = None,
        tag: str | None = None,
        columns: tuple[str, ...] | None = None,
        where: tuple[Condition, ...] = (),
    ) -> pa.Table:
        """The rows of the newest version, or of one named by number, time or tag (at most one of these).

        Where nothing is named, rows that were inserted and wait are among them, and the schema's metadata
        says so: `fourfold.version` is `12+340`, and `fourfold.repeatable` is `false`. In a step they are
        brought into a version first, and that one is read.

        `where` keeps rows for which all conditions hold: `(("day", ">=", "2013-02-01"),)`; a comparison
        with null holds for none. Row order is not promised.
        """
        ...

    @route("POST /tables/{name}/scan", needs=Role.viewer)
    def scan(
        self,
        name: str,
        *,
        version: int | None = None,
        at: Instant | None = None,
        tag: str | None = None,
        columns: tuple[str, ...] | None = None,
        where: tuple[Condition, ...] = (),
    ) -> pa.RecordBatchReader:
        """As `read`, as a stream of batches: for tables larger than memory."""
        ...

    @route("POST /tables/{name}/diff", needs=Role.viewer)
    def diff(
        self, name: str, *, before: int, after: int | None = None, key: tuple[str, ...] = (), limit: int = 20
    ) -> TableDiff:
        """Rows added, removed and (with a key) changed from one version to another (the newest, if not said).

        Counts are of all rows; at most `limit` rows of each kind are shown.
        """
        ...

    @route("POST /tables/{name}/changes", needs=Role.viewer)
    def changes(
        self, name: str, *, before: int, after: int | None = None, key: tuple[str, ...] = ()
    ) -> pa.RecordBatchReader:
        """As `diff`, every row as a stream: first what happened to it, then the table's columns.

        The first column, `change`, says `added`, `removed`, or (with a key) `before` and `after`, which
        follow one another. Where the table has a column of this name, the first is called `change_`.
        """
        ...

    @route("GET /tables/{name}/history", needs=Role.viewer)
    def history(self, name: str, *, limit: int = 1000) -> tuple[TableVersion, ...]:
        """The table's versions, newest first."""
        ...

    @route("GET /tables/{name}", needs=Role.viewer)
    def describe(
        self, name: str, *, version: int | None = None, at: Instant | None = None, tag: str | None = None
    ) -> TableInfo:
        """Columns, rows, size, partitions and tags."""
        ...

    @route("GET /tables", needs=Role.viewer)
    def list_tables(self) -> tuple[TableInfo, ...]:
        """All tables, sorted by name."""
        ...

    @route("POST /tables/{name}/tags/{tag}", needs=Role.editor)
    def tag(self, name: str, tag: str, *, version: int | None = None, why: str = "") -> TableVersion:
        """Give a version a name of its own (the newest, if none is given); the tag may move later."""
        ...

    @route("POST /tables/{name}/exports/{to}", needs=Role.editor)
    def export(
        self,
        name: str,
        to: str,
        *,
        version: int | None = None,
        at: Instant | None = None,
        tag: str | None = None,
    ) -> Exported:
        """Write a version (the newest, if none is given) to a place that the settings name in `[exports]`.

        The table of the same name there then holds these rows, as a version of its own. A version that is
        there already is not written again.
        """
        ...

    # Branches

    @route("POST /tables/{name}/branches/{branch}", needs=Role.editor)
    def fork(self, name: str, branch: str, *, version: int | None = None, why: str = "") -> TableVersion:
        """Begin a branch at a version (the newest, if none is given); no row is copied."""
        ...

    @route("GET /tables/{name}/branches", needs=Role.viewer)
    def branches(self, name: str) -> tuple[Branch, ...]:
        """The table's branches, sorted by name."""
        ...

    @route("POST /tables/{name}/branches/{branch}/publish", needs=Role.editor)
    def publish(self, name: str, branch: str, *, why: str = "") -> TableVersion:
        """Bring what was done on a branch into its table, as one version; the branch stays.

        `Conflict` when the table changed meanwhile, unless both only added rows.
        """
        ...

    @route("DELETE /tables/{name}/branches/{branch}", needs=Role.editor)
    def drop_branch(self, name: str, branch: str, *, why: str = "") -> None:
        """Remove a branch with its versions. Its name is retired, as a table's is."""
        ...

    # Removing

    @route("POST /tables/{name}/vacuum", needs=Role.admin)
    def vacuum(self, name: str, *, older_than_s: float = RETENTION_S, dry_run: bool = False) -> TableVacuum:
        """Remove the files of versions that were replaced longer ago than this.

        Kept all the same: the newest version, those with a tag, those that a run, model version, training
        set, endpoint or dataset was made from, and what branches use.
        """
        ...

    @route("POST /tables/{name}/forget", needs=Role.admin)
    def forget(
        self, name: str, *, keys: tuple[PersonKey, ...], why: str = "", dry_run: bool = False
    ) -> TableForgotten:
        """Take a person's rows out of every version, tag and branch of a table, whatever cites them.

        A row is meant when it has all values of one of the keys: `keys=({"person": "p-17"},)`. Gone with them
        are rows that wait or were kept aside, statistics, and what the log tells of values. Versions keep
        their numbers. The answer lists what was made from the rows, by lineage: training sets, runs, models,
        endpoints, datasets, other tables. Doing it again finishes what was cut off.
        """
        ...

    @route("POST /tables/{name}/forget-again", needs=Role.admin)
    def forget_again(self, name: str, *, dry_run: bool = False) -> tuple[TableForgotten, ...]:
        """Forget anew what was forgotten after this state: once an older backup was brought back, and after
        one that was cut off. Whose rows they are is found by digests; nobody has to say it again."""
        ...

    @route("GET /table-forgettings", needs=Role.admin)
    def forgotten(self, name: str | None = None) -> tuple[Tombstone, ...]:
        """That rows of a table (of any, if none is named) were forgotten: when, by whom, what had seen them;
        never whose. Newest first."""
        ...

    @route("DELETE /tables/{name}", needs=Role.admin)
    def drop(self, name: str, *, why: str = "") -> None:
        """Remove a table with all its versions and branches.

        Its name is retired: what cites it stays unambiguous.
        """
        ...

    # Who may do what. Beyond the project's roles: a grant that names a table narrows it to those on its list.

    @route("GET /table-grants", needs=Role.viewer)
    def table_grants(self, name: str | None = None) -> tuple[TableGrant, ...]:
        """Every grant by pattern; for one table those that decide about it (none: the project's roles do)."""
        ...

    @route("PUT /table-grants/{pattern}/{who}", needs=Role.editor)
    def grant_table(self, pattern: str, who: str, access: Access) -> TableGrant:
        """Let a principal, or all of a role (`role:editor`), read, write or manage tables: `raw.*`.

        From the first grant on, the tables of a pattern are for those on its list, and for admins. Of
        several patterns that name a table the most exact one alone counts. `Denied` for who does not manage
        the table; about patterns, and tables without a list, an admin says it.
        """
        ...

    @route("DELETE /table-grants/{pattern}/{who}", needs=Role.editor)
    def revoke_table(self, pattern: str, who: str) -> None:
        """Take a grant back. Without the last one of a pattern the project's roles say it again."""
        ...

    # Blobs

    @route("POST /blobs", needs=Role.editor)
    def put_blob(self, data: bytes | Iterable[bytes]) -> Digest:
        """Store bytes under their digest; in pieces where they need not fit in memory."""
        ...

    @route("GET /blobs/{digest}", needs=Role.viewer)
    def get_blob(self, digest: Digest) -> bytes:
        """The bytes of a digest, verified."""
        ...

    # In process only: these touch the caller's own files.

    def put_file(self, path: Path) -> Digest:
        """Store a file's bytes under their digest."""
        ...

    def materialize(self, digest: Digest, path: Path, *, executable: bool = False) -> None:
        """Put a blob's bytes at `path`, read-only."""
        ...
