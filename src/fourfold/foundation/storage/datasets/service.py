"""The service of datasets: figures of tables, what is expected of them, and bundles of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import replace

import pyarrow as pa

from fourfold.catalog.database import Catalog
from fourfold.core import context
from fourfold.core.access import Access
from fourfold.core.context import Ref
from fourfold.core.datasets import DatasetDiff, DatasetInfo, DatasetVersion, Definition
from fourfold.core.decide.expectations import check_definitions, check_format
from fourfold.core.errors import NotFound, Refused, did_you_mean
from fourfold.core.expectations import Check, Expected, Rejection
from fourfold.core.ports.blobs import BlobStore
from fourfold.core.ports.clock import Clock
from fourfold.core.ports.tables import Ability
from fourfold.core.services.files import Files
from fourfold.core.services.storage import Storage
from fourfold.core.statistics import TableStatistics
from fourfold.core.storage import MAIN, table_address
from fourfold.core.times import Instant
from fourfold.foundation.storage.access.grants import Grants
from fourfold.foundation.storage.checks.examine import Would, examine, of_the_whole
from fourfold.foundation.storage.checks.kept import Kept
from fourfold.foundation.storage.checks.rows import RowRules, pieces
from fourfold.foundation.storage.checks.tables import CheckRecords
from fourfold.foundation.storage.datasets.bundles import Bundles
from fourfold.foundation.storage.statistics.keeper import StatisticsKeeper

MOST_LISTED = 10_000


class Datasets:
    """Fulfils `core.services.datasets.Datasets` over a catalog, storage and its blobs."""

    def __init__(
        self,
        catalog: Catalog,
        storage: Storage,
        files: Files,
        blobs: BlobStore,
        clock: Clock,
        *,
        abilities: Collection[Ability],
    ) -> None:
        """`abilities` are those of the store in which the tables are."""
        self._abilities = abilities
        self._records = CheckRecords(catalog)
        self._kept = Kept(self._records, blobs)
        self._grants = Grants(catalog, clock)
        self._storage = storage
        self._clock = clock
        self._statistics = StatisticsKeeper(catalog, lambda n, v: storage.scan(n, version=v), clock)
        self._bundles = Bundles(catalog, storage, files, clock, figures=self._figures, check=self._check_at)

    # What a table holds

    def statistics(
        self, name: str, *, version: int | None = None, at: Instant | None = None, tag: str | None = None
    ) -> TableStatistics:
        info = self._storage.describe(name, version=version, at=at, tag=tag)
        context.record_read(Ref("table", info.name, str(info.version)))
        return self._statistics.of(info.name, info.version)

    # What is expected of it

    def expect(self, name: str, expected: Expected, *, why: str = "") -> None:
        table = _table(name)
        self._grants.check(table, Access.write)
        version = self._storage.flush(table).version  # rows that wait before it are there already
        schema = self._schema(table, version)
        check_definitions(table, expected, schema)
        check_format(table, expected, self._abilities)
        RowRules(table, expected.expectations, schema).close()  # its patterns and conditions can be asked
        self._records.expect(self._clock.now(), table, expected, why)

    def expectations(self, name: str) -> Expected:
        table = self._storage.describe(_table(name)).name
        return self._records.expected(table) or Expected()

    def check(self, name: str, *, version: int | None = None) -> Check:
        pinned = self._storage.describe(_table(name), version=version).version
        info = self._storage.describe(name, version=pinned)  # without rows that wait before it
        table, expected = info.name, self._records.expected(info.name) or Expected()
        schema = self._schema(table, info.version)
        check_definitions(table, expected, schema)

        def read(columns: Sequence[str] | None) -> pa.RecordBatchReader:
            wanted = None if columns is None else tuple(columns)
            return self._storage.scan(table, version=info.version, columns=wanted)

        with closing(RowRules(table, expected.expectations, schema)) as rules:
            if rules.asked:
                for piece in pieces(read(None)):
                    rules.look(piece)
            of_rows = rules.verdicts()
        before = self._storage.describe(table, version=info.version - 1).rows if info.version else 0
        would = Would(read, None, rows_before=before, rows_after=info.rows)
        found = examine(of_the_whole(expected.expectations), would, self._clock.now())
        return Check(table, info.version, info.rows, (*of_rows, *found.verdicts))

    def checks(self, name: str, *, limit: int = 20) -> tuple[Check, ...]:
        return self._records.checks(self._storage.describe(_table(name)).name, _bounded(limit))

    def rejections(self, name: str, *, limit: int = 20) -> tuple[Rejection, ...]:
        return self._records.rejections(self._storage.describe(_table(name)).name, _bounded(limit))

    def rejected_rows(self, name: str, rejection: str) -> pa.Table:
        table = _table(name)
        self._grants.check(table, Access.read)  # they are rows of the table, though it does not hold them
        found = self._records.rejected(table, rejection)
        if found is None:
            known = [each.id for each in self._records.rejections(table, MOST_LISTED)]
            raise NotFound(
                f"table '{table}' has no rejection '{rejection}'",
                ways_on=did_you_mean(rejection, known, what="rejections"),
                table=table,
            )
        _, digest = found
        return pa.table({}) if digest is None else self._kept.rows(digest)

    def discard(self, name: str, rejection: str, *, why: str = "") -> None:
        table = _table(name)
        self._grants.check(table, Access.write)
        self._records.discard(self._clock.now(), table, rejection, why)

    def _figures(self, table: str, version: int) -> TableStatistics:
        """A version's figures, for who may read it: they hold values of its rows."""
        self._grants.check(table_address(table).table, Access.read)
        return self._statistics.of(table, version)

    def _check_at(self, table: str, version: int) -> Check:
        """What was found when the version was written, if it was checked by what is expected now."""
        expected = self._records.expected(table) or Expected()
        found = self._records.check_of(table, version)
        if found is not None and tuple(v.expectation for v in found.verdicts) == expected.expectations:
            return found
        return self.check(table, version=version)

    # Bundles

    def list_datasets(self) -> tuple[DatasetInfo, ...]:
        return self._bundles.all()

    def define(self, name: str, definition: Definition, *, why: str = "") -> DatasetInfo:
        made = self._bundles.define(name, definition, why)
        for ref in definition.members.values():
            if ref.kind == "table" and table_address(ref.name).branch == MAIN:
                expected = self._records.expected(ref.name) or Expected()
                if not expected.statistics:  # counted as they are written from here on
                    counted = replace(expected, statistics=True)
                    self._records.expect(self._clock.now(), ref.name, counted, f"in dataset {name}")
        return made

    def dataset(self, name: str) -> DatasetInfo:
        return self._bundles.info(name)

    def release(self, name: str, *, why: str = "") -> DatasetVersion:
        return self._bundles.release(name, why)

    def released(self, name: str, *, version: int | None = None, tag: str | None = None) -> DatasetVersion:
        if version is not None and tag is not None:
            raise Refused("name a version by number or by tag: one of them", name=name)
        return self._bundles.find(name, version, tag)

    def releases(self, name: str, *, limit: int = 1000) -> tuple[DatasetVersion, ...]:
        return self._bundles.versions(name, _bounded(limit))

    def diff_releases(self, name: str, *, before: int, after: int | None = None) -> DatasetDiff:
        return self._bundles.diff(name, before, after)

    def tag_release(
        self, name: str, tag: str, *, version: int | None = None, why: str = ""
    ) -> DatasetVersion:
        return self._bundles.tag(name, tag, version, why)

    def check_dataset(self, name: str, *, version: int | None = None) -> tuple[Check, ...]:
        return self._bundles.check(name, version)

    def _schema(self, table: str, version: int) -> pa.Schema:
        return self._storage.scan(table, version=version).schema


def _table(name: str) -> str:
    """The name if it is a table's; of a branch nothing is expected until it is published."""
    address = table_address(name)
    if address.branch != MAIN:
        raise Refused(
            f"'{name}' is a branch, and is held against what is expected of its table when it is published",
            ways_on=[f"name the table: {address.table}"],
            table=address.table,
        )
    return address.table


def _bounded(limit: int) -> int:
    if not 1 <= limit <= MOST_LISTED:
        raise Refused(f"limit must be from 1 to {MOST_LISTED}, not {limit}")
    return limit
