"""Writing a project's state to an archive, while it is in use.

The catalog is read as it was at one moment; then come the tables up to the versions that this state knows,
the blobs, and the online store's records. Files that it cites are never changed, so they may be copied after
that moment. The manifest comes last: without it there is no backup.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any

import msgspec

from fourfold.catalog import audit, portable, upgrade
from fourfold.catalog.database import Catalog
from fourfold.catalog.rows import chunks
from fourfold.core import wire
from fourfold.core.backups import (
    FORMAT,
    Backup,
    CatalogPart,
    ListPart,
    Progress,
    TableFile,
    TablePart,
    silent,
)
from fourfold.core.context import Ref
from fourfold.core.errors import Conflict, Corrupted, NotFound, OutOfSpace, Refused, Unavailable
from fourfold.core.package import VERSION
from fourfold.core.ports.archive import Archive, OpenArchive, TableCopies
from fourfold.core.ports.blobs import BlobStore
from fourfold.core.ports.buffer import Addition, Entry
from fourfold.core.ports.clock import Clock
from fourfold.core.ports.online import OnlineStore, Space
from fourfold.core.storage import Digest
from fourfold.foundation.storage.service import Storage
from fourfold.foundation.storage.tables import TableRecords

BACKED_UP = "project.backup"
"""The audit's word for a backup that was taken."""
TRIES = 3
"""How often a backup begins again because a table was dropped under its hands."""
LIST_BYTES = 1 << 20
IN_MEMORY_BYTES = 16 << 20
"""A longer list of files waits on the disk until it is whole."""

_encode = msgspec.json.Encoder().encode


class Backups:
    """Takes backups of a project, and puts one into an empty project."""

    def __init__(
        self,
        catalog: Catalog,
        *,
        storage: Storage,
        blobs: BlobStore,
        copies: TableCopies,
        online: OnlineStore,
        clock: Clock,
        project: str,
    ) -> None:
        self._catalog = catalog
        self._storage = storage
        self._blobs = blobs
        self._copies = copies
        self._online = online
        self._clock = clock
        self._project = project

    def write(self, archive: OpenArchive, *, progress: Progress = silent) -> tuple[int, Backup]:
        """Write the project as it is now; the backup and its number. What is there already is not sent.

        It may be killed at any moment: the project is not touched, and the next run goes on.
        """
        for _ in range(TRIES):
            self._storage.catch_up()
            try:
                backup = self._pieces(archive, progress)
            except _Dropped:
                continue
            number = archive.commit(wire.encode(backup))
            with suppress(OutOfSpace, Unavailable), self._catalog.write() as connection:  # it is done anyway
                facts = {"place": str(archive), "number": number}
                audit.record(connection, backup.at, BACKED_UP, Ref("project", self._project), facts)
            return number, backup
        raise Conflict("tables were dropped while they were copied: no backup", ways_on=["try again"])

    def _pieces(self, archive: OpenArchive, progress: Progress) -> Backup:
        before = self._earlier(archive)
        with ThreadPoolExecutor(1) as thread, ExitStack() as stack:
            is_open = threading.Event()
            # What waits in the online store for its table is moved by writers; while we hold them up, both
            # are pinned, so that an event is in one or the other, or moved again under the same key.
            with self._online.write():
                at = self._clock.now()
                online = thread.submit(self._online_part, archive, is_open)
                is_open.wait()
                with self._storage.still():  # so that an insert is in a version of this state, or waits
                    connection = stack.enter_context(self._catalog.snapshot())
                    revision = upgrade.revision(connection)  # PostgreSQL's state is that of the first query
                    cited = TableRecords.cited(connection)
                    waiting = list(self._storage.waiting_above(cited))
            inserted = _inserted_part(archive, waiting)
            rows = []
            tables = portable.tables(connection)
            for done, table in enumerate(tables):
                progress("the catalog", done, len(tables))
                rows.append(_catalog_part(archive, connection, table))
            files = []
            for done, (name, version) in enumerate(cited.items()):
                progress("tables", done, len(cited))
                files.append(self._table_part(archive, name, version, before.get(name)))
            blobs = self._blob_part(archive, progress)
            records = online.result()
        return Backup(
            at,
            VERSION,
            self._project,
            revision,
            tuple(rows),
            tuple(files),
            blobs=blobs,
            online=records,
            inserted=inserted,
        )

    def _earlier(self, archive: OpenArchive) -> dict[str, TablePart]:
        """The tables of the backup before this one, whose files need not be read again."""
        if not archive.manifests():
            return {}
        earlier = chosen(archive)
        if earlier.project != self._project:
            raise Refused(
                f"{archive} holds backups of project '{earlier.project}', and this one is '{self._project}'",
                ways_on=["give each project a place of its own, and a name in fourfold.toml"],
            )
        return {part.name: part for part in earlier.tables}

    def _online_part(self, archive: OpenArchive, is_open: threading.Event) -> ListPart:
        """The records of the online store, as they are when the event is set."""
        found = 0
        size = 0

        def lines() -> Iterator[bytes]:
            nonlocal found, size
            found = size = 0
            for space in Space:
                for key, value in reader.scan(space):
                    found, size = found + 1, size + len(key) + len(value)
                    yield _encode((space, key, value)) + b"\n"

        try:
            with self._online.read() as reader:
                is_open.set()
                digest = archive.put(lambda: _joined(lines()))
        finally:
            is_open.set()
        return ListPart(found, size, digest)

    def _table_part(
        self, archive: OpenArchive, name: str, version: int, before: TablePart | None
    ) -> TablePart:
        known = {} if before is None else {file.path: file for file in table_files(archive, before)}
        found = size = 0
        with tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES) as listing:
            try:
                for stored in self._copies.files(name, version=version):
                    file = known.get(stored.path)
                    if not (
                        stored.is_unique
                        and file is not None
                        and file.size_bytes == stored.size_bytes
                        and archive.has(file.digest)
                    ):
                        path = stored.path
                        digest = archive.put(lambda path=path: self._copies.read(name, path))  # type: ignore[misc]
                        file = TableFile(path, stored.size_bytes, digest)
                    listing.write(_encode(file) + b"\n")
                    found, size = found + 1, size + file.size_bytes
            except (NotFound, Corrupted):
                with self._catalog.read() as connection:
                    if name not in TableRecords.cited(connection):
                        raise _Dropped from None
                raise

            def lines() -> Iterator[bytes]:
                listing.seek(0)
                return iter(lambda: listing.read(LIST_BYTES), b"")

            return TablePart(name, version, found, size, archive.put(lines))

    def _blob_part(self, archive: OpenArchive, progress: Progress) -> ListPart:
        """All blobs of the store: also those that nothing cites, until they are collected."""
        found = size = 0
        with tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES) as listing:
            for blob in self._blobs.entries():
                progress("blobs", found, 0)
                digest = blob.digest
                try:
                    if not archive.has(digest):
                        archive.put(lambda digest=digest: _blob(self._blobs, digest))  # type: ignore[misc]
                except NotFound:
                    continue  # collected just now, so nothing cites it
                listing.write(_encode((digest, blob.size_bytes)) + b"\n")
                found, size = found + 1, size + blob.size_bytes

            def lines() -> Iterator[bytes]:
                listing.seek(0)
                return iter(lambda: listing.read(LIST_BYTES), b"")

            return ListPart(found, size, archive.put(lines))


