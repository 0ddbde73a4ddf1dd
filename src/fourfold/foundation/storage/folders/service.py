"""The service of versioned files, beside the project."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path

from fourfold.catalog.database import Catalog
from fourfold.core import context
from fourfold.core.catalog import principal
from fourfold.core.chunks import Layout
from fourfold.core.errors import Corrupted, NotFound, Refused
from fourfold.core.files import (
    MOST_ASKED,
    MOST_PIECES,
    PIECE_BYTES,
    File,
    FilesInfo,
    FilesVersion,
    Manifest,
    Pieces,
    files_name,
)
from fourfold.core.ports.blobs import BlobStore, Digest
from fourfold.core.ports.chunks import Chunker
from fourfold.core.ports.clock import Clock
from fourfold.core.ports.digests import Digester
from fourfold.core.storage import check_tag
from fourfold.foundation.storage.folders.saving import Folders, Tell
from fourfold.foundation.storage.folders.tables import FileRecords
from fourfold.foundation.storage.folders.ways import Beside, at_once

MOST_HISTORY = 100_000
MOST_MESSAGE = 10_000
MOST_PARTS = 1024
"""Parts in which one piece may come."""
TOLD = 1000
"""Digests that an error lists."""


class Files:
    """Fulfils `core.services.files.Files` over a catalog and two blob stores.

    `uploads` holds pieces of files on their way; it is a store of its own, so that what nobody finished can
    be removed without asking who cites it.
    """

    def __init__(
        self,
        catalog: Catalog,
        blobs: BlobStore,
        uploads: BlobStore,
        clock: Clock,
        digests: Digester,
        chunker: Callable[[], Chunker],
    ) -> None:
        self._records = FileRecords(catalog)
        self._blobs = blobs
        self._uploads = uploads
        self._clock = clock
        self._digests = digests
        self._folders = Folders(self, Beside(blobs, self._records.put_sha256), digests, chunker)
        self._cuts = lru_cache(maxsize=64)(self._cut)

    # Versions

    def commit(
        self,
        name: str,
        *,
        manifest: Digest,
        chunks: Digest | None = None,
        message: str = "",
    ) -> FilesVersion:
        files_name(name)
        if len(message) > MOST_MESSAGE:
            raise Refused(f"a message has at most {MOST_MESSAGE:,} characters")
        key = context.write_key() or ""
        made = self._records.made_by(name, key)
        if made is None:
            made = self._records.add(self._checked(name, manifest, chunks, message), key=key)
        context.record_write(made.ref)
        return made

    def _checked(self, name: str, digest: Digest, chunks: Digest | None, message: str) -> FilesVersion:
        """The version to be, once all that it cites is known to be stored and young.

        Files that the version before has whole are not asked for again: its row keeps them.
        """
        before = self._records.newest(name)
        kept, kept_packs = ({}, ()) if before is None else self._stored(before)
        manifest = Manifest.read(self._renewed(digest))
        layout = None if chunks is None else Layout.read(self._renewed(chunks))
        packs: tuple[Digest, ...] = () if layout is None else layout.packs
        whole = {file.digest for file in manifest.files if not _is_packed(file, layout)}
        asked = [*packs, *sorted(whole - set(kept))]
        if absent := _not_renewed(self._blobs, asked):
            raise _absent(absent)
        sizes = dict(zip(asked, at_once(self._blobs.size, asked), strict=True))
        for file in manifest.files:
            if layout is not None and _is_packed(file, layout):
                stored = layout.size_bytes(file.digest)
            else:
                stored = sizes[file.digest] if file.digest in sizes else kept[file.digest]
            if stored != file.size_bytes:
                raise Refused(
                    f"'{file.path}' has not the size that the manifest tells: it changed while it was saved",
                    ways_on=["save again when nobody writes to the folder"],
                    path=file.path,
                )
        ambient = context.ambient()
        return FilesVersion(
            name=name,
            version=-1,  # numbered as it is written
            at=self._clock.now(),
            manifest=digest,
            file_count=len(manifest.files),
            size_bytes=manifest.size_bytes,
            added_bytes=sum(size for each, size in sizes.items() if each not in kept_packs),
            chunks=chunks,
            by=principal(),
            step=str(ambient.executing.ref) if ambient is not None else "",
            message=message,
        )

    def _renewed(self, digest: Digest) -> bytes:
        if not self._blobs.renew(digest):
            raise _absent([digest])
        return self._blobs.get(digest)

    def _stored(self, version: FilesVersion) -> tuple[dict[Digest, int], tuple[Digest, ...]]:
        """What a version has stored: whole files with their sizes, and packs of chunks; nothing where it
        cannot be read, so that a version that is lost does not hinder the next."""
        try:
            layout = None if version.chunks is None else Layout.read(self._blobs.get(version.chunks))
            manifest = Manifest.read(self._blobs.get(version.manifest))
        except (NotFound, Corrupted):
            return {}, ()
        whole = {file.digest: file.size_bytes for file in manifest.files if not _is_packed(file, layout)}
        return whole, () if layout is None else layout.packs

    def describe(self, name: str, *, version: int | None = None, tag: str | None = None) -> FilesVersion:
        if version is not None and tag is not None:
            raise Refused("name a version by number or by tag: one of them", name=name)
        return self._records.find(files_name(name), version=version, tag=tag)

    def history(self, name: str, *, limit: int = 1000) -> tuple[FilesVersion, ...]:
        if not 1 <= limit <= MOST_HISTORY:
            raise Refused(f"limit must be from 1 to {MOST_HISTORY}, not {limit}")
        return self._records.versions(files_name(name), limit)

    def list_files(self) -> tuple[FilesInfo, ...]:
        return self._records.all()

    def tag(self, name: str, tag: str, *, version: int | None = None, why: str = "") -> FilesVersion:
        check_tag(tag)
        found = self.describe(name, version=version)
        self._records.put_tag(self._clock.now(), name, tag, found.version, why)
        return found

    def drop(self, name: str, *, why: str = "") -> None:
        self._records.drop(self._clock.now(), files_name(name), why)

    # Blobs on their way

    def sha256(self, digest: Digest) -> str:
        known = self._records.sha256(digest) if self._blobs.has(digest) else None
        if known is None:
            hasher = hashlib.sha256()
            for piece in _read(self._blobs, digest):
                hasher.update(piece)
            known = hasher.hexdigest()
            self._records.put_sha256(digest, known)
        return known

    def renew(self, digests: tuple[Digest, ...]) -> tuple[Digest, ...]:
        return tuple(_not_renewed(self._blobs, _asked(digests)))

    def renew_pieces(self, digests: tuple[Digest, ...]) -> tuple[Digest, ...]:
        return tuple(_not_renewed(self._uploads, _asked(digests)))

    def put_piece(self, data: bytes | Iterable[bytes]) -> Digest:
        data = data if isinstance(data, bytes) else b"".join(islice(data, MOST_PARTS))
        if len(data) > PIECE_BYTES:
            raise Refused(f"a piece has at most {PIECE_BYTES:,} bytes, not {len(data):,}")
        return self._uploads.put(data)

    def put_pieces(self, digest: Digest, pieces: tuple[Digest, ...], *, timeout_s: float = 600.0) -> None:
        del timeout_s  # tells a client how long to wait
        if len(pieces) > MOST_PIECES:
            raise Refused(f"a file has at most {MOST_PIECES:,} pieces, not {len(pieces):,}")
        if self._blobs.renew(digest):
            return
        if absent := _not_renewed(self._uploads, pieces):
            raise _absent(absent)
        made = self._blobs.put(chain.from_iterable(_read(self._uploads, piece) for piece in pieces))
        if made != digest:
            raise Refused(
                f"these pieces make {made}, not {digest}: the file changed while it was sent",
                ways_on=["send it again when nobody writes to it"],
            )
        for piece in set(pieces):
            self._uploads.delete(piece)

    def part(self, digest: Digest, offset: int, length: int) -> bytes:
        if length > PIECE_BYTES:
            raise Refused(f"a part has at most {PIECE_BYTES:,} bytes, not {length:,}")
        return self._blobs.part(digest, offset, length)

    def pieces(self, digest: Digest) -> Pieces:
        return self._cuts(digest)

    def _cut(self, digest: Digest) -> Pieces:
        size_bytes = 0
        digests = []
        with self._blobs.open(digest) as stream:
            while piece := stream.read(PIECE_BYTES):
                digests.append(self._digests.of(piece))
                size_bytes += len(piece)
        return Pieces(size_bytes, tuple(digests))

    # The caller's own files

    def save(
        self,
        name: str,
        folder: Path,
        *,
        message: str = "",
        chunked: bool | None = None,
        sha256: bool = False,
        follow_links: bool = False,
        tell: Tell | None = None,
    ) -> FilesVersion:
        return self._folders.save(
            name,
            folder,
            message=message,
            chunked=chunked,
            sha256=sha256,
            follow_links=follow_links,
            tell=tell,
        )

    def materialize(
        self,
        name: str,
        folder: Path,
        *,
        version: int | None = None,
        tag: str | None = None,
        tell: Tell | None = None,
    ) -> FilesVersion:
        return self._folders.materialize(name, folder, version=version, tag=tag, tell=tell)

    def read(self, name: str, path: str, *, version: int | None = None, tag: str | None = None) -> bytes:
        return self._folders.read(name, path, version=version, tag=tag)

    def manifest(self, name: str, *, version: int | None = None, tag: str | None = None) -> Manifest:
        return self._folders.manifest(name, version=version, tag=tag)


def _read(blobs: BlobStore, digest: Digest) -> Iterator[bytes]:
    with blobs.open(digest) as stream:
        yield from iter(lambda: stream.read(PIECE_BYTES), b"")


def _is_packed(file: File, layout: Layout | None) -> bool:
    return layout is not None and layout.spans(file.digest) is not None


def _not_renewed(blobs: BlobStore, digests: Sequence[Digest]) -> list[Digest]:
    """Which of these are not there; the others are renewed, several at once."""
    each = list(dict.fromkeys(digests))
    return [digest for digest, is_there in zip(each, at_once(blobs.renew, each), strict=True) if not is_there]


def _asked(digests: tuple[Digest, ...]) -> tuple[Digest, ...]:
    if len(digests) > MOST_ASKED:
        raise Refused(f"ask for at most {MOST_ASKED:,} digests at once, not {len(digests):,}")
    return digests


def _absent(digests: list[Digest]) -> NotFound:
    return NotFound(
        f"{len(digests)} blob{'s are' if len(digests) > 1 else ' is'} not stored, such as {digests[0]}",
        ways_on=["store them, and try again"],
        digests=digests[:TOLD],
    )
