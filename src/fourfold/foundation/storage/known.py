"""Files whose digest is known: the same file is not read twice to be stored twice.

What is remembered of a file is its device, inode, size and its two times, as git does. A digest is
remembered, and believed, only under these rules:

- both times lay at least `SETTLED_NS` before the reading began. A later change gets another time then,
  however coarse the disk's clock is (git calls the others *racily clean*);
- the file was the same before and after it was read;
- the blob is still there, with the file's size.

One way around them is known: a program that maps a file into its memory may write to it for some seconds
without a new time. Such a file is stored once its writer has let go of it.
"""

from __future__ import annotations

import hashlib
import os
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from fourfold.core.ports.blobs import BlobStore, Digest

SETTLED_NS = 2_000_000_000
SLOTS = 1 << 16
"""How many files are remembered; a newer one takes the place of another. 6 MiB on the disk."""
_RECORD = struct.Struct("<5q32s8s")
"""Device, inode, size, time of change of bytes and of inode; the digest; a checksum of all that."""


class KnownFiles:
    """A table of fixed size in one file. A torn or foreign record fails its checksum and counts as empty,
    so it needs no lock, no syncing and no repair; throwing it away costs time only."""

    def __init__(self, path: Path, *, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._path = path
        self._now_ns = now_ns

    def digest(self, known: os.stat_result) -> Digest | None:
        """The digest of a file with this status, if it is remembered."""
        with suppress(OSError):
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                record = os.pread(descriptor, _RECORD.size, _place(known))
            finally:
                os.close(descriptor)
            if len(record) == _RECORD.size and record[-8:] == _checksum(record):
                *status, digest, _ = _RECORD.unpack(record)
                if status == _status(known):
                    return Digest(f"blake3:{digest.hex()}")
        return None

    def is_settled(self, known: os.stat_result) -> bool:
        """Whether a change from now on would show in the file's times."""
        return max(known.st_mtime_ns, known.st_ctime_ns) + SETTLED_NS < self._now_ns()

    def remember(self, known: os.stat_result, digest: Digest) -> None:
        """Keep the digest of a file that was settled before it was read."""
        record = _RECORD.pack(*_status(known), bytes.fromhex(digest.removeprefix("blake3:")), bytes(8))
        with suppress(OSError):  # a full disk: then it is not remembered
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.pwrite(descriptor, record[:-8] + _checksum(record), _place(known))
            finally:
                os.close(descriptor)


def remembering(blobs: BlobStore, known: KnownFiles) -> BlobStore:
    """A store that does not read a file again which it knows."""
    return cast(BlobStore, _Remembering(blobs, known))


class _Remembering:
    def __init__(self, blobs: BlobStore, known: KnownFiles) -> None:
        self._blobs = blobs
        self._known = known

    def __repr__(self) -> str:
        return repr(self._blobs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._blobs, name)  # all but `put_file` is the store's own

    def put_file(self, path: Path) -> Digest:
        before = path.stat()
        digest = self._known.digest(before)
        if digest is not None and self._blobs.renew(digest) and self._blobs.size(digest) == before.st_size:
            return digest
        was_settled = self._known.is_settled(before)
        digest = self._blobs.put_file(path)
        if was_settled and _status(path.stat()) == _status(before):
            self._known.remember(before, digest)
        return digest


def _status(known: os.stat_result) -> list[int]:
    return [known.st_dev, known.st_ino, known.st_size, known.st_mtime_ns, known.st_ctime_ns]


def _place(known: os.stat_result) -> int:
    return hash((known.st_dev, known.st_ino)) % SLOTS * _RECORD.size


def _checksum(record: bytes) -> bytes:
    return hashlib.blake2b(record[:-8], digest_size=8).digest()
