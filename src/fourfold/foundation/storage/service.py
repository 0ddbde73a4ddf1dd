"""The storage floor's service: tables and blobs, recorded in the catalog and in lineage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pyarrow as pa

from fourfold.catalog.database import Catalog
from fourfold.core import context
from fourfold.core.access import Access, TableGrant
from fourfold.core.context import Ref
from fourfold.core.decide import branching, keys
from fourfold.core.decide.renaming import Names
from fourfold.core.errors import FourfoldError, NotFound, Refused
from fourfold.core.forgetting import PersonKey, TableForgotten, Tombstone
from fourfold.core.ports.blobs import BlobStore, Digest
from fourfold.core.ports.buffer import Entry, RowBuffer, Waiting
from fourfold.core.ports.clock import Clock
from fourfold.core.ports.tables import Commit, Difference, Rows, TableStore
from fourfold.core.services.storage import RETENTION_S
from fourfold.core.settings import BufferSettings
from fourfold.core.storage import (
    MAIN,
    Branch,
    Column,
    Condition,
    Exported,
    Inserted,
    Scalar,
    TableDiff,
    TableInfo,
    TableVacuum,
    TableVersion,
    check_tag,
    table_address,
)
from fourfold.core.times import Instant
from fourfold.foundation.storage.access.grants import Grants
from fourfold.foundation.storage.branches import Branches
from fourfold.foundation.storage.changes import compared
from fourfold.foundation.storage.checks.gate import Gate
from fourfold.foundation.storage.exporting import Targets, exported
from fourfold.foundation.storage.files import callers_file
from fourfold.foundation.storage.forgetting.service import Forgetting
from fourfold.foundation.storage.inserting import NO_BUFFER, Inserting
from fourfold.foundation.storage.naming import Naming
from fourfold.foundation.storage.retiring import Retiring
from fourfold.foundation.storage.tables import TableRecords
from fourfold.foundation.storage.versions import MOST_HISTORY, Versions

DEFAULT_BOUNDS = BufferSettings()
NOWHERE: Targets = {}
MOST_SHOWN = 1000
"""Rows of each kind that a diff shows."""


class Storage:
    """Fulfils `core.services.storage.Storage` over a catalog, a blob store and a table store.

    The table store's log is the truth. A row about a version is written to the catalog after it; where a
    crash or a full disk came between, the next call that looks at the table fills the row in.
    """

    def __init__(
        self,
        catalog: Catalog,
        blobs: BlobStore,
        tables: TableStore,
        clock: Clock,
        *,
        buffer: RowBuffer = NO_BUFFER,
        bounds: BufferSettings = DEFAULT_BOUNDS,
        exports: Targets = NOWHERE,
    ) -> None:
        self._exports = exports
        self._records = TableRecords(catalog)
        self._blobs = blobs
        self._tables = tables
        self._clock = clock
        self._versions = Versions(self._records, tables, clock)
        self._naming = Naming(self._records, self._versions, tables)
        self._gate = Gate(catalog, self._versions, self._naming, tables, blobs, clock)
        self._branches = Branches(self._records, self._versions, self._naming, tables, self._gate)
        self._retiring = Retiring(self._records, self._versions, tables, clock)
        self._inserting = Inserting(
            self._records, self._versions, self._naming, self._gate.kept, tables, buffer, clock, bounds
        )
        self._forgetting = Forgetting(
            catalog, self._records, self._versions, tables, self._gate, self._inserting, clock
        )
        self._grants = Grants(catalog, clock)

    def watch(self) -> None:
        """Flush what other processes left behind too, from now on."""
        self._inserting.buffered.watch()

    def close(self) -> None:
        """End the thread that flushes; what was inserted waits for whoever opens the project next."""
        self._inserting.buffered.close()

    # Who may do what: every method asks one of these about the name that it was given.

    def _to_read(self, name: str) -> str:
        """The address, if it may be read."""
        return self._allowed(name, Access.read)

    def _allowed(self, name: str, wanted: Access) -> str:
        """The address, if whoever acts now may do this with its table; a branch is its table's."""
        address = table_address(name)
        self._grants.check(address.table, wanted)
        return str(address)

    def _to_append(self, name: str) -> str:
        """The address, if rows may be added there."""
        address = self._allowed(name, Access.write)
        self._versions.check_open(address)
        return address

    def _to_change(self, name: str) -> str:
        """The address, if what is there may be changed; rows that wait in front of the table belong to it
        from here on."""
        address = self._to_append(name)
        self._inserting.settle(address)
        return address

    def _to_drop(self, name: str) -> str:
        """The address, if it may be removed for good; what is gone may be removed again.

        A table needs who manages it; a branch who may write there, and so could begin it.
        """
        is_branch = table_address(name).branch != MAIN
        return self._allowed(name, Access.write if is_branch else Access.manage)

    # Writing tables

    def append(self, name: str, data: Rows, *, partition_by: tuple[str, ...] = ()) -> TableVersion:
        address = self._to_append(name)
        mark, names = self._versions.mark(), self._naming.newest(address)

        def write(at: str, rows: Rows) -> Commit:
            fitted = self._naming.fitted(address, names, rows)
            return self._tables.append(at, fitted, partition_by=names.store(partition_by), mark=mark)

        with self._told(address, names):
            commit = self._gate.write("append", address, data, mark, write)
        return self._versions.record(address, commit)

    def insert(self, name: str, data: pa.Table) -> Inserted:
        address = self._to_append(name)
        self._gate.look_at_insert(address, data)
        return self._inserting.insert(address, data)

    def flush(self, name: str) -> TableVersion:
        return self._inserting.flush(self._to_read(name))

    def overwrite(
        self,
        name: str,
        data: Rows,
        *,
        where: Mapping[str, Scalar] | None = None,
        partition_by: tuple[str, ...] = (),
    ) -> TableVersion:
        address = self._to_change(name)
        mark, names = self._versions.mark(), self._naming.newest(address)

        def write(at: str, rows: Rows) -> Commit:
            after = names
            if where:
                rows = self._naming.fitted(address, names, rows)
            else:
                after, rows = self._naming.anew(address, names, rows, mark.at)
            part = None if where is None else {after.stored(column): value for column, value in where.items()}
            return self._tables.overwrite(
                at, rows, where=part, partition_by=after.store(partition_by), mark=mark
            )

        with self._told(address, names):
            commit = self._gate.write("overwrite" if where else "replace", address, data, mark, write)
        return self._versions.record(address, commit)

    def upsert(self, name: str, data: Rows, *, key: tuple[str, ...]) -> TableVersion:
        address = self._to_change(name)
        mark, names = self._versions.mark(), self._naming.newest(address)

        def write(at: str, rows: Rows) -> Commit:
            fitted = self._naming.fitted(address, names, rows)
            return self._tables.upsert(at, fitted, key=names.store(key), mark=mark)

        with self._told(address, names):
            commit = self._gate.write("upsert", address, data, mark, write)
        return self._versions.record(address, commit)

    def delete(self, name: str, *, where: tuple[Condition, ...]) -> TableVersion:
        address = self._to_change(name)
        mark, names = self._versions.mark(), self._naming.newest(address)
        self._naming.check(address, names, [column for column, _, _ in where])
        with self._told(address, names):
            commit = self._tables.delete(address, where=names.conditions(where), mark=mark)
        return self._versions.record(address, commit)

    def evolve(
        self,
        name: str,
        *,
        add: Mapping[str, str] | None = None,
        widen: Mapping[str, str] | None = None,
        rename: Mapping[str, str] | None = None,
    ) -> TableVersion:
        address = self._to_change(name)
        mark = self._versions.mark()
        commit = self._naming.evolve(address, add or {}, widen or {}, rename or {}, mark)
        return self._versions.record(address, commit, {"renamed": dict(rename)} if rename else {})

    def restore(
        self, name: str, *, version: int | None = None, at: Instant | None = None, tag: str | None = None
    ) -> TableVersion:
        address = self._to_change(name)
        if version is None and at is None and tag is None:
            raise Refused(f"which version of '{address}' is to be restored?", ways_on=["version=3"])
        mark = self._versions.mark()
        wanted = self._versions.resolve(address, version=version, at=at, tag=tag)
        commit = self._tables.restore(address, version=wanted, mark=mark)
        self._naming.follow(address, commit, self._records.names(address, wanted))
        made = self._versions.record(address, commit, {"restored": wanted})
        self._versions.connect(Ref("table", address, str(wanted)), made)
        return made

    def compact(
        self, name: str, *, cluster_by: tuple[str, ...] = (), target_bytes: int = 128 * 2**20
    ) -> TableVersion | None:
        address = self._to_change(name)
        if target_bytes < 1:
            raise Refused(f"files cannot have a size of {target_bytes} bytes")
        mark, names = self._versions.mark(), self._naming.newest(address)
        self._naming.check(address, names, cluster_by)
        commit = self._tables.compact(
            address, cluster_by=names.store(cluster_by), target_bytes=target_bytes, mark=mark
        )
        return None if commit is None else self._versions.record(address, commit)

    @contextmanager
    def _told(self, address: str, names: Names) -> Iterator[None]:
        """Within the block, a store's refusal is said with what a person knows of the table."""
        try:
            with names.explained():
                yield
        except NotFound:
            self._versions.snapshot(address)  # it is the table that is not there, if this fails
            raise

    # Reading tables

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
        return self.scan(name, version=version, at=at, tag=tag, columns=columns, where=where).read_all()

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
        address = self._to_read(name)
        if version is None and at is None and tag is None:
            if context.ambient() is None:
                return self._watched(address, self._inserting.scan(address, columns, where))
            self._inserting.settle(address)  # who records what was read names a version
        pinned = self._versions.resolve(address, version=version, at=at, tag=tag)
        reader = self._naming.scan(address, pinned, columns, where)
        context.record_read(Ref("table", address, str(pinned)))
        return self._watched(address, reader)

    def _watched(self, address: str, reader: pa.RecordBatchReader) -> pa.RecordBatchReader:
        """The same batches. A table that is dropped while it is read says that, not which file is gone."""

        def batches() -> Iterator[pa.RecordBatch]:
            try:
                yield from reader
            except FourfoldError:
                self._versions.snapshot(address)
                raise

        return pa.RecordBatchReader.from_batches(reader.schema, batches())

    def export(
        self,
        name: str,
        to: str,
        *,
        version: int | None = None,
        at: Instant | None = None,
        tag: str | None = None,
    ) -> Exported:
        address = self._to_read(name)
        if version is None and at is None and tag is None:
            self._inserting.settle(address)
        pinned = self._versions.resolve(address, version=version, at=at, tag=tag)
        rows, info = self.scan(address, version=pinned), self.describe(address, version=pinned)
        return exported(
            self._exports, to, address, pinned, rows,
            partition_by=info.partition_by, mark=self._versions.mark(),
        )  # fmt: skip

    # What differs between versions

    def diff(
        self, name: str, *, before: int, after: int | None = None, key: tuple[str, ...] = (), limit: int = 20
    ) -> TableDiff:
        if not 0 <= limit <= MOST_SHOWN:
            raise Refused(f"limit must be from 0 to {MOST_SHOWN}, not {limit}")
        address, upto = self._two(name, before, after)
        found = self._naming.difference(address, before, upto)
        old, new = (self._naming.schema(address, version) for version in (before, upto))
        shared = set(found.added.schema.names)
        with compared(address, found, self._key(address, key, found)) as changes:
            counts = changes.counts()
            return TableDiff(
                name=address,
                before=before,
                after=upto,
                key=key,
                added=counts["added"],
                removed=counts["removed"],
                changed=counts["after"],
                columns_added=tuple(each for each in columns_of(new) if each.name not in shared),
                columns_removed=tuple(each for each in columns_of(old) if each.name not in shared),
                added_rows=tuple(changes.some("added", limit)),
                removed_rows=tuple(changes.some("removed", limit)),
                changed_rows=tuple(
                    zip(changes.some("before", limit), changes.some("after", limit), strict=True)
                ),
            )

    def changes(
        self, name: str, *, before: int, after: int | None = None, key: tuple[str, ...] = ()
    ) -> pa.RecordBatchReader:
        address, upto = self._two(name, before, after)
        found = self._naming.difference(address, before, upto)
        opened = ExitStack()
        changes = opened.enter_context(compared(address, found, self._key(address, key, found)))

        def batches() -> Iterator[pa.RecordBatch]:
            with opened:
                yield from changes.stream()

        return pa.RecordBatchReader.from_batches(changes.schema, batches())

    def _two(self, name: str, before: int, after: int | None) -> tuple[str, int]:
        """The address, and the later version, once both may be read and are noted as read."""
        address = self._to_read(name)
        if after is None:
            self._inserting.settle(address)
        upto = self._versions.resolve(address, version=after, at=None, tag=None)
        for version in (before, upto):
            context.record_read(Ref("table", address, str(version)))
        return address, upto

    @staticmethod
    def _key(address: str, key: tuple[str, ...], found: Difference) -> tuple[str, ...]:
        if key:
            keys.check_columns(address, found.added.schema, key)
        return key

    def catch_up(self) -> None:
        """Fill the catalog in with every version that the tables' own logs know, and flush what waits."""
        for name in self._inserting.waiting():
            self._inserting.settle(name)
        self._versions.catch_up_all()

    def still(self) -> AbstractContextManager[None]:
        """Within the block no row is inserted, and none leaves the buffer; keep it short."""
        return self._inserting.buffered.still()

    def waiting_above(self, versions: Mapping[str, int]) -> Iterator[tuple[str, Entry]]:
        """The inserts that are in none of these versions of their tables."""
        return self._inserting.buffered.above(versions)

    # What there is

    def history(self, name: str, *, limit: int = 1000) -> tuple[TableVersion, ...]:
        address = self._to_read(name)
        if not 1 <= limit <= MOST_HISTORY:
            raise Refused(f"limit must be from 1 to {MOST_HISTORY}, not {limit}")
        self._versions.catch_up(address, self._versions.snapshot(address).version)
        return self._forgetting.noted(address, self._records.versions(address, limit))

    def describe(
        self, name: str, *, version: int | None = None, at: Instant | None = None, tag: str | None = None
    ) -> TableInfo:
        address = self._to_read(name)
        pinned = self._versions.resolve(address, version=version, at=at, tag=tag)
        is_newest = version is None and at is None and tag is None
        return self._info(address, pinned, self._inserting.waiting() if is_newest else {})

    def list_tables(self) -> tuple[TableInfo, ...]:
        dropped, waiting = self._records.dropped(), self._inserting.waiting()
        names = tuple(name for name in self._tables.names() if name not in dropped)
        return tuple(self._info(name, None, waiting) for name in self._grants.readable(names))

    def _info(self, address: str, version: int | None, waiting: Mapping[str, Waiting]) -> TableInfo:
        snapshot = self._versions.snapshot(address, version)
        names = self._records.names(address, snapshot.version)
        return TableInfo(
            name=address,
            version=snapshot.version,
            at=snapshot.at,
            rows=snapshot.rows,
            size_bytes=snapshot.size_bytes,
            columns=columns_of(names.show(snapshot.schema)),
            partition_by=tuple(map(names.shown, snapshot.partition_by)),
            tags=self._records.tags(address),
            file_count=snapshot.file_count,
            waiting_rows=waiting[address].rows if address in waiting else 0,
        )

    def tag(self, name: str, tag: str, *, version: int | None = None, why: str = "") -> TableVersion:
        address = self._to_append(name)
        check_tag(tag)
        if version is None:
            self._inserting.settle(address)
        wanted = self._versions.resolve(address, version=version, at=None, tag=None)
        found = self._versions.readable(address, wanted)
        self._records.put_tag(self._clock.now(), address, tag, wanted, why)
        return found

    # Branches, and removing

    def fork(self, name: str, branch: str, *, version: int | None = None, why: str = "") -> TableVersion:
        self._to_append(branching.branch_of(name, branch, "be branched"))
        return self._branches.fork(self._to_change(name), branch, version, why)

    def branches(self, name: str) -> tuple[Branch, ...]:
        return self._branches.all(branching.only_table(self._to_read(name), "have branches"))

    def publish(self, name: str, branch: str, *, why: str = "") -> TableVersion:
        self._to_read(branching.branch_of(name, branch, "be published into"))
        return self._branches.publish(self._to_change(name), branch, why)

    def drop_branch(self, name: str, branch: str, *, why: str = "") -> None:
        self._retiring.drop(self._to_drop(branching.branch_of(name, branch, "have branches")), why)

    def vacuum(self, name: str, *, older_than_s: float = RETENTION_S, dry_run: bool = False) -> TableVacuum:
        table = branching.only_table(self._to_drop(name), "be vacuumed")
        self._inserting.settle(table)
        return self._retiring.vacuum(table, older_than_s, dry_run=dry_run)

    def forget(
        self, name: str, *, keys: tuple[PersonKey, ...], why: str = "", dry_run: bool = False
    ) -> TableForgotten:
        table = branching.only_table(self._to_drop(name), "be forgotten from by itself")
        if dry_run:
            return self._forgetting.would(table, keys)
        self._versions.check_open(table)
        return self._forgetting.forget(table, keys, why)

    def forget_again(self, name: str, *, dry_run: bool = False) -> tuple[TableForgotten, ...]:
        table = branching.only_table(self._to_drop(name), "be forgotten from by itself")
        return self._forgetting.again(table, dry_run=dry_run)

    def forgotten(self, name: str | None = None) -> tuple[Tombstone, ...]:
        found = self._forgetting.all(None if name is None else table_address(name).table)
        for table in {name} if name is not None else {tombstone.table for tombstone in found}:
            self._to_drop(table)
        return found

    def drop(self, name: str, *, why: str = "") -> None:
        table = branching.only_table(self._to_drop(name), "be dropped as a table is")
        self._retiring.drop(table, why)
        self._inserting.drop(table)
        self._gate.forget(table)

    # Access

    def table_grants(self, name: str | None = None) -> tuple[TableGrant, ...]:
        return self._grants.all(name)

    def grant_table(self, pattern: str, who: str, access: Access) -> TableGrant:
        return self._grants.give(pattern, who, access)

    def revoke_table(self, pattern: str, who: str) -> None:
        self._grants.take(pattern, who)

    # Blobs

    def put_blob(self, data: bytes | Iterable[bytes]) -> Digest:
        return self._blobs.put(data)

    def get_blob(self, digest: Digest) -> bytes:
        return self._blobs.get(digest)

    def put_file(self, path: Path) -> Digest:
        with callers_file(path):
            return self._blobs.put_file(path)

    def materialize(self, digest: Digest, path: Path, *, executable: bool = False) -> None:
        self._blobs.materialize(digest, path, executable=executable)


def columns_of(schema: pa.Schema) -> tuple[Column, ...]:
    """The columns of a schema, in words."""
    return tuple(Column(field.name, str(field.type), field.nullable) for field in schema)
