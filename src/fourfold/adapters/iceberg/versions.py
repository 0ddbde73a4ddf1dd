"""Snapshots as versions: numbered from 0, each with what its writer said of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import msgspec
import pyarrow as pa
from pyiceberg.table import Table
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Snapshot as IcebergSnapshot

from fourfold.adapters.iceberg.columns import arrow_schema, partition_columns
from fourfold.core.errors import NotFound
from fourfold.core.ports.tables import Commit, Snapshot
from fourfold.core.times import Instant

TOLD = "fourfold.commit"
"""The key of a snapshot's summary under which our writers tell of it."""
_WORDS = {"append": "append", "overwrite": "overwrite", "delete": "delete", "replace": "compact"}


@dataclass(frozen=True, slots=True)
class Told:
    """What a snapshot's summary says of the write that made it."""

    id: str
    """Of the try that made it, by which a writer knows its own."""
    version: int
    operation: str
    at: int
    rows: int
    rows_added: int
    rows_removed: int
    columns: str
    """The digest of its columns in Arrow's words."""
    key: str = ""
    by: str = ""
    step: str = ""
    watermark: int = -1

    def text(self) -> str:
        return msgspec.json.encode(asdict(self)).decode()


@dataclass(frozen=True)
class Version:
    """One snapshot of a table, and its number."""

    number: int
    snapshot: IcebergSnapshot
    watermark: int
    told: Told | None = None

    @cached_property
    def commit(self) -> Commit:
        if (told := self.told) is not None:
            return Commit(
                version=self.number, at=Instant(told.at), operation=told.operation, rows=told.rows,
                rows_added=told.rows_added, rows_removed=told.rows_removed, key=told.key, by=told.by,
                step=told.step,
            )  # fmt: skip
        word = _WORDS.get(self._summary("operation", ""), "append") if self.number else "create"
        return Commit(
            version=self.number, at=self.at, operation=word, rows=self.rows,
            rows_added=int(self._summary("added-records", "0")),
            rows_removed=int(self._summary("deleted-records", "0")),
        )  # fmt: skip

    @property
    def at(self) -> Instant:
        return Instant(self.told.at if self.told else self.snapshot.timestamp_ms * 1000)

    @property
    def rows(self) -> int:
        deleted = int(self._summary("total-position-deletes", "0"))
        return self.told.rows if self.told else int(self._summary("total-records", "0")) - deleted

    def shown(self, state: State) -> Snapshot:
        return Snapshot(
            version=self.number,
            at=self.at,
            schema=state.schema_at(self),
            partition_by=state.partition_by,
            rows=self.rows,
            size_bytes=int(self._summary("total-files-size", "0")),
            file_count=int(self._summary("total-data-files", "0")),
            watermark=self.watermark,
        )

    def _summary(self, key: str, default: str) -> str:
        summary = self.snapshot.summary
        found: Any = None if summary is None else (summary.operation if key == "operation" else summary[key])
        return default if found is None else str(getattr(found, "value", found))


@dataclass(frozen=True)
class State:
    """A table as the catalog has it now. One without snapshots holds nothing yet."""

    name: str
    table: Table
    versions: tuple[Version, ...] = field(default=())
    """Oldest first; those whose snapshots another program expired are not among them."""

    @property
    def metadata(self) -> TableMetadata:
        return self.table.metadata

    @property
    def newest(self) -> Version | None:
        return self.versions[-1] if self.versions else None

    @cached_property
    def schema(self) -> pa.Schema | None:
        return None if self.newest is None else self.schema_at(self.newest)

    @property
    def partition_by(self) -> tuple[str, ...]:
        return partition_columns(self.metadata)

    def schema_at(self, version: Version) -> pa.Schema:
        digest = version.told.columns if version.told else ""
        return arrow_schema(self.name, self.metadata, version.snapshot.schema_id, digest)

    def at(self, number: int | None) -> Version:
        if self.newest is None:
            raise no_table(self.name)
        wanted = self.newest.number if number is None else number
        for version in reversed(self.versions):
            if version.number == wanted:
                return version
        if 0 <= wanted < self.newest.number:
            raise NotFound(
                f"version {wanted} of table '{self.name}' was expired by another program",
                ways_on=[f"its oldest version now: {self.versions[0].number}"],
                table=self.name,
                version=wanted,
            )
        raise NotFound(
            f"table '{self.name}' has no version {wanted}",
            ways_on=[f"its versions: {self.versions[0].number} to {self.newest.number}"],
            table=self.name,
            version=wanted,
        )

    def keyed(self, key: str) -> Version | None:
        """The version that carries a write key."""
        return next((each for each in self.versions if each.told and each.told.key == key), None)

    def by_id(self, id_: str) -> Version | None:
        return next((each for each in self.versions if each.told and each.told.id == id_), None)


def state_of(name: str, table: Table) -> State:
    """The table's versions: its newest snapshot and those before it."""
    by_id = {snapshot.snapshot_id: snapshot for snapshot in table.metadata.snapshots}
    chain: list[IcebergSnapshot] = []
    at = table.metadata.current_snapshot_id
    while at is not None and at in by_id:
        chain.append(by_id[at])
        at = by_id[at].parent_snapshot_id
    versions: list[Version] = []
    for snapshot in reversed(chain):
        told = _told(snapshot)
        if told is not None:
            number = told.version
        elif versions:
            number = versions[-1].number + 1
        else:  # where the first ones were expired, the sequence number is the best that is known
            number = 0 if snapshot.parent_snapshot_id is None else (snapshot.sequence_number or 1) - 1
        before = versions[-1].watermark if versions else -1
        versions.append(Version(number, snapshot, max(before, told.watermark if told else -1), told))
    return State(name, table, tuple(versions))


def no_table(name: str) -> NotFound:
    return NotFound(f"table '{name}' does not exist", ways_on=["see: fourfold table ls"], table=name)


def _told(snapshot: IcebergSnapshot) -> Told | None:
    text = None if snapshot.summary is None else snapshot.summary[TOLD]
    try:
        return None if text is None else msgspec.json.decode(text, type=Told)
    except msgspec.MsgspecError:
        return None
