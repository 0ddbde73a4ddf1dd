"""Where feature values are read within microseconds: small records by key, changed all or nothing.

The store knows nothing of features: it keeps bytes by (space, key). One writer at a time changes it, in
one process or another; readers see the state after some commit, never half of one, and never wait.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from enum import IntEnum
from typing import Protocol


class Space(IntEnum):
    """Records of different purpose, apart from each other."""

    state = 1
    """What is known of an entity by a view."""
    seen = 2
    """Event ids with their sequence numbers."""
    buffer = 3
    """Pushed events on their way to a table."""
    meta = 4
    """Progress and counts."""


LONGEST_KEY_BYTES = 480


class OnlineReader(Protocol):
    """One consistent state of the store. Used by one thread, and not after its block has ended."""

    def get(self, space: Space, key: bytes) -> bytes | memoryview | None:
        """The record, or `None`. A view of it is valid only inside the block."""
        ...

    def scan(self, space: Space, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """The records whose key begins with `prefix`, by ascending key."""
        ...


class OnlineWriter(OnlineReader, Protocol):
    """A change in the making: it reads what it wrote, and nobody else does until it ends well."""

    def put(self, space: Space, key: bytes, value: bytes) -> None:
        """Write a record. Keys have 1 to 480 bytes."""
        ...

    def delete(self, space: Space, key: bytes) -> bool:
        """Remove a record; says whether it was there."""
        ...


class OnlineStore(Protocol):
    """Records by key, for one writer and many readers, threads and processes alike.

    A `write()` block that ended well survives `kill -9` and a power cut; one that raised changed nothing.
    A full disk raises `OutOfSpace` and leaves what was there.
    """

    def read(self) -> AbstractContextManager[OnlineReader]:
        """A consistent state to read from."""
        ...

    def write(self) -> AbstractContextManager[OnlineWriter]:
        """A change; waits for the present writer. Not to be nested, nor a `read` inside it on one thread."""
        ...

    def close(self) -> None:
        """Release the store; repeatable."""
        ...
