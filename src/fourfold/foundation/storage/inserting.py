"""Rows before they are in a version, as the service sees them: under shown names, told to the catalog."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import pyarrow as pa

from fourfold.core import context
from fourfold.core.context import Ref
from fourfold.core.decide import schemas
from fourfold.core.errors import Corrupted, NotFound, Refused
from fourfold.core.ports.buffer import NEVER, Addition, Entry, Receipt, RowBuffer, Waiting
from fourfold.core.ports.clock import Clock
from fourfold.core.ports.tables import Mark, Snapshot, TableStore
from fourfold.core.settings import BufferSettings
from fourfold.core.storage import MAIN, Condition, Inserted, TableVersion, table_address
from fourfold.core.times import Instant
from fourfold.foundation.storage.buffered import Buffered
from fourfold.foundation.storage.checks.kept import Kept
from fourfold.foundation.storage.naming import Naming
from fourfold.foundation.storage.tables import TableRecords
from fourfold.foundation.storage.tails import decode
from fourfold.foundation.storage.versions import Versions

CREATE = "fourfold.buffer/create"
"""The write key under which a first insert creates its table: of several at once, one does."""


class Inserting:
    """Inserts, flushes and live reads of tables by their address."""

    def __init__(
        self,
        records: TableRecords,
        versions: Versions,
        naming: Naming,
        kept: Kept,
        tables: TableStore,
        buffer: RowBuffer,
        clock: Clock,
        bounds: BufferSettings,
    ) -> None:
        self._records = records
        self._versions = versions
        self._naming = naming
        self._kept = kept
        self._tables = tables
        self._clock = clock
        self.buffered = Buffered(
            buffer,
            tables,
            clock,
            bounds=bounds,
            flushed=self._flushed,
            unfit=self._keep,
            is_dropped=self._is_dropped,
        )

    def insert(self, name: str, data: pa.Table) -> Inserted:
        """Keep rows durably; the first ones create their table."""
        if table_address(name).branch != MAIN:
            raise Refused(
                f"rows are inserted into a table, and '{name}' is a branch",
                ways_on=["append to a branch: its rows are looked at before they count"],
                table=name,
            )
        mark = self._versions.mark()
        try:
            receipt = self.buffered.insert(name, self._stored(name, data), mark)
        except NotFound:
            self._versions.check_open(name)
            created = Mark(key=CREATE, at=mark.at, by=mark.by, step=mark.step)
            commit = self._tables.append(name, data.slice(0, 0), mark=created)
            self._versions.catch_up(name, commit.version)
            receipt = self.buffered.insert(name, self._stored(name, data), mark)
        context.record_write(_ref(name, receipt.number))
        return Inserted(name, receipt.number, receipt.rows)

    def _stored(self, name: str, data: pa.Table) -> pa.Table:
        names = self._naming.newest(name)
        with names.explained():
            fitted = self._naming.fitted(name, names, data)
        assert isinstance(fitted, pa.Table), "a table stays one"
        return fitted

    # Reading

    def scan(
        self, name: str, columns: tuple[str, ...] | None, where: tuple[Condition, ...]
    ) -> pa.RecordBatchReader:
        """The rows of the newest version and those above it; the schema's metadata says `version+rows`."""
        try:
            live = self.buffered.live(name)
        except NotFound:
            self._versions.snapshot(name)
            raise
        version = live.snapshot.version
        names = self._records.names(name, version)
        flushed = self._naming.scan_under(names, name, version, columns, where)
        if not len(live.rows):
            return flushed
        waiting = live.rows.rename_columns(names.show(live.snapshot.schema).names)
        condition = schemas.expression(name, where, waiting.schema)
        wanted = waiting if condition is None else waiting.filter(condition)
        wanted = wanted.select(flushed.schema.names).cast(flushed.schema)
        says = {"fourfold.version": f"{version}+{len(live.rows)}", "fourfold.repeatable": "false"}
        schema = flushed.schema.with_metadata(says)

        def batches() -> Iterator[pa.RecordBatch]:
            for part in (flushed, wanted.to_batches()):
                for batch in part:
                    if batch.num_rows:
                        yield batch.replace_schema_metadata(says)

        return pa.RecordBatchReader.from_batches(schema, batches())

    # Flushing

    def flush(self, name: str) -> TableVersion:
        """Bring what was acknowledged before into a version; the newest version when nothing waited."""
        version = self.buffered.flush(name)
        if version is None:
            version = self._versions.snapshot(name).version
        return self._versions.readable(name, version)

    def settle(self, name: str) -> None:
        """As `flush`, for whoever changes the table next; a table that is not there has nothing to bring."""
        self.buffered.flush(name)

    def _flushed(self, name: str, snapshot: Snapshot, entries: Sequence[Entry]) -> None:
        """Tell the catalog of the version, and lineage which steps' inserts came into it."""
        self._versions.catch_up(name, snapshot.version)
        version, now = snapshot.version, self._clock.now()
        for entry in reversed(entries):
            if entry.mark.step:
                # After a crash it may be an older version that brought them.
                while version and self._tables.snapshot(name, version=version - 1).watermark >= entry.number:
                    version -= 1
                self._records.connect(now, _ref(name, entry.number), Ref("table", name, str(version)))

    def _keep(self, name: str, entry: Entry, why: str) -> None:
        """Keep rows that fit their table no more where rows are kept that it does not take."""
        try:
            rows = decode(name, entry)
        except Corrupted:
            rows = pa.table({"bytes": [entry.data]})
        self._kept.unfit(name, entry.number, entry.mark, rows=rows, why=why)

    def _is_dropped(self, name: str) -> bool:
        known = self._records.known(name)
        return known is not None and known.dropped_at is not None

    def drop(self, name: str) -> None:
        """Forget what waits of a table that is gone."""
        self.buffered.drop(name)

    def waiting(self) -> dict[str, Waiting]:
        """What waits of each table."""
        return {waiting.name: waiting for waiting in self.buffered.waiting()}


class NoBuffer:
    """In a buffer's place where there is none: nothing waits, and nothing may be inserted."""

    def add(self, additions: Sequence[Addition]) -> tuple[Receipt, ...]:
        raise Refused(
            f"table '{additions[0].name}' has no buffer before it, so nothing can be inserted",
            ways_on=["append the rows"],
        )

    def after(self, name: str, number: int = -1) -> tuple[Entry, ...]:  # noqa: ARG002 - nothing waits
        return ()

    def waiting(self) -> tuple[Waiting, ...]:
        return ()

    def forget(self, name: str, *, upto: int, keys_before: Instant = NEVER) -> int:  # noqa: ARG002
        return 0

    def scrub(self) -> bool:
        return True

    def still(self) -> AbstractContextManager[None]:
        return nullcontext()

    def close(self) -> None:
        pass


NO_BUFFER = NoBuffer()


def _ref(name: str, number: int) -> Ref:
    """An insert that is not in a version yet, as lineage knows it."""
    return Ref("insert", name, str(number))
