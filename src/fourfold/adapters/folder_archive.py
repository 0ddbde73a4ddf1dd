"""Backups in a folder: pieces in a store of blobs, and beside it one numbered manifest for each backup."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from fourfold.core.errors import NotFound, OutOfSpace
from fourfold.core.ports.blobs import BlobStore
from fourfold.core.storage import Digest

READ_BYTES = 1 << 20
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class FolderArchive:
    """Keeps manifests as `000001.json` and so on in `folder`; backups of one project share their pieces."""

    def __init__(self, folder: Path, pieces: BlobStore) -> None:
        self._folder = folder
        self._pieces = pieces

    def __str__(self) -> str:
        return str(self._folder)

    def put(self, read: Callable[[], Iterable[bytes]]) -> Digest:
        return self._pieces.put(read())

    def has(self, digest: Digest) -> bool:
        return self._pieces.has(digest)

    def read(self, digest: Digest) -> Iterator[bytes]:
        with self._pieces.open(digest) as file:
            while piece := file.read(READ_BYTES):
                yield piece

    def commit(self, manifest: bytes) -> int:
        new = self._folder / f".new-{secrets.token_hex(8)}"
        try:
            with new.open("xb") as file:
                file.write(manifest)
                file.flush()
                os.fsync(file.fileno())
            number = self._take_number(new)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise OutOfSpace(
                f"the disk that holds {self._folder} is full; the backup is not complete",
                ways_on=["free some space and run it again: it goes on where it stopped"],
            ) from error
        finally:
            new.unlink(missing_ok=True)
        _sync(self._folder)
        _sync(self._folder.parent)
        return number

    def _take_number(self, new: Path) -> int:
        """Of two backups that end at once, each gets a number of its own: a name is linked once."""
        while True:
            number = max(self.manifests(), default=0) + 1
            with suppress(FileExistsError):
                os.link(new, self._path(number))
                return number

    def manifests(self) -> tuple[int, ...]:
        names = (path.stem for path in self._folder.glob("*.json"))
        return tuple(sorted(int(name) for name in names if name.isascii() and name.isdecimal()))

    def manifest(self, number: int) -> bytes:
        try:
            return self._path(number).read_bytes()
        except FileNotFoundError:
            raise NotFound(
                f"there is no backup {number} in {self._folder}",
                ways_on=["backups: " + (", ".join(map(str, self.manifests()[-20:])) or "(none)")],
            ) from None

    def close(self) -> None:
        pass

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:06d}.json"


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
