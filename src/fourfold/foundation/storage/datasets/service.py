"""The service of datasets: figures of tables."""

from __future__ import annotations

from fourfold.catalog.database import Catalog
from fourfold.core import context
from fourfold.core.context import Ref
from fourfold.core.ports.clock import Clock
from fourfold.core.ports.tables import TableStore
from fourfold.core.services.storage import Storage
from fourfold.core.statistics import TableStatistics
from fourfold.foundation.storage.statistics.keeper import StatisticsKeeper


class Datasets:
    """Fulfils `core.services.datasets.Datasets` over a catalog, storage and its table store."""

    def __init__(self, catalog: Catalog, storage: Storage, tables: TableStore, clock: Clock) -> None:
        self._storage = storage
        self._statistics = StatisticsKeeper(catalog, tables, clock)

    def statistics(self, name: str, *, version: int | None = None) -> TableStatistics:
        pinned = self._storage.describe(name, version=version).version
        context.record_read(Ref("table", name, str(pinned)))
        return self._statistics.of(name, pinned)
