"""The actions of the Delta protocol: what a log entry says, read and written as JSON lines.

What a file's action says beyond what we use (tags of other programs) is kept as it was found, so that a
checkpoint or a branch of ours loses nothing.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import unquote

import msgspec

from fourfold.core.ports.tables import Commit
from fourfold.core.times import Instant

ENGINE = "fourfold"
Json = dict[str, Any]

_STATISTICS = msgspec.json.Decoder(float_hook=str)


@dataclass(frozen=True)
class DataFile:
    """A data file that a version has: its `add` action."""

    path: str
    """As the log spells it (percent-encoded), relative to the table's folder, in a branch's log too.

    Programs compare paths by their spelling, so what another one wrote is kept to the letter."""
    size_bytes: int
    partition_values: Mapping[str, str | None]
    modified_ms: int
    stats: str = ""
    """Rows, nulls, smallest and largest values, as JSON; other programs may leave them out."""
    tags: Mapping[str, str] | None = None

    @property
    def stored_at(self) -> str:
        """As the file is called."""
        return unquote(self.path)

    @cached_property
    def noted(self) -> Json:
        """The statistics, read. Numbers with a point stay text, so that decimals keep their digits."""
        try:
            found = _STATISTICS.decode(self.stats or "{}")
        except msgspec.DecodeError:
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def rows(self) -> int:
        return int(self.noted.get("numRecords") or 0)

    @property
    def has_rows_noted(self) -> bool:
        return isinstance(self.noted.get("numRecords"), int)

    def add(self, folder: str = "", *, is_change: bool = True) -> Json:
        return {
            "add": {
                "path": log_path(self.path, folder),
                "partitionValues": dict(self.partition_values),
                "size": self.size_bytes,
                "modificationTime": self.modified_ms,
                "dataChange": is_change,
                **({"stats": self.stats} if self.stats else {}),
                **({"tags": dict(self.tags)} if self.tags else {}),
            }
        }

    def remove(self, at_ms: int, folder: str = "", *, is_change: bool = True) -> Json:
        return {
            "remove": {
                "path": log_path(self.path, folder),
                "deletionTimestamp": at_ms,
                "dataChange": is_change,
                "extendedFileMetadata": True,
                "partitionValues": dict(self.partition_values),
                "size": self.size_bytes,
            }
        }


@dataclass(frozen=True, slots=True)
class Own:
    """What we leave in a commit's information, under our name."""

    id: str
    """Random, so that a writer knows its entry again."""
    operation: str
    at: Instant
    rows: int
    rows_added: int
    rows_removed: int
    key: str = ""
    by: str = ""
    step: str = ""
    branch: Mapping[str, Any] = field(default_factory=dict)
    """For `branch` and `publish`: which branch, and which versions met."""

    def commit(self, version: int) -> Commit:
        return Commit(
            version=version,
            at=self.at,
            operation=self.operation,
            rows=self.rows,
            rows_added=self.rows_added,
            rows_removed=self.rows_removed,
            key=self.key,
            by=self.by,
            step=self.step,
        )

    def line(self, operation: str) -> Json:
        """The `commitInfo` action; `operation` is the word that other readers know it by."""
        kept = {"id": self.id, "operation": self.operation, "at": self.at}
        kept |= {"rows": self.rows, "rows_added": self.rows_added, "rows_removed": self.rows_removed}
        told = {"key": self.key, "by": self.by, "step": self.step, "branch": dict(self.branch)}
        return {
            "commitInfo": {
                "timestamp": self.at // 1000,
                "operation": operation,
                "operationParameters": {},
                "engineInfo": ENGINE,
                "fourfold": kept | {key: value for key, value in told.items() if value},
            }
        }


