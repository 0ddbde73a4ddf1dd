"""Where backups lie, and how a table store's files are taken to them and brought back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from fourfold.core.storage import Digest


class Archive(Protocol):
    """Keeps pieces under their digest, and manifests that name them, by number.

    Every read is verified: wrong bytes raise `Corrupted`. What is not there is `NotFound`.
    """

    def __str__(self) -> str:
        """The place, as a person would name it."""
        ...

    def manifests(self) -> tuple[int, ...]:
        """The numbers of all manifests, ascending."""
        ...

    def manifest(self, number: int) -> bytes: ...

    def read(self, digest: Digest) -> Iterator[bytes]:
        """A piece, some bytes at a time."""
        ...

    def close(self) -> None:
        """Release it; repeatable."""
        ...


class OpenArchive(Archive, Protocol):
    """An archive that takes more, from several threads too.

    A piece or manifest that was acknowledged survives `kill -9` and, on a local disk, a power cut. What is
    not finished when the writer dies is no piece and no manifest. A full disk raises `OutOfSpace`.
    """

    def put(self, read: Callable[[], Iterable[bytes]]) -> Digest:
        """Keep a piece, whose bytes `read()` gives, also a second time where the digest has to come first."""
        ...

    def has(self, digest: Digest) -> bool: ...

    def commit(self, manifest: bytes) -> int:
        """Keep a manifest under the next number: from here on it is a backup."""
        ...


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file as it lies in a table's folder."""

    path: str
    size_bytes: int
    is_unique: bool
    """No other bytes ever have this path, in any history of the table."""


class TableCopies(Protocol):
    """A table store seen as files: what a backup takes, and a restore puts back.

    Names are those of `TableStore`. Nothing here is recorded as a read or a write.
    """

    def files(self, name: str, *, version: int) -> Iterator[StoredFile]:
        """All files that the versions up to this one need, in the order in which they are to be put back.

        Files that a vacuum removed from older versions are passed over; what the version itself needs is
        there, or `Corrupted`.
        """
        ...

    def read(self, name: str, path: str) -> Iterator[bytes]:
        """A file's bytes; `NotFound` when it is gone."""
        ...

    def write(self, name: str, path: str, pieces: Iterable[bytes]) -> None:
        """Put a file in its place, whole or not at all, whatever was there."""
        ...

    def finish(self, name: str) -> None:
        """Say that a table's files are all there: from here on they survive what the store promises."""
        ...
