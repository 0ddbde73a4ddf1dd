"""The storage floor's service: tables and blobs, recorded in the catalog and in lineage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import pyarrow as pa

from fourfold.catalog.database import Catalog
from fourfold.core import context
from fourfold.core.catalog import principal
from fourfold.core.errors import NotFound, OutOfSpace, Refused, Unavailable, did_you_mean
from fourfold.core.ports.blobs import BlobStore, Digest
from fourfold.core.ports.clock import Clock
from fourfold.core.ports.tables import Commit, Mark, Snapshot, TableStore
from fourfold.core.storage import Column, Condition, Scalar, TableInfo, TableVersion, table_name
from fourfold.core.times import Instant, iso
from fourfold.foundation.storage.files import callers_file
from fourfold.foundation.storage.tables import TableRecords

MOST_HISTORY = 100_000


class Storage:
    """Fulfils `core.services.storage.Storage` over a catalog, a blob store and a table store.

    The table store's log is the truth. A row about a version is written to the catalog after it; where a
    crash or a full disk came between, the next call that looks at the table fills the row in.
    """

    def __init__(self, catalog: Catalog, blobs: BlobStore, tables: TableStore, clock: Clock) -> None:
        self._records = TableRecords(catalog)
        self._blobs = blobs
        self._tables = tables
        self._clock = clock

    # Writing tables

    def append(self, name: str, data: pa.Table, *, partition_by: tuple[str, ...] = ()) -> TableVersion:
        self._check_writable(name)
        mark = self._mark()
        commit = self._tables.append(name, data, partition_by=partition_by, mark=mark)
        return self._record(name, commit)

    def overwrite(
        self,
        name: str,
        data: pa.Table,
        *,
        where: Mapping[str, Scalar] | None = None,
        partition_by: tuple[str, ...] = (),
    ) -> TableVersion:
        self._check_writable(name)
        mark = self._mark()
        commit = self._tables.overwrite(name, data, where=where, partition_by=partition_by, mark=mark)
        return self._record(name, commit)

    def _check_writable(self, name: str) -> None:
        known = self._records.known(table_name(name))
        if known is not None and known.dropped_at is not None:
            raise Refused(
                f"table '{name}' was dropped at {iso(known.dropped_at)}, and its name is retired",
                ways_on=["use another name: older runs and models cite this one"],
                table=name,
            )

    def _mark(self) -> Mark:
        ambient = context.ambient()
        return Mark(
            key=context.write_key() or "",
            at=self._clock.now(),
            by=principal(),
            step=str(ambient.executing.ref) if ambient is not None else "",
        )

    def _record(self, name: str, commit: Commit) -> TableVersion:
        """Fill the catalog in up to this commit, and report the write."""
        with suppress(OutOfSpace, Unavailable):  # the write is done; the next look fills its row in
            known = self._records.known(name)
            newest = known.newest if known is not None else -1
            if commit.version > newest + 1:
                self._fill_in(name, newest)
            elif commit.version == newest + 1:
                self._records.add(name, [commit])
        version = _version(name, commit)
        context.record_write(version.ref)
        return version

    def _fill_in(self, name: str, newest: int) -> None:
        self._records.add(name, self._tables.history(name, after=newest, limit=MOST_HISTORY))

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
        pinned = self._resolve(name, version=version, at=at, tag=tag)
        reader = self._tables.scan(name, version=pinned, columns=columns, where=where)
        context.record_read(context.Ref("table", name, str(pinned)))
        return reader

    def _resolve(self, name: str, *, version: int | None, at: Instant | None, tag: str | None) -> int:
        """The version number that is meant."""
        if sum(choice is not None for choice in (version, at, tag)) > 1:
            raise Refused("name a version by number, by time or by tag: one of them", table=name)
        newest = self._snapshot(name).version
        if tag is not None:
            tags = self._records.tags(name)
            if tag not in tags:
                raise NotFound(
                    f"table '{name}' has no tag '{tag}'",
                    ways_on=did_you_mean(tag, tags, what="tags"),
                    table=name,
                    tag=tag,
                )
            return tags[tag]
        if at is not None:
            return self._version_at(name, newest, at)
        return newest if version is None else version

    def _version_at(self, name: str, newest: int, at: Instant) -> int:
        self._catch_up(name, newest)
        found = self._records.version_at(name, at)
        if found is None:
            first = self._records.oldest(name)
            raise NotFound(
                f"table '{name}' did not exist at {iso(at)}",
                ways_on=[f"its first version is of {iso(first.at)}"] if first is not None else [],
                table=name,
            )
        return found.version

    def _snapshot(self, name: str, version: int | None = None) -> Snapshot:
        try:
            return self._tables.snapshot(table_name(name), version=version)
        except NotFound as error:
            if version is not None:
                raise
            known = self._records.known(name)
            if known is not None and known.dropped_at is not None:
                raise NotFound(
                    f"table '{name}' was dropped at {iso(known.dropped_at)}", table=name
                ) from error
            raise NotFound(
                f"table '{name}' does not exist",
                ways_on=did_you_mean(name, self._tables.names(), what="tables"),
                table=name,
            ) from error

    def _catch_up(self, name: str, newest: int) -> None:
        known = self._records.known(name)
        if known is None or known.newest < newest:
            self._fill_in(name, -1 if known is None else known.newest)

    def catch_up(self) -> None:
        """Fill the catalog in with every version that the tables' own logs know."""
        for name in self._tables.names():
            with suppress(NotFound):  # dropped just now
                self._catch_up(name, self._tables.snapshot(name).version)

    # What there is

    def history(self, name: str, *, limit: int = 1000) -> tuple[TableVersion, ...]:
        if not 1 <= limit <= MOST_HISTORY:
            raise Refused(f"limit must be from 1 to {MOST_HISTORY}, not {limit}")
        self._catch_up(name, self._snapshot(name).version)
        return self._records.versions(name, limit)

    def describe(self, name: str, *, version: int | None = None) -> TableInfo:
        snapshot = self._snapshot(name, version)
        return TableInfo(
            name=name,
            version=snapshot.version,
            at=snapshot.at,
            rows=snapshot.rows,
            size_bytes=snapshot.size_bytes,
            columns=tuple(Column(field.name, str(field.type), field.nullable) for field in snapshot.schema),
            partition_by=snapshot.partition_by,
            tags=self._records.tags(name),
        )

    def list_tables(self) -> tuple[TableInfo, ...]:
        dropped = self._records.dropped()
        return tuple(self.describe(name) for name in self._tables.names() if name not in dropped)

    def tag(self, name: str, tag: str, *, version: int | None = None, why: str = "") -> TableVersion:
        _check_tag(tag)
        newest = self._snapshot(name).version
        wanted = self._snapshot(name, newest if version is None else version).version
        self._catch_up(name, newest)
        found = self._records.version(name, wanted)
        if found is None:  # another program cleaned the log below it
            raise NotFound(f"table '{name}' has no record of version {wanted}", table=name, version=wanted)
        self._records.put_tag(self._clock.now(), name, tag, wanted, why)
        return found

    def drop(self, name: str, *, why: str = "") -> None:
        known = self._records.known(table_name(name))
        if known is None or known.dropped_at is None:
            self._snapshot(name)
            self._records.drop(self._clock.now(), name, why)
        self._tables.drop(name)  # again, too, where a crash came between

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


def _check_tag(tag: str) -> None:
    if not (0 < len(tag) <= 100 and tag.isprintable() and not tag.isdecimal() and "/" not in tag):
        raise Refused(
            f"{tag[:120]!r} cannot be a tag",
            ways_on=["use 1 to 100 letters, digits and signs, not only digits, and no '/'"],
        )


def _version(name: str, commit: Commit) -> TableVersion:
    return TableVersion(
        name=name,
        version=commit.version,
        at=commit.at,
        rows=commit.rows,
        rows_added=commit.rows_added,
        operation=commit.operation,
        by=commit.by,
        step=commit.step,
    )