class _Dropped(Exception):
    """A table is no more that was there when the backup began."""


def chosen(archive: Archive, number: int | None = None) -> Backup:
    """The backup of this number, else the newest."""
    numbers = archive.manifests()
    if not numbers:
        raise Refused(
            f"{archive} holds no backup",
            ways_on=["one that was cut off has no manifest: run it again, it goes on where it stopped"],
        )
    data = archive.manifest(numbers[-1] if number is None else number)
    try:
        written = msgspec.json.decode(data)
        form = written["format"]
    except (KeyError, TypeError, *wire.UNREADABLE) as error:
        raise Corrupted("the backup's manifest cannot be read", ways_on=["take another one"]) from error
    if form != FORMAT:
        raise Refused(
            f"this backup was written in format {form}, and this Fourfold reads {FORMAT}",
            ways_on=["upgrade: pip install -U fourfold"],
        )
    backup: Backup = wire.convert(written, Backup, what="manifest")
    return backup


def lines_of(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of a piece that comes in any cuts.

    >>> list(lines_of([b"a\\nb", b"", b"c\\n"]))
    [b'a\\n', b'bc\\n']
    """
    rest = b""
    for piece in pieces:
        lines = (rest + piece).splitlines(keepends=True)
        rest = lines.pop() if lines and not lines[-1].endswith(b"\n") else b""
        yield from lines
    if rest:
        yield rest


def table_files(archive: Archive, part: TablePart) -> Iterator[TableFile]:
    """The files of a table, as its list tells them."""
    return map(_table_file, lines_of(archive.read(part.digest)))


_table_file = msgspec.json.Decoder(TableFile).decode


def _catalog_part(archive: OpenArchive, connection: Any, table: Any) -> CatalogPart:
    rows = 0

    def lines() -> Iterator[bytes]:
        nonlocal rows
        rows = -1  # the head is a line too
        for piece in portable.give(connection, table):
            rows += piece.count(b"\n")
            yield piece

    digest = archive.put(lines)
    return CatalogPart(str(table.name), rows, digest)


def _inserted_part(archive: OpenArchive, waiting: Sequence[tuple[str, Entry]]) -> ListPart:
    """Inserts under their numbers, which lineage may name."""
    lines = [
        _encode(Addition(name, entry.rows, entry.data, entry.mark, entry.number - 1)) + b"\n"
        for name, entry in waiting
    ]
    return ListPart(len(lines), sum(len(entry.data) for _, entry in waiting), archive.put(lambda: lines))


def _blob(blobs: BlobStore, digest: Digest) -> Iterator[bytes]:
    with blobs.open(digest) as file:
        while piece := file.read(LIST_BYTES):
            yield piece


def _joined(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Lines, many together: a piece is written faster in large cuts."""
    for chunk in chunks(lines):
        yield b"".join(chunk)
