"""The figures of tables' versions: kept from the write, merged with each append, else counted when asked."""

from __future__ import annotations

from fourfold.catalog.database import Catalog
from fourfold.core.ports.clock import Clock
from fourfold.core.ports.tables import Commit, TableStore
from fourfold.core.statistics import TableStatistics
from fourfold.foundation.storage.statistics.sketch import TableSketch
from fourfold.foundation.storage.statistics.tables import StatisticsRecords

_ADDING = {"create", "append"}


class StatisticsKeeper:
    """Answers with a version's figures, and keeps them in the catalog."""

    def __init__(self, catalog: Catalog, tables: TableStore, clock: Clock) -> None:
        self._records = StatisticsRecords(catalog)
        self._tables = tables
        self._clock = clock

    def of(self, name: str, version: int) -> TableStatistics:
        """The figures of a version; its rows are read once where they are not kept."""
        kept = self._records.summary(name, version)
        if kept is not None:
            return kept
        reader = self._tables.scan(name, version=version)
        return self._put(name, version, TableSketch.of(reader, reader.schema))

    def written(self, name: str, commit: Commit, brought: TableSketch) -> None:
        """Keep the figures of a version just written, from those of the rows that it brought.

        Appended rows are merged with the figures of the version before. A sketch cannot take rows away: after
        an upsert, a delete, or an overwrite of a part, the next who asks has the version counted.
        """
        if commit.rows == commit.rows_added:
            self._put(name, commit.version, brought)
        elif commit.operation in _ADDING:
            before = self._sketch(name, commit.version - 1)
            if before is not None and before.merge(brought):
                self._put(name, commit.version, before)

    def forget(self, name: str) -> None:
        """Remove all figures of a table: they hold values of its rows."""
        self._records.forget(name)

    def _sketch(self, name: str, version: int) -> TableSketch | None:
        kept = self._records.sketches(name, version)
        if kept is None:
            return None
        return TableSketch.load(kept, self._tables.snapshot(name, version=version).schema)

    def _put(self, name: str, version: int, sketch: TableSketch) -> TableStatistics:
        return self._records.put(self._clock.now(), sketch.statistics(name, version), sketch.dump())
