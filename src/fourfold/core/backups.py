"""A project's state, written down: what a backup holds of it, piece by piece."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fourfold.core.storage import Digest
from fourfold.core.times import Instant

FORMAT = 1

Progress = Callable[[str, int, int], None]
"""Told what is being done, how far it is, and how far it goes (0: not known)."""


def silent(what: str, done: int, of: int) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True, slots=True)
class CatalogPart:
    """One table of the catalog: its rows, as `catalog.portable` writes them."""

    table: str
    rows: int
    digest: Digest


@dataclass(frozen=True, slots=True)
class TablePart:
    """One versioned table, with every version up to one."""

    name: str
    version: int
    file_count: int
    size_bytes: int
    digest: Digest
    """The piece that lists its files: a `TableFile` in each line."""


@dataclass(frozen=True, slots=True)
class TableFile:
    """One file of a table: where it lies in the table's folder, and its bytes."""

    path: str
    size_bytes: int
    digest: Digest


@dataclass(frozen=True, slots=True)
class ListPart:
    """A piece of lines, one for each blob or record."""

    count: int
    size_bytes: int
    """Of what is listed."""
    digest: Digest


@dataclass(frozen=True, slots=True)
class Backup:
    """A project's state at one moment. Whoever has it and the pieces that it names has the project."""

    at: Instant
    fourfold: str
    """The version of Fourfold that wrote it."""
    project: str
    revision: str
    """The newest migration that the catalog had seen."""
    catalog: tuple[CatalogPart, ...]
    tables: tuple[TablePart, ...]
    blobs: ListPart
    online: ListPart
    format: int = FORMAT
    inserted: ListPart | None = None
    """Inserts that were in no version yet: an `Addition` in each line."""

    @property
    def rows(self) -> int:
        """Rows of the catalog."""
        return sum(part.rows for part in self.catalog)

    @property
    def size_bytes(self) -> int:
        """Of tables, blobs and online records, however much of it other backups share."""
        tables = sum(part.size_bytes for part in self.tables)
        return tables + self.blobs.size_bytes + self.online.size_bytes
