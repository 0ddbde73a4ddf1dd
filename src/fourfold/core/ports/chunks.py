"""Cutting bytes where their contents say, so that an insertion moves few borders."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, Protocol


class Chunker(Protocol):
    """Cuts a stream into chunks. Borders depend on the bytes near them only: equal stretches of two files
    are, but for their ends, cut alike."""

    @property
    def name(self) -> str:
        """How it cuts; chunks of another name match only by luck."""
        ...

    def cut(self, file: BinaryIO) -> Iterator[bytes]:
        """The chunks in order, in bounded memory; joined, they are the file's bytes from here on."""
        ...
