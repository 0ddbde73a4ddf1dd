"""What is removed for good: old versions' files, branches, tables."""

from __future__ import annotations

from fourfold.core.decide import retention
from fourfold.core.errors import Refused
from fourfold.core.ports.clock import Clock
from fourfold.core.ports.tables import TableStore
from fourfold.core.storage import TableVacuum
from fourfold.core.times import after, duration_text
from fourfold.foundation.storage.tables import TableRecords
from fourfold.foundation.storage.versions import MOST_HISTORY, Versions

LEAST_RETENTION_S = 3600.0
"""Files younger than this may belong to a write that is still under way."""


class Retiring:
    """Removes what nothing cites."""

    def __init__(self, records: TableRecords, versions: Versions, tables: TableStore, clock: Clock) -> None:
        self._records = records
        self._versions = versions
        self._tables = tables
        self._clock = clock

    def vacuum(self, table: str, older_than_s: float, *, dry_run: bool) -> TableVacuum:
        if not older_than_s >= LEAST_RETENTION_S:
            raise Refused(
                f"what was replaced less than {duration_text(LEAST_RETENTION_S)} ago is not removed: "
                "a write may be under way",
                ways_on=["give a longer older_than; it is 7 days where nothing is said"],
                table=table,
            )
        now = self._clock.now()
        before = after(now, -older_than_s)
        self._versions.catch_up(table, self._versions.snapshot(table).version)
        cited = self._cited(table)
        told = self._tables.vacuum(table, keep=cited.keys(), before=before, dry_run=dry_run)
        if not dry_run:
            facts = {
                "older_than_s": older_than_s,
                "files": told.file_count,
                "bytes": told.size_bytes,
                "versions": list(told.versions),
            }
            self._records.record(now, table, "table.vacuum", facts)
        made = [(v.version, v.at) for v in reversed(self._records.versions(table, MOST_HISTORY))]
        old = retention.old_versions(made, before=before)
        return TableVacuum(
            name=table,
            is_dry_run=dry_run,
            before=before,
            file_count=told.file_count,
            size_bytes=told.size_bytes,
            versions=told.versions,
            kept={str(version): cited[version] for version in old if version in cited},
        )

    def _cited(self, table: str) -> dict[int, str]:
        """Versions that stay readable, each with what cites it."""
        tags = {version: f"tag {tag}" for tag, version in self._records.tags(table).items()}
        return self._records.pinned(table) | tags

    def drop(self, name: str, why: str) -> None:
        known = self._records.known(name)
        if known is None or known.dropped_at is None:
            self._versions.snapshot(name)
            self._records.drop(self._clock.now(), name, why)
        self._tables.drop(name)  # again, too, where a crash came between
