"""A Delta table as files: its log up to a version, and the data files that these entries name."""

from __future__ import annotations

import io
import json
import posixpath
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow.parquet as pq

from fourfold.adapters.delta.errors import writable
from fourfold.adapters.delta.local import LocalPlace
from fourfold.adapters.delta.log import Log
from fourfold.adapters.delta.place import Place
from fourfold.core.errors import Corrupted, NotFound, Refused
from fourfold.core.ports.archive import StoredFile
from fourfold.core.storage import table_address

READ_BYTES = 1 << 20
LONG_LOG = 100
"""A log of more entries than this gets a checkpoint when it is put back, so that opening stays quick."""

_ENTRY = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint(\.\d+\.\d+)?\.parquet")


class DeltaCopies:
    """The tables of a place, as `DeltaTables` keeps them there."""

    def __init__(self, place: Place | Path) -> None:
        self._place = LocalPlace(place) if isinstance(place, Path) else place

    def files(self, name: str, *, version: int) -> Iterator[StoredFile]:
        table, log = _table(name), _log(name)
        sizes = {file.path: file.size_bytes for file in self._place.files(table, deep=True)}
        entries = {number: path for number, path in _numbered(sizes, log, _ENTRY) if number <= version}
        if version not in entries:
            raise NotFound(f"table '{name}' has no version {version}", table=name, version=version)
        known: dict[str, None] = {}
        live: set[str] = set()
        checkpoints: list[str] = []
        if min(entries) > 0:  # another program cleaned the log: a checkpoint stands for what is gone
            checkpoints = _oldest(sizes, log, version)
            for path in _added(self._whole(name, checkpoint) for checkpoint in checkpoints):
                found = _resolved(log, path)
                known[found] = None
                live.add(found)
        for number in sorted(entries):
            for action in _actions(self._whole(name, entries[number]), name, number):
                if "add" in action:
                    found = _resolved(log, action["add"]["path"])
                    known[found] = None
                    live.add(found)
                elif "remove" in action:
                    live.discard(_resolved(log, action["remove"]["path"]))
        for path in known:
            if path in sizes:
                yield StoredFile(path, sizes[path], is_unique=True)
            elif path in live:  # others are of older versions, which were vacuumed
                raise Corrupted(
                    f"table '{name}' lacks a file that version {version} needs: {path}",
                    ways_on=["restore the table from an older backup"],
                    table=name,
                    version=version,
                )
        for path in (*checkpoints, *(entries[number] for number in sorted(entries))):
            yield StoredFile(path, sizes[path], is_unique=False)

    def read(self, name: str, path: str) -> Iterator[bytes]:
        located = self._place.located(self._path(name, path))
        try:
            with self._place.filesystem.open_input_stream(located, compression=None) as file:
                while piece := file.read(READ_BYTES):
                    yield piece
        except FileNotFoundError:
            raise NotFound(f"table '{name}' has no file {path} any more", table=name) from None

    def write(self, name: str, path: str, pieces: Iterable[bytes]) -> None:
        with writable(name):
            self._place.put_pieces(self._path(name, path), pieces)

    def finish(self, name: str) -> None:
        log = Log(self._place, table_address(name))
        if len(self._place.files(log.folder)) > LONG_LOG:
            log.checkpoint(log.there())

    def _whole(self, name: str, path: str) -> bytes:
        data = self._place.get(self._path(name, path))
        if data is None:
            raise NotFound(f"table '{name}' has no file {path} any more", table=name)
        return data

    def _path(self, name: str, path: str) -> str:
        """Where a file lies. What a manifest says is another's word: it stays in the table's folder."""
        if posixpath.isabs(path) or ".." in path.split("/") or posixpath.normpath(path) != path:
            raise Refused(f"table '{name}' names a file outside its folder: {path}", table=name)
        return f"{_table(name)}/{path}"


def _table(name: str) -> str:
    return name.partition("@")[0]


def _log(name: str) -> str:
    """Where the log of a table or branch lies, seen from the table's folder."""
    branch = name.partition("@")[2]
    return f"_branches/{branch.replace('/', '~')}/_delta_log" if branch else "_delta_log"


def _resolved(log: str, path: str) -> str:
    """A data file's path, seen from the table's folder."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(log), unquote(path)))


def _numbered(paths: Iterable[str], log: str, pattern: re.Pattern[str]) -> Iterator[tuple[int, str]]:
    for path in paths:
        if posixpath.dirname(path) == log and (match := pattern.fullmatch(posixpath.basename(path))):
            yield int(match[1]), path


def _actions(entry: bytes, name: str, version: int) -> Iterator[dict[str, Any]]:
    try:
        for line in entry.splitlines():
            if line.strip():
                yield json.loads(line)
    except ValueError as error:
        raise Corrupted(
            f"the log of table '{name}' cannot be read at version {version}",
            ways_on=["restore the table from an older backup"],
            table=name,
        ) from error


def _oldest(paths: Iterable[str], log: str, version: int) -> list[str]:
    """The parts of the oldest checkpoint that is whole; the log goes on from it."""
    found: dict[int, list[str]] = {}
    for number, path in sorted(_numbered(paths, log, _CHECKPOINT)):
        found.setdefault(number, []).append(path)
    numbers = [number for number in found if number <= version]
    return found[min(numbers)] if numbers else []


def _added(checkpoints: Iterable[bytes]) -> Iterator[str]:
    for checkpoint in checkpoints:
        for batch in pq.ParquetFile(io.BytesIO(checkpoint)).iter_batches(columns=["add.path"]):
            for row in batch.column("add").to_pylist():
                if row is not None and row["path"] is not None:
                    yield row["path"]
