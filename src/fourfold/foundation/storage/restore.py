"""Reading a backup: into an empty project, or only to see that all of it is there.

Blobs, tables and online records come first, each verified on its way; the catalog comes last, in one
transaction. A mark in the project's folder says that a restore is under way: until it is gone nobody opens
the project, and a restore that was cut off is run again.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec

from fourfold.catalog import portable
from fourfold.catalog.database import Catalog
from fourfold.catalog.rows import chunks
from fourfold.core import wire
from fourfold.core.backups import Backup, CatalogPart, Progress, silent
from fourfold.core.errors import Corrupted, Refused
from fourfold.core.ports.archive import Archive, TableCopies
from fourfold.core.ports.blobs import BlobStore
from fourfold.core.ports.buffer import Addition, RowBuffer
from fourfold.core.ports.online import OnlineStore, Space
from fourfold.core.ports.tables import TableStore
from fourfold.core.storage import Digest
from fourfold.foundation.storage.backup import chosen, lines_of, table_files
from fourfold.foundation.storage.files import writing

MARK = "restoring"
"""The file in a project's folder that is there while it is being restored."""
FORGOTTEN, SECRET = "storage_forgotten", "storage_secret"
"""The tables that keep word of what was forgotten (`forgetting/tables.py`)."""
CHUNK_RECORDS = 5_000
"""Online records in one commit."""

_blob_line = msgspec.json.Decoder(tuple[Digest, int]).decode
_addition_line = msgspec.json.Decoder(Addition).decode
_record_line = msgspec.json.Decoder(tuple[Space, bytes, bytes]).decode


def restore(
    archive: Archive,
    home: Path,
    *,
    catalog: Catalog,
    blobs: BlobStore,
    tables: TableStore,
    copies: TableCopies,
    online: OnlineStore,
    buffer: RowBuffer,
    number: int | None = None,
    progress: Progress = silent,
) -> Backup:
    """Make an empty project hold a backup, by default the newest. It may be killed and run again."""
    backup = chosen(archive, number)
    with _alone(home) as mark:
        is_resumed = _is_resumed(mark, home, backup)
        if not is_resumed:
            _check_empty(blobs, tables, online, buffer)
            portable.check_takes(catalog, backup.revision)
            with writing(home / MARK):
                _write(mark, _meaning(backup))
            _sync(home)
        for done, part in enumerate(backup.tables):
            progress("tables", done, len(backup.tables))
            for file in table_files(archive, part):
                copies.write(part.name, file.path, archive.read(file.digest))
            copies.finish(part.name)
        for done, line in enumerate(lines_of(archive.read(backup.blobs.digest))):
            progress("blobs", done, backup.blobs.count)
            digest, size = _blob_line(line)
            if not (blobs.has(digest) and blobs.size(digest) == size):
                blobs.put(archive.read(digest))
        for done, lines in enumerate(chunks(lines_of(archive.read(backup.online.digest)), CHUNK_RECORDS)):
            progress("online features", done * CHUNK_RECORDS, backup.online.count)
            with online.write() as writer:
                for space, key, value in map(_record_line, lines):
                    writer.put(space, key, value)
        if backup.inserted is not None:
            _take_inserts(buffer, map(_addition_line, lines_of(archive.read(backup.inserted.digest))))
        progress("the catalog", 0, 0)
        if not is_resumed or portable.is_empty(catalog):  # else it was cut off at its very end
            parts = (lines_of(archive.read(part.digest)) for part in backup.catalog)
            taken = portable.take(catalog, backup.revision, parts)
            assert taken == {part.table: part.rows for part in backup.catalog}
        for kept in _kept_since(archive, backup):
            changed = {"is_done": 0} if kept.table == FORGOTTEN else {}
            portable.add(catalog, lines_of(archive.read(kept.digest)), changed=changed)
        (home / MARK).unlink()
        _sync(home)
    return backup


def forgotten_since(archive: Archive, backup: Backup) -> int:
    """How often somebody's rows were forgotten after a backup, as the newest one beside it tells."""
    newest = chosen(archive)
    return max(0, _count(newest) - _count(backup)) if newest.at > backup.at else 0


def _kept_since(archive: Archive, backup: Backup) -> list[CatalogPart]:
    """What is brought to an older state from the newest: that rows were forgotten, which it still has."""
    if not forgotten_since(archive, backup):
        return []
    return [part for part in chosen(archive).catalog if part.table in (SECRET, FORGOTTEN)]


