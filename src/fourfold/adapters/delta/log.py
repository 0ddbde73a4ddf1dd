"""A table's log as files: one entry per version, in the Delta protocol's JSON lines."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from fourfold.core.errors import Corrupted
from fourfold.core.ports.tables import Commit
from fourfold.core.times import Instant

_ENTRY = re.compile(r"\d{20}\.json")


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the log."""

    version: int
    info: Mapping[str, Any]
    added: Mapping[str, int]
    """Path to rows."""
    removed: frozenset[str]
    keys: frozenset[str]
    """Delta transactions that the entry carries: our write keys."""

    @property
    def own(self) -> Mapping[str, Any]:
        """What we left in the commit's information; empty where another program wrote it."""
        own = self.info.get("fourfold", {})
        return own if isinstance(own, dict) else {}

    @property
    def at(self) -> Instant:
        return Instant(self.own.get("at") or int(self.info.get("timestamp", 0)) * 1000)

    def commit(self, rows: int) -> Commit:
        """The entry as the port tells it; `rows` are those of the whole table."""
        own = self.own
        return Commit(
            version=self.version,
            at=self.at,
            operation=own.get("operation") or str(self.info.get("operation", "")).lower(),
            rows=rows,
            rows_added=sum(self.added.values()),
            key=own.get("key", ""),
            by=own.get("by", ""),
            step=own.get("step", ""),
        )


class Log:
    """The log of one table."""

    def __init__(self, table_folder: Path) -> None:
        self.folder = table_folder / "_delta_log"
        self._name = table_folder.name

    def path(self, version: int) -> Path:
        return self.folder / f"{version:020d}.json"

    def has(self, version: int) -> bool:
        return self.path(version).exists()

    def entry(self, version: int) -> Entry:
        try:
            text = self.path(version).read_text()
            actions = [json.loads(line) for line in text.splitlines() if line]
        except (OSError, ValueError) as error:
            raise Corrupted(
                f"the log of table '{self._name}' cannot be read at version {version}",
                ways_on=["restore its folder from a backup"],
                table=self._name,
                version=version,
            ) from error
        info: Mapping[str, Any] = {}
        added: dict[str, int] = {}
        removed: set[str] = set()
        keys: set[str] = set()
        for action in actions:
            match action:
                case {"commitInfo": found}:
                    info = found
                case {"add": {"path": path, **rest}}:
                    statistics: Any = rest.get("stats") or "{}"
                    added[unquote(path)] = json.loads(statistics).get("numRecords", 0)
                case {"remove": {"path": path}}:
                    removed.add(unquote(path))
                case {"txn": {"appId": key}}:
                    keys.add(key)
                case _:
                    pass
        return Entry(version, info, added, frozenset(removed), frozenset(keys))

    def find(self, token: str, *, after: int) -> int | None:
        """The version that a write's token became, looking from the version after `after`."""
        version = after + 1
        while self.has(version):
            if self.entry(version).own.get("id") == token:
                return version
            version += 1
        return None

    def mend(self) -> None:
        """Put aside what a power cut tore. Only what was never acknowledged can be torn."""
        with suppress(FileNotFoundError):
            entries = sorted(path for path in self.folder.iterdir() if _ENTRY.fullmatch(path.name))
            if entries and not _is_json_lines(entries[-1]):
                entries[-1].rename(entries[-1].with_suffix(".torn"))
            pointer = self.folder / "_last_checkpoint"
            if pointer.exists() and not _is_checkpoint(self.folder, pointer):
                pointer.unlink()
                for path in self.folder.glob("*.checkpoint*.parquet"):
                    if not _is_parquet(path):
                        path.rename(path.with_suffix(".torn"))


def _is_json_lines(path: Path) -> bool:
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines() if line]
    except ValueError:
        return False
    return bool(lines)


def _is_checkpoint(folder: Path, pointer: Path) -> bool:
    try:
        version = json.loads(pointer.read_text())["version"]
    except (ValueError, KeyError, TypeError):
        return False
    parts = sorted(folder.glob(f"{version:020d}.checkpoint*.parquet"))
    return bool(parts) and all(_is_parquet(part) for part in parts)


def _is_parquet(path: Path) -> bool:
    try:
        pq.read_metadata(path)
    except (OSError, pa.ArrowException):
        return False
    return True
