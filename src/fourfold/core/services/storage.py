"""The storage floor's service: versioned tables and content-addressed blobs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from fourfold.core.routes import Role, route
from fourfold.core.storage import Condition, Digest, Scalar, TableInfo, TableVersion
from fourfold.core.times import Instant

if TYPE_CHECKING:
    import pyarrow as pa


class Storage(Protocol):
    """Tables whose every version stays readable, and blobs under their own digest.

    A write that returned survives `kill -9` and, locally, a power cut; one that raised left nothing to
    see. Inside a step, reads and writes are recorded as lineage, and a repeated attempt's write is
    recognised: it changes nothing and answers as the first one did.

    Errors: `Refused` for a wrong name, schema, column or value (nothing was changed), `NotFound` for an
    unknown table, version, tag or digest, `Conflict` when two writers changed the same rows, `Corrupted`,
    `OutOfSpace`, `Unavailable`.
    """

    @route("POST /tables/{name}/append", needs=Role.editor)
    def append(self, name: str, data: pa.Table, *, partition_by: tuple[str, ...] = ()) -> TableVersion:
        """Add rows; the first write creates the table with the data's columns.

        `partition_by` counts at creation, and is checked afterwards when given.
        """
        ...

    @route("POST /tables/{name}/overwrite", needs=Role.editor)
    def overwrite(
        self,
        name: str,
        data: pa.Table,
        *,
        where: Mapping[str, Scalar] | None = None,
        partition_by: tuple[str, ...] = (),
    ) -> TableVersion:
        """Replace all rows, or those of one partition: `where={"day": "2013-01-01"}`.

        Older versions stay readable. Replacing all rows may change the columns too.
        """
        ...

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

    @route("GET /tables/{name}/history", needs=Role.viewer)
    def history(self, name: str, *, limit: int = 1000) -> tuple[TableVersion, ...]:
        """The table's versions, newest first."""
        ...

    @route("GET /tables/{name}", needs=Role.viewer)
    def describe(self, name: str, *, version: int | None = None) -> TableInfo:
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

    @route("DELETE /tables/{name}", needs=Role.admin)
    def drop(self, name: str, *, why: str = "") -> None:
        """Remove a table with all its versions. Its name is retired: what cites it stays unambiguous."""
        ...

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
