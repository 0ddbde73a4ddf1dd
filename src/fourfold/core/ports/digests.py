"""How a process that has no blob store at hand names bytes as the stores do."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from fourfold.core.storage import Digest


class Running(Protocol):
    """A digest under way."""

    def update(self, data: bytes, /) -> object: ...

    def digest(self) -> Digest: ...


class Digester(Protocol):
    """Gives the same digests as every blob store."""

    def begin(self) -> Running: ...

    def of(self, data: bytes) -> Digest: ...

    def of_file(self, path: Path) -> Digest:
        """The digest of a file's bytes, in bounded memory."""
        ...
