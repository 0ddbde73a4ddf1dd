"""Where gateways of these tests stand."""

from __future__ import annotations

import pytest
from tests.hosting.harness import Stand

from fourfold.catalog.database import Catalog
from fourfold.foundation.storage.service import Storage
from fourfold.testing.clock import MovableClock


@pytest.fixture
def stand(sqlite_catalog: Catalog, storage: Storage, clock: MovableClock) -> Stand:
    return Stand(sqlite_catalog, storage, clock)