def _count(backup: Backup) -> int:
    return sum(part.rows for part in backup.catalog if part.table == FORGOTTEN)


def verify(archive: Archive, *, number: int | None = None, progress: Progress = silent) -> Backup:
    """Read every piece that a backup names; raises at the first that is missing or not what was written."""
    backup = chosen(archive, number)
    for done, part in enumerate(backup.catalog):
        progress("the catalog", done, len(backup.catalog))
        _expect(part.table, sum(1 for _ in lines_of(archive.read(part.digest))) - 1, part.rows, "rows")
    for done, table in enumerate(backup.tables):
        progress("tables", done, len(backup.tables))
        found = 0
        for file in table_files(archive, table):
            found += 1
            _expect(f"{table.name}/{file.path}", _length(archive, file.digest), file.size_bytes, "bytes")
        _expect(table.name, found, table.file_count, "files")
    found = 0
    for line in lines_of(archive.read(backup.blobs.digest)):
        progress("blobs", found, backup.blobs.count)
        digest, size = _blob_line(line)
        _expect(digest, _length(archive, digest), size, "bytes")
        found += 1
    _expect("the list of blobs", found, backup.blobs.count, "blobs")
    records = sum(1 for _ in lines_of(archive.read(backup.online.digest)))
    _expect("online features", records, backup.online.count, "records")
    if backup.inserted is not None:
        inserts = sum(1 for _ in lines_of(archive.read(backup.inserted.digest)))
        _expect("inserted rows", inserts, backup.inserted.count, "inserts")
    return backup


def _length(archive: Archive, digest: Digest) -> int:
    return sum(map(len, archive.read(digest)))


def _expect(what: str, found: int, written: int, of: str) -> None:
    if found != written:
        raise Corrupted(
            f"the backup is damaged: {what} has {found} {of}, and {written} were written",
            ways_on=["restore from another one"],
        )


def _take_inserts(buffer: RowBuffer, inserts: Iterable[Addition]) -> None:
    """Let rows wait again under their numbers; those that a restore that was cut off took are there."""
    newest = {waiting.name: waiting.newest for waiting in buffer.waiting()}
    for some in chunks(each for each in inserts if each.above >= newest.get(each.name, -1)):
        buffer.add(some)


def _check_empty(blobs: BlobStore, tables: TableStore, online: OnlineStore, buffer: RowBuffer) -> None:
    """The catalog is looked at where its rows are taken."""
    full = ""
    if names := tables.names():
        full = f"there is the table '{names[0]}'"
    elif (digest := next(blobs.digests(), None)) is not None:
        full = f"there is the blob {digest}"
    elif any(waiting.rows for waiting in buffer.waiting()):
        full = "inserted rows wait"
    else:
        with online.read() as reader:
            if any(next(reader.scan(space), None) is not None for space in Space):
                full = "there are online features"
    if full:
        raise Refused(
            f"the project is not empty: {full}",
            ways_on=[
                "name another folder: --project FOLDER",
                "or --force, which moves this one aside",
            ],
        )


@contextmanager
def _alone(home: Path) -> Iterator[IO[bytes]]:
    """The mark, open and held by this restore alone; gone afterwards where nothing was written to it."""
    path = home / MARK
    with writing(path):
        opened = path.open("a+b")
    with opened as mark:
        try:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(f"{home} is being restored by another process") from None
        try:
            yield mark
        finally:
            if path.exists() and not path.stat().st_size:
                path.unlink()


def _meaning(backup: Backup) -> bytes:
    return wire.encode({"project": backup.project, "at": backup.at})


def _is_resumed(mark: IO[bytes], home: Path, backup: Backup) -> bool:
    """Whether a restore of this backup was cut off here."""
    mark.seek(0)
    present, whole = mark.read(), _meaning(backup)
    if present != whole and whole.startswith(present):  # it was cut off before anything else was done
        mark.truncate(0)
        return False
    if present != whole:
        raise Refused(
            f"the restore of another backup was cut off in {home}",
            ways_on=["run that one again, or remove the folder"],
        )
    return True


def _write(file: IO[bytes], data: bytes) -> None:
    file.write(data)
    file.flush()
    os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
