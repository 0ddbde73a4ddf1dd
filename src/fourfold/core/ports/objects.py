"""Named byte strings in an object store: S3, Google Cloud Storage, Azure Blob Storage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

from fourfold.core.objects import Key, ObjectAddress, ObjectStat


class ObjectStore(Protocol):
    """Keeps objects under one prefix of one bucket.

    An object is there whole or not at all, and what a call acknowledged is as durable as the store
    promises. There are no folders, locks or renames; `create` is the only thing that two writers cannot
    both do. Every call may be repeated.

    Throttling, errors of the store's side and broken connections are tried again with growing pauses for
    `address.patience_s`; then they are `Unavailable`, which says nothing about whether a write was applied.
    Wrong or missing credentials are `Refused`, a bucket that does not exist is `NotFound`, a full one
    `OutOfSpace`.
    """

    @property
    def address(self) -> ObjectAddress: ...

    @property
    def options(self) -> Mapping[str, str]:
        """The same address and credentials as `deltalake` and other clients of its kind take them."""
        ...

    def create(self, key: Key, data: bytes) -> bool:
        """Store an object where none is. True if the key now holds `data`, False if it holds something else.

        A repeat whose first answer was lost finds its own object and is True; so is one of two that create
        equal bytes: data that must have one author holds something that tells its author. A store that
        would let two create the same key is `Refused` before anything is written, unless the address
        promises one writer.
        """
        ...

    def put(self, key: Key, data: bytes | Iterable[bytes], *, size_hint: int = 0) -> None:
        """Store an object, over what was there. Pieces are sent as they come, in bounded memory.

        When the iterable raises, nothing is stored and its error comes out. `size_hint` is the number of
        bytes to come where it is known: very large objects need larger parts.
        """
        ...

    def get(self, key: Key) -> bytes:
        """All bytes of an object; `NotFound` if it is not there."""
        ...

    def read(self, key: Key, start: int, stop: int) -> bytes:
        """The bytes from `start` up to `stop`; fewer where the object ends before.

        A long range is fetched in several pieces at once.
        """
        ...

    def tail(self, key: Key, count: int) -> tuple[bytes, int]:
        """The last bytes, `count` at most, and the size of the whole object."""
        ...

    def pieces(self, key: Key, *, start: int = 0) -> Iterator[bytes]:
        """The bytes from `start` on, in order; several pieces are fetched at once, in bounded memory."""
        ...

    def stat(self, key: Key) -> ObjectStat | None:
        """What is known of an object, or None if it is not there."""
        ...

    def listing(self, prefix: str, *, after: str = "") -> Iterator[ObjectStat]:
        """The objects below `prefix` (whole segments), sorted by key, those greater than `after` only."""
        ...

    def folders(self, prefix: str) -> Iterator[str]:
        """The next segments of the keys below `prefix`, sorted, each once."""
        ...

    def copy(self, source: Key, target: Key) -> None:
        """Copy an object within the store, over what was there."""
        ...

    def delete(self, keys: Iterable[Key]) -> None:
        """Remove objects; removing what is not there is nothing."""
        ...
