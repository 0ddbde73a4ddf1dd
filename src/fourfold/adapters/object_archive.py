"""Backups in an object store: pieces in a store of blobs there, and beside it one numbered manifest each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from fourfold.core.errors import NotFound
from fourfold.core.objects import Key
from fourfold.core.ports.blobs import BlobStore
from fourfold.core.ports.objects import ObjectStore
from fourfold.core.storage import Digest

READ_BYTES = 1 << 20
MANIFESTS = "backups"


class ObjectArchive:
    """Keeps manifests as `backups/000001.json` and so on; a number is created by one only."""

    def __init__(self, objects: ObjectStore, pieces: BlobStore) -> None:
        self._objects = objects
        self._pieces = pieces

    def __str__(self) -> str:
        return str(self._objects.address)

    def put(self, read: Callable[[], Iterable[bytes]]) -> Digest:
        return self._pieces.put(read())

    def has(self, digest: Digest) -> bool:
        return self._pieces.has(digest)

    def read(self, digest: Digest) -> Iterator[bytes]:
        with self._pieces.open(digest) as file:
            while piece := file.read(READ_BYTES):
                yield piece

    def commit(self, manifest: bytes) -> int:
        number = max(self.manifests(), default=0) + 1
        while not self._objects.create(_key(number), manifest):
            number += 1
        return number

    def manifests(self) -> tuple[int, ...]:
        keys = (stat.key for stat in self._objects.listing(MANIFESTS))
        names = (key.rpartition("/")[2].removesuffix(".json") for key in keys)
        return tuple(sorted(int(name) for name in names if name.isascii() and name.isdecimal()))

    def manifest(self, number: int) -> bytes:
        try:
            return self._objects.get(_key(number))
        except NotFound:
            raise NotFound(
                f"there is no backup {number} in {self}",
                ways_on=["backups: " + (", ".join(map(str, self.manifests()[-20:])) or "(none)")],
            ) from None

    def close(self) -> None:
        pass


def _key(number: int) -> Key:
    return Key(f"{MANIFESTS}/{number:06d}.json")
