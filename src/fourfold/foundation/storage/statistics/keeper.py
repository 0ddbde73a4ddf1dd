"""The figures of tables' versions: kept from the write, merged with each append, else counted when asked."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from fourfold.catalog.database import Catalog
from fourfold.core.ports.clock import Clock
from fourfold.core.statistics import TableStatistics
from fourfold.foundation.storage.statistics.sketch import TableSketch
from fourfold.foundation.storage.statistics.tables import StatisticsRecords


class StatisticsKeeper:
    """Answers with a version's figures, and keeps them in the catalog."""

    def __init__(
        self, catalog: Catalog, scan: Callable[[str, int], pa.RecordBatchReader], clock: Clock
    ) -> None:
        self._records = StatisticsRecords(catalog)
        self._scan = scan
        self._clock = clock

    def of(self, name: str, version: int) -> TableStatistics:
        """The figures of a version; its rows are read once where they are not kept."""
        kept = self._records.summary(name, version)
        if kept is not None:
            return kept
        reader = self._scan(name, version)
        return self._put(name, version, TableSketch.of(reader, reader.schema))

    def replaced(self, name: str, version: int, brought: TableSketch) -> None:
        """Keep the figures of a version that holds just the rows that were brought."""
        self._put(name, version, brought)

    def appended(self, name: str, version: int, brought: TableSketch) -> None:
        """Keep the figures of a version that holds the one before and the rows that were brought.

        Where those of the version before are not kept, or its columns are others, nothing is: the first
        who asks has the version counted. So it is too after an upsert, a delete or an overwrite of a part:
        a sketch cannot take rows away.
        """
        kept = self._records.sketches(name, version - 1)
        if kept is None:
            return
        before = TableSketch.load(kept)
        if before.merge(brought):
            self._put(name, version, before)

    def count(self, name: str) -> int:
        """Of how many versions of a table and its branches figures are kept."""
        return self._records.count(name)

    def forget(self, name: str) -> int:
        """Remove all figures of a table and its branches, because they hold values of rows; how many."""
        return self._records.forget(name)

    def _put(self, name: str, version: int, sketch: TableSketch) -> TableStatistics:
        return self._records.put(self._clock.now(), sketch.statistics(name, version), sketch.dump())
