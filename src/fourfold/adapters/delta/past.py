"""All that a log told until now: the files of every version, and what each is without some rows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

import pyarrow as pa

from fourfold.adapters.delta import metadata as meta
from fourfold.adapters.delta.actions import DataFile
from fourfold.adapters.delta.log import Log
from fourfold.adapters.delta.sought import Sought
from fourfold.adapters.delta.state import State
from fourfold.core.decide import erasing
from fourfold.core.ports.tables import RowKey


class History:
    """All that a log told until now, and which files its versions have or had."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.newest = log.there()
        self._entries = list(log.entries(-1, self.newest.version))
        first = self._entries[0]
        self._base: State | None = None
        self._base_entry = first
        if first.version:  # another program cleaned the log up to here
            self._base = log.at(first.version)
            self._entries = self._entries[1:]
        self._files: dict[str, tuple[int, DataFile, pa.Schema]] = {}
        self.schemas: list[pa.Schema] = []
        self._read()

    @property
    def newest_operation(self) -> str:
        return self._entries[-1].operation if self._entries else ""

    @property
    def uses_unknown(self) -> set[str]:
        """What files of any version use that we cannot read."""
        found = set(self._base.used) if self._base else set()
        return found.union(*(entry.unknown for entry in self._entries))

    def files(self, upto: int | None) -> Iterator[tuple[DataFile, pa.Schema]]:
        """Files that came in versions up to this one, each with the columns of the first that had it."""
        return (
            (file, schema)
            for version, file, schema in self._files.values()
            if upto is None or version <= upto
        )

    def loses_rows(self, sought: Sought) -> bool:
        return any((fate := sought.fate(path)) is not None and fate.rows for path in self._files)

    def has_now(self, sought: Sought) -> bool:
        return any(sought.fate(path) is not None for path in self.newest.files)

    def without(self, sought: Sought) -> tuple[dict[int, tuple[int, int, int]], dict[int, int]]:
        """Each version's counts without the rows, where they change; and how many rows each version loses."""
        counts: dict[int, tuple[int, int, int]] = {}
        lost: dict[int, int] = {}
        fates, live, gone = sought.fates, dict[str, int](), 0
        if self._base is not None:
            live = {path: fates[path].rows for path in self._base.files if path in fates}
            gone = sum(live.values())
            if gone:
                lost[self._base.version] = gone
        for entry in self._entries:
            before = gone
            for path in entry.removed:
                gone -= live.pop(path, 0)
            for file in entry.added:
                gone -= live.pop(file.path, 0)
                if file.path in fates:
                    live[file.path] = fates[file.path].rows
                    gone += live[file.path]
            if gone:
                lost[entry.version] = gone
            if entry.counts_rows and (gone or before):
                base = gone if entry.operation == "branch" else before
                told = erasing.recounted(entry.commit(), gone=gone, gone_before=base)
                counts[entry.version] = told.rows, told.rows_added, told.rows_removed
        return counts, lost

    @property
    def strangers(self) -> set[str]:
        """Files that entries remove and no version has: who cleaned the log left their partitions in it."""
        if self._base is None:
            return set()
        entries = [self._base_entry, *self._entries]
        return {path for entry in entries for path in entry.removed} - self._files.keys()

    def telling(self, keys: Sequence[RowKey]) -> tuple[int, ...]:
        """Entries of other programs whose parameters tell one of the values, as a predicate does."""
        values = {str(value) for key in keys for value in key.values() if not isinstance(value, bool)}
        words = [re.compile(rf"(?<!\w){re.escape(value)}(?!\w)") for value in sorted(values)]
        return tuple(
            entry.version
            for entry in ([self._base_entry] if self._base is not None else []) + self._entries
            if not entry.own
            and (said := json.dumps(entry.info.get("operationParameters") or {}, ensure_ascii=False)) != "{}"
            and any(word.search(said) for word in words)
        )

    def _read(self) -> None:
        schema = pa.schema([])
        if self._base is not None:
            schema = self._base.schema
            self.schemas.append(schema)
            for path, file in self._base.files.items():
                self._files[path] = self._base.version, file, schema
        for entry in self._entries:
            if entry.metadata:
                schema = meta.read(entry.metadata).schema
                self.schemas.append(schema)
            for file in entry.added:
                self._files.setdefault(file.path, (entry.version, file, schema))
