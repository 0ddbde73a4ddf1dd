"""Content-addressed bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from fourfold.core.storage import Digest

__all__ = ["BlobStore", "Digest"]


class BlobStore(Protocol):
    """Keeps byte strings under their own digest.

    A `put` that returned survives `kill -9`, and on a local disk a power cut. Putting the same bytes
    twice stores them once. Every read is verified: wrong bytes raise `Corrupted`, a full disk raises
    `OutOfSpace`, an unknown digest `NotFound`; a failed `put` leaves nothing behind.
    """

    def put(self, data: bytes | Iterable[bytes]) -> Digest:
        """Store the bytes and return their digest."""
        ...

    def put_file(self, path: Path) -> Digest:
        """Store a file's bytes and return their digest."""
        ...

    def get(self, digest: Digest) -> bytes:
        """All bytes of a blob, verified."""
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

    def delete(self, digest: Digest) -> None:
        """Remove a blob; removing what is not there is nothing."""
        ...

    def materialize(self, digest: Digest, path: Path, *, executable: bool = False) -> None:
        """Put a blob's bytes at `path` (read-only, a link where the disk allows), verified."""
        ...