@dataclass(frozen=True)
class Entry:
    """One entry of the log."""

    version: int
    info: Json
    added: tuple[DataFile, ...]
    removed: frozenset[str]
    transactions: Mapping[str, int]
    metadata: Json | None
    protocol: Json | None
    unknown: frozenset[str]
    """What the files use that we cannot read: deletion vectors."""
    changes_rows: bool

    @property
    def own(self) -> Json:
        """What we left in the commit's information; empty where another program wrote it."""
        own = self.info.get("fourfold", {})
        return own if isinstance(own, dict) else {}

    @property
    def at(self) -> Instant:
        return Instant(self.own.get("at") or int(self.info.get("timestamp", 0)) * 1000)

    @property
    def operation(self) -> str:
        return self.own.get("operation") or str(self.info.get("operation", "")).lower()

    @property
    def counts_rows(self) -> bool:
        """Whether the entry itself says how many rows it leaves."""
        return "rows_removed" in self.own

    def commit(self, *, rows: int = 0, added: int = 0, removed: int = 0) -> Commit:
        """The entry as the port tells it; the figures are for an entry that does not count itself."""
        own = self.own
        return Commit(
            version=self.version,
            at=self.at,
            operation=self.operation,
            rows=own.get("rows", rows),
            rows_added=own["rows_added"] if self.counts_rows else added,
            rows_removed=own["rows_removed"] if self.counts_rows else removed,
            key=own.get("key", ""),
            by=own.get("by", ""),
            step=own.get("step", ""),
        )


def parsed(version: int, data: bytes, folder: str = "") -> Entry:
    """The entry that these JSON lines are; `ValueError` where they are torn.

    `folder` is where the log lies, seen from the table's folder: a branch's log lies deeper.
    """
    try:
        actions = [msgspec.json.decode(line) for line in data.split(b"\n") if line.strip()]
    except msgspec.DecodeError as error:
        raise ValueError("an entry of the log is torn") from error
    if not actions:
        raise ValueError("an entry of the log is empty")
    info: Json = {}
    added: list[DataFile] = []
    removed: set[str] = set()
    transactions: dict[str, int] = {}
    metadata = protocol = None
    unknown: set[str] = set()
    changes = False
    for action in actions:
        match action:
            case {"commitInfo": found}:
                info = found
            case {"add": found}:
                added.append(data_file(found, folder))
                changes |= bool(found.get("dataChange", True))
                unknown |= uses(found)
            case {"remove": found}:
                removed.add(table_path(found["path"], folder))
                changes |= bool(found.get("dataChange", True))
            case {"txn": {"appId": application, "version": number}}:
                transactions[application] = number
            case {"metaData": found}:
                metadata = found
            case {"protocol": found}:
                protocol = found
            case _:
                pass  # what is not known is not needed, or the protocol action says that it is
    # A file that is named again in the same entry only has its statistics renewed.
    removed -= {file.path for file in added}
    return Entry(
        version,
        info,
        tuple(added),
        frozenset(removed),
        transactions,
        metadata,
        protocol,
        frozenset(unknown),
        changes,
    )


def text(lines: Iterable[Json]) -> bytes:
    """The JSON lines of an entry."""
    return "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines).encode()


def data_file(add: Json, folder: str = "") -> DataFile:
    return DataFile(
        path=table_path(add["path"], folder),
        size_bytes=int(add["size"]),
        partition_values=dict(add.get("partitionValues") or {}),
        modified_ms=int(add.get("modificationTime") or 0),
        stats=add.get("stats") or "",
        tags=add.get("tags") or None,
    )


def uses(add: Json) -> set[str]:
    """What a file uses that we cannot read."""
    found = {"deletionVectors"} if add.get("deletionVector") else set()
    if "://" in add["path"] or add["path"].startswith("/"):
        found.add("files outside its folder")
    return found


def table_path(path: str, folder: str) -> str:
    """A path in the log that lies in `folder` as one relative to the table's folder.

    >>> table_path("a%20b", ""), table_path("../../a%20b", "_branches/x"), table_path("b", "_branches/x")
    ('a%20b', 'a%20b', '_branches/x/b')
    """
    return posixpath.normpath(posixpath.join(folder, path)) if folder else path


def log_path(path: str, folder: str) -> str:
    """The inverse of `table_path`.

    >>> log_path("a%20b", ""), log_path("a%20b", "_branches/x"), log_path("_branches/x/b", "_branches/x")
    ('a%20b', '../../a%20b', 'b')
    """
    return posixpath.relpath(path, folder) if folder else path
