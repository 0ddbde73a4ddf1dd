"""What a table is at one version: its log, replayed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from fourfold.adapters.delta import metadata as meta
from fourfold.adapters.delta.actions import DataFile, Entry, Json
from fourfold.adapters.delta.metadata import Metadata
from fourfold.core.ports.tables import Snapshot
from fourfold.core.times import Instant

WATERMARK = "fourfold.buffer"
"""The Delta transaction that says up to which row of the buffer a table reaches."""
ERASE = "erase"
"""The operation after which older entries of the log are no longer what they were."""


@dataclass(frozen=True)
class State:
    """A table at one version. It never changes, so that readers need no lock."""

    version: int
    at: Instant
    metadata: Metadata
    protocol: Json
    files: Mapping[str, DataFile]
    transactions: Mapping[str, int]
    used: frozenset[str]
    """What files of it use that we cannot read."""
    rows: int
    size_bytes: int
    tag: str = ""
    """Of the log entry that made it: another one tells that the table was dropped and made anew."""

    @property
    def schema(self) -> pa.Schema:
        return self.metadata.schema

    @property
    def partition_by(self) -> tuple[str, ...]:
        return self.metadata.partition_by

    @property
    def watermark(self) -> int:
        return self.transactions.get(WATERMARK, -1)

    @cached_property
    def snapshot(self) -> Snapshot:
        return Snapshot(
            version=self.version,
            at=self.at,
            schema=self.schema,
            partition_by=self.partition_by,
            rows=self.rows,
            size_bytes=self.size_bytes,
            file_count=len(self.files),
            watermark=self.watermark,
        )


def advanced(state: State | None, entries: Sequence[Entry], tag: str = "") -> State:
    """The table after further entries of its log; `ValueError` where the first of all tells no columns."""
    if not entries:
        assert state is not None, "nothing and no entries"
        return state
    metadata = None if state is None else state.metadata
    protocol = None if state is None else state.protocol
    files = {} if state is None else dict(state.files)
    transactions = {} if state is None else dict(state.transactions)
    used = set() if state is None else set(state.used)
    rows = 0 if state is None else state.rows
    size = 0 if state is None else state.size_bytes
    for entry in entries:
        metadata = meta.read(entry.metadata) if entry.metadata else metadata
        protocol = entry.protocol or protocol
        transactions |= entry.transactions
        used |= entry.unknown
        for path in entry.removed:
            if (gone := files.pop(path, None)) is not None:
                rows, size = rows - gone.rows, size - gone.size_bytes
        for file in entry.added:
            if (renewed := files.get(file.path)) is not None:
                rows, size = rows - renewed.rows, size - renewed.size_bytes
            files[file.path] = file
            rows, size = rows + file.rows, size + file.size_bytes
    if metadata is None or protocol is None:
        raise ValueError("the log does not say what the table's columns are")
    last = entries[-1]
    return State(
        last.version, last.at, metadata, protocol, files, transactions, frozenset(used), rows, size, tag
    )
