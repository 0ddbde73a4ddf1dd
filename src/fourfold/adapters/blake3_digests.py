"""Digests of bytes and files by BLAKE3."""

from __future__ import annotations

from pathlib import Path

import blake3

from fourfold.core.storage import Digest

PARALLEL_BYTES = 8 << 20
"""Above this a digest is worth more than one thread."""
READ_BYTES = 4 << 20


class Blake3Digests:
    """Fulfils `core.ports.digests.Digester`."""

    def begin(self) -> Running:
        return Running()

    def of(self, data: bytes) -> Digest:
        threads = blake3.blake3.AUTO if len(data) >= PARALLEL_BYTES else 1
        return _named(blake3.blake3(data, max_threads=threads))

    def of_file(self, path: Path) -> Digest:
        hasher = blake3.blake3(max_threads=blake3.blake3.AUTO)
        with path.open("rb", buffering=0) as file:
            while piece := file.read(READ_BYTES):
                hasher.update(piece)
        return _named(hasher)


class Running:
    """Fulfils `core.ports.digests.Running`."""

    def __init__(self) -> None:
        self._hasher = blake3.blake3()

    def update(self, data: bytes, /) -> object:
        return self._hasher.update(data)

    def digest(self) -> Digest:
        return _named(self._hasher)


def _named(hasher: blake3.blake3) -> Digest:
    return Digest(f"blake3:{hasher.hexdigest()}")
