"""Sets of digests larger than memory: 32 bytes each in 256 files, of which one at a time is in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fourfold.core.storage import Digest

BUFFER_BYTES = 32 << 10
_START = len("blake3:")


class Marks:
    """Digests are added, then asked for. Asking in order of digests reads each file once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._folder.mkdir()
        self._waiting = [bytearray() for _ in range(256)]
        self._loaded: tuple[int, frozenset[bytes]] = (-1, frozenset())

    def add(self, digest: Digest) -> None:
        raw = bytes.fromhex(digest[_START:])
        waiting = self._waiting[raw[0]]
        waiting += raw
        if len(waiting) >= BUFFER_BYTES:
            self._write(raw[0])

    def __contains__(self, digest: Digest) -> bool:
        raw = bytes.fromhex(digest[_START:])
        return raw in self._bucket(raw[0])

    def __iter__(self) -> Iterator[Digest]:
        """All digests, sorted, each once."""
        for first in range(256):
            for raw in sorted(self._bucket(first)):
                yield Digest(f"blake3:{raw.hex()}")

    def _bucket(self, first: int) -> frozenset[bytes]:
        if self._waiting[first]:
            self._write(first)
        if self._loaded[0] != first:
            path = self._folder / f"{first:02x}"
            data = path.read_bytes() if path.exists() else b""
            self._loaded = first, frozenset(data[at : at + 32] for at in range(0, len(data), 32))
        return self._loaded[1]

    def _write(self, first: int) -> None:
        with (self._folder / f"{first:02x}").open("ab") as file:
            file.write(self._waiting[first])
        self._waiting[first].clear()
        if self._loaded[0] == first:
            self._loaded = -1, frozenset()
