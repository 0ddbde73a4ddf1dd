"""Every store, ours and the fakes, passes the kit of its port."""

from __future__ import annotations

from pathlib import Path

import pytest

from fourfold.adapters.delta import DeltaTables
from fourfold.adapters.local_blobs import LocalBlobs
from fourfold.core.ports.blobs import BlobStore
from fourfold.core.ports.tables import TableStore
from fourfold.testing.blobs import BlobStoreKit, MemoryBlobs
from fourfold.testing.table_kit import TableStoreKit
from fourfold.testing.tables import MemoryTables


class TestLocalBlobs(BlobStoreKit):
    @pytest.fixture
    def store(self, tmp_path: Path) -> BlobStore:
        return LocalBlobs(tmp_path / "blobs")


class TestMemoryBlobs(BlobStoreKit):
    @pytest.fixture
    def store(self) -> BlobStore:
        return MemoryBlobs()


class TestDeltaTables(TableStoreKit):
    @pytest.fixture
    def store(self, tmp_path: Path) -> TableStore:
        return DeltaTables(tmp_path / "tables")


class TestMemoryTables(TableStoreKit):
    @pytest.fixture
    def store(self) -> TableStore:
        return MemoryTables()


class TestMemoryTablesThatCanDoLittle(TableStoreKit):
    """Refusals are checked too."""

    @pytest.fixture
    def store(self) -> TableStore:
        return MemoryTables(abilities=())
