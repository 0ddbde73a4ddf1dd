"""A table store in memory, for tests of what stands on one."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from fourfold.core.decide import partitions, schemas
from fourfold.core.errors import NotFound
from fourfold.core.ports.tables import UNMARKED, Commit, Mark, Snapshot
from fourfold.core.storage import Condition, Scalar
from fourfold.core.times import Instant


@dataclass(frozen=True, slots=True)
class _Version:
    commit: Commit
    rows: pa.Table
    partition_by: tuple[str, ...]


class MemoryTables:
    """Keeps every version of every table in memory."""

    def __init__(self) -> None:
        self._tables: dict[str, list[_Version]] = {}
        self._lock = threading.Lock()

    def append(
        self, name: str, data: pa.Table, *, partition_by: tuple[str, ...] = (), mark: Mark = UNMARKED
    ) -> Commit:
        with self._lock:
            if (first := self._first(name, mark.key)) is not None:
                return first
            last = self._last(name)
            fitted = schemas.fit(name, data, last.rows.schema if last else None)
            columns = partitions.columns(name, last.partition_by if last else None, partition_by)
            partitions.check(name, fitted, columns, {})
            rows = fitted if last is None else pa.concat_tables([last.rows, fitted])
            return self._add(name, rows, len(fitted), "append", columns, mark)

    def overwrite(
        self,
        name: str,
        data: pa.Table,
        *,
        where: Mapping[str, Scalar] | None = None,
        partition_by: tuple[str, ...] = (),
        mark: Mark = UNMARKED,
    ) -> Commit:
        with self._lock:
            if (first := self._first(name, mark.key)) is not None:
                return first
            last, part = self._last(name), dict(where or {})
            fitted = schemas.fit(name, data, last.rows.schema if last and part else None)
            columns = partitions.columns(name, last.partition_by if last else None, partition_by)
            partitions.check(name, fitted, columns, part)
            rows = fitted
            if last is not None and part:
                rows = pa.concat_tables([_outside(name, last.rows, part), fitted])
            return self._add(name, rows, len(fitted), "overwrite", columns, mark)

    def snapshot(self, name: str, *, version: int | None = None) -> Snapshot:
        found = self._version(name, version)
        return Snapshot(
            version=found.commit.version,
            at=found.commit.at,
            schema=found.rows.schema,
            partition_by=found.partition_by,
            rows=len(found.rows),
            size_bytes=found.rows.nbytes,
        )

    def scan(
        self,
        name: str,
        *,
        version: int,
        columns: tuple[str, ...] | None = None,
        where: tuple[Condition, ...] = (),
    ) -> pa.RecordBatchReader:
        rows = self._version(name, version).rows
        wanted = list(rows.schema.names if columns is None else columns)
        schemas.check_columns(name, wanted, rows.schema)
        condition = schemas.expression(name, where, rows.schema)
        kept = rows if condition is None else rows.filter(condition)
        return kept.select(wanted).to_reader()

    def history(self, name: str, *, after: int = -1, limit: int = 1000) -> tuple[Commit, ...]:
        self._version(name, None)
        return tuple(v.commit for v in reversed(self._tables[name][after + 1 :]))[:limit]

    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._tables))

    def drop(self, name: str) -> None:
        self._tables.pop(name, None)

    def _first(self, name: str, key: str) -> Commit | None:
        """The commit that a write key made, if it made one."""
        versions = self._tables.get(name, []) if key else []
        return next((v.commit for v in versions if v.commit.key == key), None)

    def _last(self, name: str) -> _Version | None:
        versions = self._tables.get(name)
        return versions[-1] if versions else None

    def _version(self, name: str, version: int | None) -> _Version:
        versions = self._tables.get(name)
        if not versions:
            raise NotFound(f"table '{name}' does not exist", table=name)
        wanted = len(versions) - 1 if version is None else version
        if not 0 <= wanted < len(versions):
            raise NotFound(f"table '{name}' has no version {wanted}", table=name, version=wanted)
        return versions[wanted]

    def _add(
        self, name: str, rows: pa.Table, added: int, operation: str, columns: tuple[str, ...], mark: Mark
    ) -> Commit:
        versions = self._tables.setdefault(name, [])
        commit = Commit(
            version=len(versions),
            at=mark.at or Instant(len(versions)),
            operation=operation if versions else "create",
            rows=len(rows),
            rows_added=added,
            key=mark.key,
            by=mark.by,
            step=mark.step,
        )
        versions.append(_Version(commit, rows, columns))
        return commit


def _outside(name: str, rows: pa.Table, where: Mapping[str, Scalar]) -> pa.Table:
    """The rows that an overwrite of this partition leaves alone (those with a null among them)."""
    inside = None
    for column, value in partitions.values(name, rows.schema, where).items():
        one = pc.fill_null(pc.equal(rows[column], value), fill_value=False)
        inside = one if inside is None else pc.and_(inside, one)
    return rows.filter(pc.invert(inside))
