"""A Delta table as files: its log up to a version, and the data files that these entries name."""

from __future__ import annotations

import errno
import json
import os
import posixpath
import re
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from fourfold.core.errors import Corrupted, NotFound, OutOfSpace, Refused
from fourfold.core.ports.archive import StoredFile

READ_BYTES = 1 << 20
LONG_LOG = 100
"""A log of more entries than this gets a checkpoint when it is put back, so that opening stays quick."""

_ENTRY = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint(\.\d+\.\d+)?\.parquet")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class DeltaCopies:
    """The tables that lie in folders below `folder`, as `DeltaTables` keeps them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def files(self, name: str, *, version: int) -> Iterator[StoredFile]:
        table, log = self._folder / _table(name), f"{_log(name)}"
        entries = {n: path for n, path in _numbered(table / log, _ENTRY) if n <= version}
        if version not in entries:
            raise NotFound(f"table '{name}' has no version {version}", table=name, version=version)
        known: dict[str, None] = {}
        live: set[str] = set()
        checkpoints: list[Path] = []
        if min(entries) > 0:  # another program cleaned the log: a checkpoint stands for what is gone
            checkpoints = _oldest(table / log, version)
            for path in _added(checkpoints):
                found = _resolved(log, path)
                known[found] = None
                live.add(found)
        for number in sorted(entries):
            for action in _actions(entries[number], name):
                if "add" in action:
                    found = _resolved(log, action["add"]["path"])
                    known[found] = None
                    live.add(found)
                elif "remove" in action:
                    live.discard(_resolved(log, action["remove"]["path"]))
        for path in known:
            try:
                size = (table / path).stat().st_size
            except FileNotFoundError:
                if path in live:
                    raise Corrupted(
                        f"table '{name}' lacks a file that version {version} needs: {path}",
                        ways_on=["restore the table from an older backup"],
                        table=name,
                        version=version,
                    ) from None
                continue  # of older versions, which were vacuumed
            yield StoredFile(path, size, is_unique=True)
        for entry in (*checkpoints, *(entries[number] for number in sorted(entries))):
            yield StoredFile(f"{log}/{entry.name}", entry.stat().st_size, is_unique=False)

    def read(self, name: str, path: str) -> Iterator[bytes]:
        try:
            with self._path(name, path).open("rb") as file:
                while piece := file.read(READ_BYTES):
                    yield piece
        except FileNotFoundError:
            raise NotFound(f"table '{name}' has no file {path} any more", table=name) from None

    def write(self, name: str, path: str, pieces: Iterable[bytes]) -> None:
        target = self._path(name, path)
        new = target.with_name(f".new-{secrets.token_hex(8)}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with new.open("xb") as file:
                for piece in pieces:
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            new.replace(target)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise OutOfSpace(f"the disk that holds table '{name}' is full", table=name) from error
        finally:
            new.unlink(missing_ok=True)

    def finish(self, name: str) -> None:
        table = self._folder / _table(name)
        log = table / _log(name)
        if len(list(log.iterdir())) > LONG_LOG:
            try:
                DeltaTable(str(log.parent)).create_checkpoint()
            except DeltaError as error:
                raise Corrupted(f"table '{name}' cannot be opened: {error}", table=name) from error
            for path in log.glob("*checkpoint*"):
                _sync(path)
        for folder in {path.parent for path in table.rglob("*")} | {table, self._folder}:
            _sync(folder)

    def _path(self, name: str, path: str) -> Path:
        """Where a file lies. What a manifest says is another's word: it stays in the table's folder."""
        if posixpath.isabs(path) or ".." in path.split("/") or posixpath.normpath(path) != path:
            raise Refused(f"table '{name}' names a file outside its folder: {path}", table=name)
        return self._folder / _table(name) / path


def _table(name: str) -> str:
    return name.partition("@")[0]


def _log(name: str) -> str:
    """Where the log of a table or branch lies, seen from the table's folder."""
    branch = name.partition("@")[2]
    return f"_branches/{branch.replace('/', '~')}/_delta_log" if branch else "_delta_log"


def _resolved(log: str, path: str) -> str:
    """A data file's path, seen from the table's folder."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(log), unquote(path)))


def _numbered(folder: Path, pattern: re.Pattern[str]) -> Iterator[tuple[int, Path]]:
    if folder.is_dir():
        for path in folder.iterdir():
            if match := pattern.fullmatch(path.name):
                yield int(match[1]), path


def _actions(entry: Path, name: str) -> Iterator[dict[str, Any]]:
    try:
        with entry.open("rb") as file:
            for line in file:
                if line.strip():
                    yield json.loads(line)
    except ValueError as error:
        raise Corrupted(
            f"the log of table '{name}' cannot be read: {entry.name}",
            ways_on=["restore the table from an older backup"],
            table=name,
        ) from error


def _oldest(log: Path, version: int) -> list[Path]:
    """The parts of the oldest checkpoint that is whole; the log goes on from it."""
    found: dict[int, list[Path]] = {}
    for number, path in sorted(_numbered(log, _CHECKPOINT)):
        found.setdefault(number, []).append(path)
    numbers = [number for number in found if number <= version]
    return found[min(numbers)] if numbers else []


def _added(checkpoints: Iterable[Path]) -> Iterator[str]:
    for checkpoint in checkpoints:
        for batch in pq.ParquetFile(checkpoint).iter_batches(columns=["add.path"]):
            for row in batch.column("add").to_pylist():
                if row is not None and row["path"] is not None:
                    yield row["path"]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
