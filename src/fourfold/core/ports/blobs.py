"""Content-addressed bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from fourfold.core.storage import BlobEntry, Digest
from fourfold.core.times import Instant

__all__ = ["BlobStore", "Digest"]


class BlobStore(Protocol):
    """Keeps byte strings under their own digest.

    A `put` that returned survives `kill -9`, and on a local disk a power cut. Putting the same bytes
    twice stores them once. Every read but `part` is verified: wrong bytes raise `Corrupted` and are put
    aside, a full disk raises `OutOfSpace`, an unknown digest `NotFound`; a failed `put` leaves nothing
    behind.

    A blob has an age: the time since it was last put or renewed. Garbage is what nothing cites and is
    old, so whoever cites a blob that is there already renews it first.
    """

    def put(self, data: bytes | Iterable[bytes]) -> Digest:
        """Store the bytes, or renew them where they are there, and return their digest."""
        ...

    def put_file(self, path: Path) -> Digest:
        """Store a file's bytes and return their digest."""
        ...

    def get(self, digest: Digest) -> bytes:
        """All bytes of a blob, verified."""
        ...

    def part(self, digest: Digest, offset: int, length: int) -> bytes:
        """Some bytes of a blob, fewer at its end. Not verified by itself: for readers that hold a digest
        of this very part."""
        ...

    def open(self, digest: Digest) -> BinaryIO:
        """A blob as a stream; reading to the end verifies it."""
        ...

    def has(self, digest: Digest) -> bool: ...

    def size(self, digest: Digest) -> int:
        """The size in bytes."""
        ...

    def digests(self) -> Iterator[Digest]:
        """All digests, sorted."""
        ...

    def entries(self, *, after: Digest | None = None) -> Iterator[BlobEntry]:
        """All blobs with size and age, sorted by digest; with `after`, those that follow it."""
        ...

    def renew(self, digest: Digest) -> bool:
        """Whether the blob is there; if it is, its age begins again."""
        ...

    def delete(self, digest: Digest) -> None:
        """Remove a blob; removing what is not there is nothing."""
        ...

    def collect(self, digest: Digest, before: Instant) -> bool:
        """Remove a blob unless it was put or renewed at `before` or later; whether it was removed.

        Whatever runs at the same time: a `put` that returned, and a `renew` that said yes, find their
        blob there afterwards.
        """
        ...

    def quarantined(self) -> Iterator[BlobEntry]:
        """What was put aside because its bytes were wrong: under which digest, how large, when."""
        ...

    def release(self, digest: Digest) -> None:
        """Throw away what was put aside under this digest."""
        ...

    def materialize(self, digest: Digest, path: Path, *, executable: bool = False) -> None:
        """Put a blob's bytes at `path` (read-only, a link where the disk allows), verified."""
        ...
