"""Blobs as read-only files on a local disk, each under its own digest: `ab/cd/<hash>`."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import re
import secrets
import shutil
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import blake3

from fourfold.core.errors import Corrupted, NotFound, OutOfSpace, Refused
from fourfold.core.ports.blobs import Digest
from fourfold.core.storage import BlobEntry
from fourfold.core.times import Instant

READ_BYTES = 1 << 20
COPY_BYTES = 8 << 20
"""How much is copied before the thread that digests may go on."""
PARALLEL_BYTES = 8 << 20
"""Above this a digest is worth more than one thread."""
THREAD_BYTES = 128 << 10
"""Below this a piece is digested sooner than it is handed to a thread."""
MOST_WAITING = 8
"""Pieces that may wait for the thread that digests them."""
UNSURE, SURE = 0o400, 0o444
"""The mode of a blob whose name may not be on the disk yet, and of one whose name is."""
ABANDONED_S = 86_400
"""A temporary file this old belongs to a process that died."""

_DIGEST = re.compile(r"blake3:([0-9a-f]{64})")
_NAME = re.compile(r"[0-9a-f]{64}")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CANNOT_COPY = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM}
"""What `copy_file_range` says between disks or kinds of files that it does not know."""


class LocalBlobs:
    """Keeps blobs under `folder`.

    A blob is written to a temporary file, synced, renamed into place, and its folder synced, before `put`
    returns. Files are read-only (0444; 0400 until the folder is synced). A file whose bytes are found wrong
    is moved to `quarantine/` and never served; putting the right bytes again stores them afresh.

    A blob's age counts from its inode's change time, which a rename, a touch and a new link set and
    nobody can set back. Giving a name and renewing hold the lock shared, removing holds it alone.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._new = folder / "new"
        self._quarantine = folder / "quarantine"
        self._lock = folder / "lock"
        self._synced: set[Path] = set()
        """Folders whose own names are known to be on the disk; they are never removed."""
        with _out_of_space(folder):
            self._new.mkdir(parents=True, exist_ok=True)
            if not self._lock.exists():
                self._lock.touch(0o600)  # now: on a full disk there would be no room for it
        self._sweep()

    def __repr__(self) -> str:
        return f"<LocalBlobs {self._folder}>"

    def put(self, data: bytes | Iterable[bytes]) -> Digest:
        if isinstance(data, bytes):
            return self._put_bytes(data)
        with self._temporary() as (path, file), _Digesting() as digesting:
            for piece in data:
                digesting.add(piece)
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())  # while the thread digests what it has not come to
            return self._keep(path, file, digesting.digest())

    def _put_bytes(self, data: bytes) -> Digest:
        """Known before they are written: what is there already is not written at all."""
        digest = _digest_of(data)
        if not self._renewed(digest, len(data)):
            with self._temporary() as (path, file):
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                self._name(path, file, digest)
        return digest

    def put_file(self, path: Path) -> Digest:
        with path.open("rb", buffering=0) as source:
            if os.fstat(source.fileno()).st_size < READ_BYTES:
                return self.put(source.readall())
            with self._temporary() as (temporary, file):
                return self._keep(temporary, file, _copied(source.fileno(), file.fileno()))

    def get(self, digest: Digest) -> bytes:
        with self._opened(digest) as file:
            data = file.readall()
            if _digest_of(data) != digest:
                raise self.quarantine(digest, file)
        return data

    def part(self, digest: Digest, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0:
            raise Refused(f"no blob has a part of {length} bytes at {offset}")
        with self._opened(digest) as file:
            file.seek(offset)
            pieces = []
            while length > 0 and (piece := file.read(length)):
                pieces.append(piece)
                length -= len(piece)
            return b"".join(pieces)

    def open(self, digest: Digest) -> BinaryIO:
        return io.BufferedReader(_Verified(self._opened(digest), digest, self), READ_BYTES)

    def has(self, digest: Digest) -> bool:
        return self._path(digest).is_file()

    def size(self, digest: Digest) -> int:
        try:
            return self._path(digest).stat().st_size
        except FileNotFoundError:
            raise _unknown(digest) from None

    def digests(self) -> Iterator[Digest]:
        return (Digest(f"blake3:{path.name}") for path in self._paths(""))

    def entries(self, *, after: Digest | None = None) -> Iterator[BlobEntry]:
        for path in self._paths("" if after is None else self._path(after).name):
            with suppress(FileNotFoundError):
                yield _entry(path)

    def renew(self, digest: Digest) -> bool:
        return self._renewed(digest, None)

    def delete(self, digest: Digest) -> None:
        path = self._path(digest)
        with suppress(FileNotFoundError):
            path.unlink()
            _sync_folder(path.parent)

    def collect(self, digest: Digest, before: Instant) -> bool:
        path = self._path(digest)
        with self._locked(fcntl.LOCK_EX):
            try:
                if _changed_at(path.stat()) >= before:
                    return False
                path.unlink()
            except FileNotFoundError:
                return False
        return True  # not synced: a power cut that brings garbage back harms nobody

    def quarantined(self) -> Iterator[BlobEntry]:
        for path in sorted(self._quarantine.glob("*.*")):
            if _NAME.fullmatch(path.stem):
                with suppress(FileNotFoundError):
                    yield _entry(path)

    def release(self, digest: Digest) -> None:
        for path in self._quarantine.glob(f"{self._path(digest).name}.*"):
            path.unlink(missing_ok=True)

    def materialize(self, digest: Digest, path: Path, *, executable: bool = False) -> None:
        self._verify(digest)
        with _out_of_space(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}")
        try:
            with _out_of_space(path.parent):
                self._link_or_copy(digest, temporary, executable=executable)
                temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _link_or_copy(self, digest: Digest, target: Path, *, executable: bool) -> None:
        """A link shares the store's own read-only file; where it cannot, the bytes are copied.

        An executable is always a copy: modes belong to the file, and the store's may not change.
        """
        if not executable:
            with suppress(OSError):
                os.link(self._path(digest), target)
                return
        with self._opened(digest) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file, READ_BYTES)
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

    def _paths(self, after: str) -> Iterator[Path]:
        """The blobs' files in the order of their names, those after a name."""
        for first in sorted(self._folder.glob("[0-9a-f][0-9a-f]")):
            if first.name < after[:2]:
                continue
            for second in sorted(first.iterdir()):
                if first.name + second.name < after[:4]:
                    continue
                for file in sorted(second.iterdir()):
                    if file.name > after and _NAME.fullmatch(file.name):
                        yield file

    def _opened(self, digest: Digest) -> io.FileIO:
        try:
            return self._path(digest).open("rb", buffering=0)
        except FileNotFoundError:
            raise _unknown(digest) from None

    @contextmanager
    def _temporary(self) -> Iterator[tuple[Path, BinaryIO]]:
        """A new file that is gone after the block, unless it was renamed into place."""
        path = self._new / secrets.token_hex(16)
        try:
            with _out_of_space(self._folder), path.open("x+b", buffering=READ_BYTES) as file:
                os.fchmod(file.fileno(), UNSURE)
                yield path, file
        finally:
            path.unlink(missing_ok=True)

    def _keep(self, temporary: Path, file: BinaryIO, digest: Digest) -> Digest:
        """Give a whole, synced temporary file its name, unless that blob is there."""
        if not self._renewed(digest, os.fstat(file.fileno()).st_size):
            self._name(temporary, file, digest)
        return digest

    def _name(self, temporary: Path, file: BinaryIO, digest: Digest) -> None:
        path = self._path(digest)
        with self._locked(fcntl.LOCK_SH):
            try:
                temporary.replace(path)
            except FileNotFoundError:  # the first blob of its folder
                self._synced -= {path.parent, path.parent.parent}
                path.parent.mkdir(parents=True, exist_ok=True)
                temporary.replace(path)
        self._sync_folders(path)
        os.fchmod(file.fileno(), SURE)

    def _renewed(self, digest: Digest, size_bytes: int | None) -> bool:
        """Whether the blob is there (with this size); its age begins again then.

        A file cut short, as a power cut leaves it where a disk lies about syncing, counts as not there.
        """
        path = self._path(digest)
        with suppress(FileNotFoundError), _out_of_space(self._folder):
            with self._locked(fcntl.LOCK_SH):
                known = path.stat()
                if size_bytes is not None and known.st_size != size_bytes:
                    return False
                os.utime(path)
            if known.st_mode & 0o777 == UNSURE:  # whoever put it there has not come so far
                self._sync_folders(path)
                path.chmod(SURE)
            return True
        return False

    def _sync_folders(self, path: Path) -> None:
        """Make a blob's name survive a power cut, and those of its folders, whoever made them."""
        _sync_folder(path.parent)
        for folder in (path.parent, path.parent.parent):
            if folder not in self._synced:
                _sync_folder(folder.parent)
                self._synced.add(folder)

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        """Hold the store's lock, between threads too; the kernel lets go of it when a process dies."""
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, how)
            yield
        finally:
            os.close(descriptor)

    def _verify(self, digest: Digest) -> None:
        with self.open(digest) as file:
            while file.read(READ_BYTES):
                pass

    def quarantine(self, digest: Digest, bad: io.FileIO) -> Corrupted:
        """Put the bad file where no read finds it, and say so. One that took its place meanwhile stays."""
        path = self._path(digest)
        self._quarantine.mkdir(exist_ok=True)
        kept = self._quarantine / f"{path.name}.{secrets.token_hex(4)}"
        moved = f"the bad file was moved to {kept}"
        with suppress(FileNotFoundError), self._locked(fcntl.LOCK_EX):
            if path.stat().st_ino == os.fstat(bad.fileno()).st_ino:
                path.replace(kept)
            else:
                moved = "another file has taken its place meanwhile: try again"
        return Corrupted(
            f"blob {digest} does not hold the bytes that were stored; it was not used",
            ways_on=[
                moved,
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
            raise self._store.quarantine(self._digest, self._file)
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class _Digesting:
    """The digest of pieces that are given one after another, made in a thread while they are written."""

    def __init__(self) -> None:
        self._hasher = blake3.blake3()
        self._pool = ThreadPoolExecutor(1)
        self._waiting: deque[Future[object]] = deque()

    def __enter__(self) -> _Digesting:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def add(self, piece: bytes) -> None:
        if not self._waiting and len(piece) < THREAD_BYTES:
            self._hasher.update(piece)
            return
        self._waiting.append(self._pool.submit(self._hasher.update, piece))
        if len(self._waiting) > MOST_WAITING:
            self._waiting.popleft().result()

    def digest(self) -> Digest:
        while self._waiting:
            self._waiting.popleft().result()
        return Digest(f"blake3:{self._hasher.hexdigest()}")


def _copied(source: int, target: int) -> Digest:
    """Copy a file within the kernel and sync it, while a thread digests what was written so far.

    The digest is that of the target's bytes, whatever somebody does to the source meanwhile.
    """
    hasher = blake3.blake3()
    buffer = memoryview(bytearray(READ_BYTES))

    def digest(start: int, end: int) -> None:
        while start < end:
            count = os.preadv(target, [buffer[: end - start]], start)
            hasher.update(buffer[:count])
            start += count

    written, digested = 0, []
    with ThreadPoolExecutor(1) as pool:
        while count := _copy_some(source, target):
            digested.append(pool.submit(digest, written, written + count))
            written += count
        os.fsync(target)
    for piece in digested:
        piece.result()
    return Digest(f"blake3:{hasher.hexdigest()}")


def _copy_some(source: int, target: int) -> int:
    """Copy the next bytes; 0 at the end."""
    try:
        return os.copy_file_range(source, target, COPY_BYTES)
    except OSError as error:
        if error.errno not in _CANNOT_COPY:
            raise
    return os.sendfile(target, source, None, COPY_BYTES)


def _entry(path: Path) -> BlobEntry:
    known = path.stat()
    return BlobEntry(Digest(f"blake3:{path.name[:64]}"), known.st_size, _changed_at(known))


def _changed_at(known: os.stat_result) -> Instant:
    return Instant(known.st_ctime_ns // 1000)


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
