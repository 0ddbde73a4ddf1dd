"""Blobs as read-only files on a local disk, each under its own digest: `ab/cd/<hash>`."""

from __future__ import annotations

import errno
import io
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import blake3

from fourfold.core.errors import Corrupted, NotFound, OutOfSpace, Refused
from fourfold.core.ports.blobs import Digest

READ_BYTES = 1 << 20
PARALLEL_BYTES = 8 << 20
"""Above this a digest is worth more than one thread."""
ABANDONED_S = 86_400
"""A temporary file this old belongs to a process that died."""

_DIGEST = re.compile(r"blake3:([0-9a-f]{64})")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class LocalBlobs:
    """Keeps blobs under `folder`.

    A blob is written to a temporary file, synced, renamed into place, and its folder synced, before `put`
    returns. Files are read-only (0444). A file whose bytes are found wrong is moved to `quarantine/` and
    never served; putting the right bytes again stores them afresh.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._new = folder / "new"
        self._quarantine = folder / "quarantine"
        self._new.mkdir(parents=True, exist_ok=True)
        self._sweep()

    def __repr__(self) -> str:
        return f"<LocalBlobs {self._folder}>"

    def put(self, data: bytes | Iterable[bytes]) -> Digest:
        if not isinstance(data, bytes):
            return self._store(data)
        digest = _digest_of(data)
        if self._stored_size(digest) != len(data):
            return self._store((data,))
        self._sync_folders(self._path(digest))  # whoever put it there may not have come so far
        return digest

    def _store(self, pieces: Iterable[bytes]) -> Digest:
        hasher = blake3.blake3()
        with self._temporary() as (path, file):
            for piece in pieces:
                hasher.update(piece)
                file.write(piece)
            file.flush()
            os.fchmod(file.fileno(), 0o444)
            os.fsync(file.fileno())
            digest = Digest(f"blake3:{hasher.hexdigest()}")
            self._place(path, digest)
        return digest

    def put_file(self, path: Path) -> Digest:
        with path.open("rb") as file:
            return self.put(iter(lambda: file.read(READ_BYTES), b""))

    def get(self, digest: Digest) -> bytes:
        try:
            data = self._path(digest).read_bytes()
        except FileNotFoundError:
            raise _unknown(digest) from None
        if _digest_of(data) != digest:
            raise self.quarantine(digest)
        return data

    def open(self, digest: Digest) -> BinaryIO:
        try:
            file = self._path(digest).open("rb", buffering=0)
        except FileNotFoundError:
            raise _unknown(digest) from None
        return io.BufferedReader(_Verified(file, digest, self), READ_BYTES)

    def has(self, digest: Digest) -> bool:
        return self._path(digest).is_file()

    def size(self, digest: Digest) -> int:
        size = self._stored_size(digest)
        if size is None:
            raise _unknown(digest)
        return size

    def digests(self) -> Iterator[Digest]:
        for first in sorted(self._folder.glob("[0-9a-f][0-9a-f]")):
            for second in sorted(first.iterdir()):
                for file in sorted(second.iterdir()):
                    yield Digest(f"blake3:{file.name}")

    def delete(self, digest: Digest) -> None:
        path = self._path(digest)
        with suppress(FileNotFoundError):
            path.unlink()
            _sync_folder(path.parent)

    def materialize(self, digest: Digest, path: Path, *, executable: bool = False) -> None:
        self._verify(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            with _out_of_space(path.parent):
                self._link_or_copy(self._path(digest), temporary, executable=executable)
                temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _link_or_copy(self, source: Path, target: Path, *, executable: bool) -> None:
        """A link shares the store's own read-only file; where it cannot, the bytes are copied.

        An executable is always a copy: modes belong to the file, and the store's may not change.
        """
        if not executable:
            with suppress(OSError):
                os.link(source, target)
                return
        shutil.copyfile(source, target)
        target.chmod(0o555 if executable else 0o444)

    def _path(self, digest: Digest) -> Path:
        match = _DIGEST.fullmatch(digest)
        if match is None:
            raise Refused(
                f"'{digest[:80]}' is not a digest",
                ways_on=["a digest is 'blake3:' and 64 hexadecimal digits, as `put` answered it"],
            )
        name = match[1]
        return self._folder / name[:2] / name[2:4] / name

    def _stored_size(self, digest: Digest) -> int | None:
        try:
            return self._path(digest).stat().st_size
        except FileNotFoundError:
            return None

    @contextmanager
    def _temporary(self) -> Iterator[tuple[Path, BinaryIO]]:
        """A new file that is gone after the block, unless it was renamed into place."""
        path = self._new / secrets.token_hex(16)
        try:
            with _out_of_space(self._folder), path.open("xb", buffering=READ_BYTES) as file:
                yield path, file
        finally:
            path.unlink(missing_ok=True)

    def _place(self, temporary: Path, digest: Digest) -> None:
        path = self._path(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.replace(path)
        self._sync_folders(path)

    def _sync_folders(self, path: Path) -> None:
        """Make a blob's name survive a power cut, and those of its folders, whoever made them."""
        for folder in (path.parent, path.parent.parent, self._folder):
            _sync_folder(folder)

    def _verify(self, digest: Digest) -> None:
        with self.open(digest) as file:
            while file.read(READ_BYTES):
                pass

    def quarantine(self, digest: Digest) -> Corrupted:
        """Put the bad file where no read finds it, and say so."""
        path = self._path(digest)
        self._quarantine.mkdir(exist_ok=True)
        kept = self._quarantine / f"{path.name}.{secrets.token_hex(4)}"
        with suppress(FileNotFoundError):
            path.replace(kept)
        return Corrupted(
            f"blob {digest} does not hold the bytes that were stored; it was not used",
            ways_on=[
                f"the bad file was moved to {kept}",
                "store the same bytes again (run the step that made them) or restore it from a backup",
            ],
            digest=digest,
        )

    def _sweep(self) -> None:
        """Remove what processes that died in mid-write left behind."""
        oldest = time.time() - ABANDONED_S
        for path in self._new.iterdir():
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < oldest:
                    path.unlink()


class _Verified(io.RawIOBase):
    """A file that raises at its end when its bytes were not the digest's."""

    def __init__(self, file: io.FileIO, digest: Digest, store: LocalBlobs) -> None:
        self._file = file
        self._digest = digest
        self._store = store
        self._hasher = blake3.blake3()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = self._file.readinto(buffer) or 0
        if count:
            self._hasher.update(buffer[:count])
        elif f"blake3:{self._hasher.hexdigest()}" != self._digest:
            raise self._store.quarantine(self._digest)
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def _digest_of(data: bytes) -> Digest:
    threads = blake3.blake3.AUTO if len(data) >= PARALLEL_BYTES else 1
    return Digest(f"blake3:{blake3.blake3(data, max_threads=threads).hexdigest()}")


def _unknown(digest: Digest) -> NotFound:
    return NotFound(
        f"no blob has the digest {digest}",
        ways_on=["it was never stored in this project, or was collected as garbage"],
        digest=digest,
    )


@contextmanager
def _out_of_space(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise OutOfSpace(
            f"the disk that holds {folder} is full; nothing was stored",
            ways_on=["free some space and try again"],
            folder=str(folder),
        ) from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
