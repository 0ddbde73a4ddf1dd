"""One backup in one file, to be carried elsewhere: a zip of pieces by their digest, its manifest the last."""

from __future__ import annotations

import errno
import os
import secrets
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import blake3

from fourfold.core.errors import Corrupted, NotFound, OutOfSpace, Refused
from fourfold.core.storage import Digest

READ_BYTES = 1 << 20
MANIFEST = "manifest.json"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class ZipWriter:
    """Writes `path`: beside it until the manifest is in, then in its place."""

    def __init__(self, path: Path) -> None:
        if path.exists():
            raise Refused(f"{path} is there already", ways_on=["name another file, or remove it"])
        self._path = path
        self._new = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        self._names: set[str] = set()
        self._lock = threading.Lock()  # one piece at a time
        self._is_whole = False
        with self._out_of_space():
            self._zip = zipfile.ZipFile(self._new, "x", zipfile.ZIP_DEFLATED, compresslevel=1)

    def __str__(self) -> str:
        return str(self._path)

    def put(self, read: Callable[[], Iterable[bytes]]) -> Digest:
        digest = _digest_of(read())  # a zip names a piece before it holds it
        with self._lock:
            if digest not in self._names:
                self._write(digest, read())
                self._names.add(digest)
        return digest

    def _write(self, digest: Digest, pieces: Iterable[bytes]) -> None:
        hasher = blake3.blake3()
        with self._out_of_space(), self._zip.open(_entry(digest), "w", force_zip64=True) as file:
            for piece in pieces:
                hasher.update(piece)
                file.write(piece)
        if f"blake3:{hasher.hexdigest()}" != digest:
            raise Corrupted("a file changed while it was being exported", ways_on=["export again"])

    def has(self, digest: Digest) -> bool:
        return digest in self._names

    def read(self, digest: Digest) -> Iterator[bytes]:
        raise NotFound(f"{self._path} is still being written", digest=digest)

    def commit(self, manifest: bytes) -> int:
        with self._out_of_space():
            self._zip.writestr(MANIFEST, manifest)
            self._zip.close()
            descriptor = os.open(self._new, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.link(self._new, self._path)  # never over a file that somebody else made meanwhile
        descriptor = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return 1

    def manifests(self) -> tuple[int, ...]:
        return ()

    def manifest(self, number: int) -> bytes:
        raise NotFound(f"backup {number} of {self._path} is still being written")

    def close(self) -> None:
        try:
            self._zip.close()
        except OSError:  # a full disk: what was written is no backup anyway
            pass
        finally:
            self._new.unlink(missing_ok=True)

    @contextmanager
    def _out_of_space(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise OutOfSpace(
                f"the disk that is to hold {self._path} is full; nothing was left there",
                ways_on=["free some space and try again"],
            ) from error


class ZipReader:
    """Reads what a `ZipWriter` wrote."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise Corrupted(
                f"{path} is no backup, or was cut off before its end", ways_on=["export it again"]
            ) from error

    def __str__(self) -> str:
        return str(self._path)

    def read(self, digest: Digest) -> Iterator[bytes]:
        hasher = blake3.blake3()
        try:
            with self._zip.open(_entry(digest)) as file:
                while piece := file.read(READ_BYTES):
                    hasher.update(piece)
                    yield piece
        except KeyError:
            raise NotFound(f"{self._path} has no piece {digest}", digest=digest) from None
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise self._damaged(digest) from error
        if f"blake3:{hasher.hexdigest()}" != digest:
            raise self._damaged(digest)

    def manifests(self) -> tuple[int, ...]:
        return (1,) if MANIFEST in self._zip.NameToInfo else ()

    def manifest(self, number: int) -> bytes:
        if number not in self.manifests():
            raise NotFound(f"{self._path} holds one backup, with the number 1, not {number}")
        try:
            return self._zip.read(MANIFEST)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise Corrupted(
                f"what {self._path} says of itself is damaged", ways_on=["export it again"]
            ) from error

    def close(self) -> None:
        self._zip.close()

    def _damaged(self, digest: Digest) -> Corrupted:
        return Corrupted(
            f"{self._path} is damaged: piece {digest} does not hold the bytes that were written",
            ways_on=["export it again, or take another copy"],
            digest=digest,
        )


def _entry(digest: Digest) -> str:
    return "pieces/" + digest.removeprefix("blake3:")


def _digest_of(pieces: Iterable[bytes]) -> Digest:
    hasher = blake3.blake3()
    for piece in pieces:
        hasher.update(piece)
    return Digest(f"blake3:{hasher.hexdigest()}")
