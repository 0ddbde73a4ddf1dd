"""Rows before they are in a version, as the service sees them: under shown names, told to the catalog."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from fourfold.core import context
from fourfold.core.context import Ref
from fourfold.core.decide import schemas
from fourfold.core.errors import NotFound, Refused
from fourfold.core.ports.buffer import NEVER, Addition, Entry, Receipt, RowBuffer, Waiting
from fourfold.core.ports.clock import Clock
from fourfold.core.ports.tables import Mark, Snapshot, TableStore
from fourfold.core.settings import BufferSettings
from fourfold.core.storage import MAIN, Aside, Condition, Inserted, TableVersion, table_address
from fourfold.core.times import Instant
from fourfold.foundation.storage.buffered import Buffered
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
        tables: TableStore,
        buffer: RowBuffer,
        clock: Clock,
        bounds: BufferSettings,
    ) -> None:
        self._records = records
        self._versions = versions
        self._naming = naming
        self._tables = tables
        self._clock = clock
        self.buffered = Buffered(
            buffer, tables, clock, bounds=bounds, flushed=self._flushed, is_dropped=self._is_dropped
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

    def _is_dropped(self, name: str) -> bool:
        known = self._records.known(name)
        return known is not None and known.dropped_at is not None

    def drop(self, name: str) -> None:
        """Forget what waits of a table that is gone."""
        self.buffered.drop(name)

    # What waits, and what was set aside

    def waiting(self) -> dict[str, Waiting]:
        """What waits of each table."""
        return {waiting.name: waiting for waiting in self.buffered.waiting()}

    def aside(self, name: str) -> tuple[Aside, ...]:
        """The inserts that no longer fitted the table when it was flushed."""
        return tuple(
            Aside(name, each.number, each.rows, each.mark.at, each.mark.by, each.mark.step, each.why)
            for each in self.buffered.aside(name)
        )

    def aside_rows(self, name: str, number: int) -> pa.Table:
        """The rows of one of them, as they were inserted."""
        found = {entry.number: entry for entry in self.buffered.aside(name)}
        if number not in found:
            raise NotFound(
                f"no insert {number} of table '{name}' is set aside",
                ways_on=[f"set aside: {', '.join(map(str, found)) or '(none)'}"],
                table=name,
            )
        return decode(name, found[number])

    def forget_aside(self, name: str, why: str) -> int:
        """Let go of them all; how many rows."""
        gone = self.buffered.forget_aside(name)
        if gone:
            self._records.record(self._clock.now(), name, "table.forget_aside", {"rows": gone, "why": why})
        return gone


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

    def set_aside(self, name: str, numbers: Sequence[int], *, why: str) -> None:
        pass

    def aside(self, name: str) -> tuple[Entry, ...]:  # noqa: ARG002
        return ()

    def forget_aside(self, name: str) -> int:  # noqa: ARG002
        return 0

    def close(self) -> None:
        pass


NO_BUFFER = NoBuffer()


def _ref(name: str, number: int) -> Ref:
    """An insert that is not in a version yet, as lineage knows it."""
    return Ref("insert", name, str(number))
