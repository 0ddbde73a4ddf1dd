"""Storage as a step sees it, and the small tables that these tests write."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import date

import pyarrow as pa
import pytest

from fourfold.adapters.blake3_digests import Blake3Digests
from fourfold.adapters.fastcdc_chunks import FastCdcChunks
from fourfold.catalog.database import Catalog
from fourfold.core.context import Executing, Ref
from fourfold.core.ports.blobs import BlobStore
from fourfold.core.ports.clock import Clock
from fourfold.core.ports.tables import Ability
from fourfold.foundation.storage.datasets.service import Datasets
from fourfold.foundation.storage.folders.service import Files
from fourfold.foundation.storage.service import Storage
from fourfold.testing.blobs import MemoryBlobs
from fourfold.testing.clock import MovableClock
from fourfold.testing.tables import MemoryTables

DAY_1, DAY_2 = date(2013, 1, 1), date(2013, 1, 2)


@dataclass
class Attempt:
    """An attempt of a step: keeps what was reported to it, and gives keys as a runner does."""

    number: int = 1
    call: str = "build"
    reads: list[Ref] = field(default_factory=list)
    writes: list[Ref] = field(default_factory=list)
    written: int = 0

    @property
    def executing(self) -> Executing:
        return Executing("run_1", self.call, self.number, code="c", environment="e", user="ada")

    def record_read(self, ref: Ref) -> None:
        self.reads.append(ref)

    def record_write(self, ref: Ref) -> None:
        self.writes.append(ref)

    def write_key(self) -> str:
        self.written += 1
        return f"run_1/{self.call}/{self.written}"


@pytest.fixture
def records(catalog: Catalog, clock: MovableClock) -> Storage:
    """Storage on both databases, its tables and blobs in memory: for what the catalog has a part in."""
    return Storage(catalog, MemoryBlobs(), MemoryTables(), clock)


def rows(*numbers: int, day: date = DAY_1) -> pa.Table:
    """A small table: `n` as given, `day` the same in all rows."""
    return pa.table({"n": pa.array(numbers, pa.int64()), "day": pa.array([day] * len(numbers), pa.date32())})


def numbers(storage: Storage, name: str = "t", **pin: object) -> list[int]:
    """The sorted `n` of a table's rows."""
    return sorted(storage.read(name, columns=("n",), **pin)["n"].to_pylist())  # type: ignore[arg-type]


def datasets_over(
    catalog: Catalog,
    storage: Storage,
    blobs: BlobStore,
    clock: Clock,
    abilities: Collection[Ability] = tuple(Ability),
) -> Datasets:
    """The service of datasets over this storage, and what its tables' format can do."""
    files = Files(catalog, blobs, blobs, clock, Blake3Digests(), chunker=FastCdcChunks)
    return Datasets(catalog, storage, files, blobs, clock, abilities=abilities)
