"""Tables in an object store: a log entry gets its name by a conditional put."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TypeVar

import pyarrow as pa
import pyarrow.fs as pafs

from fourfold.adapters.delta.place import StoredFile
from fourfold.core.errors import FourfoldError, NotFound
from fourfold.core.objects import Key
from fourfold.core.ports.objects import ObjectStore

ASKED_AT_ONCE = 16
Answer = TypeVar("Answer")
_DROPPED = "_delta_log/~dropped"
"""Its presence hides a log that is being removed. It sorts after all that a log holds, so any listing of the
rest of a log shows it."""


class ObjectPlace:
    """Keeps tables below `root/` of an object store. What was acknowledged is as safe as the store keeps it.

    An object is there whole or not at all, so nothing is ever torn or must be settled.
    """

    def __init__(self, objects: ObjectStore, filesystem: pafs.FileSystem, root: str = "tables") -> None:
        self._objects = objects
        self._filesystem = filesystem
        self._root = root
        self._turns: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"{self._objects.address}/{self._root}"

    # Names that stand for something

    def put_if_absent(self, path: str, data: bytes) -> bool:
        if path.endswith("_delta_log/00000000000000000000.json"):
            self._finish_removing(path.rpartition("_delta_log/")[0].rstrip("/"))
        return self._objects.create(self._key(path), data)

    def put(self, path: str, data: bytes) -> None:
        self._objects.put(self._key(path), data)

    def put_pieces(self, path: str, pieces: Iterable[bytes]) -> None:
        self._objects.put(self._key(path), pieces)

    def get(self, path: str) -> bytes | None:
        try:
            return self._objects.get(self._key(path))
        except NotFound as error:
            if "key" not in error.facts:  # the bucket
                raise
            return None

    def get_many(self, paths: Sequence[str]) -> list[bytes | None]:
        return _at_once(self.get, paths)

    def tag(self, path: str) -> str | None:
        stat = self._objects.stat(self._key(path))
        return None if stat is None else stat.tag

    @contextmanager
    def turn(self, folder: str) -> Iterator[None]:
        with self._lock:
            turn = self._turns.setdefault(folder, threading.Lock())
        with turn:
            yield

    # Data files

    @contextmanager
    def new_file(self, path: str) -> Iterator[pa.NativeFile]:
        key = self._key(path)
        try:
            with self._filesystem.open_output_stream(key, compression=None) as sink:
                yield sink
        except BaseException:
            with suppress(FourfoldError):  # what cannot be removed is named by no version
                self._objects.delete([key])
            raise

    def settle(self, paths: Sequence[str]) -> None:
        """They are, since they were closed."""

    def secure(self, paths: Sequence[str]) -> None:
        """They are, since they can be seen."""

    @property
    def is_far(self) -> bool:
        return True

    @property
    def filesystem(self) -> pafs.FileSystem:
        return self._filesystem

    def located(self, path: str) -> str:
        return self._key(path)

    def uri(self, folder: str) -> str:
        return f"{self._objects.address}/{self._key(folder)}"

    @property
    def storage_options(self) -> Mapping[str, str]:
        return self._objects.options

    # Listing and removing

    def files(self, folder: str, *, after: str = "", deep: bool = False) -> list[StoredFile]:
        below = f"{self._key(folder)}/"
        found = [
            StoredFile(path, stat.object_bytes, stat.modified)
            for stat in self._objects.listing(below, after=below + after if after else "")
            if "/" not in (path := stat.key.removeprefix(below)) or deep
        ]
        is_dropped = bool(found) and f"{below}{found[-1].path}".endswith(_DROPPED)
        return [] if is_dropped else found

    def folders(self, folder: str) -> list[str]:
        return list(self._objects.folders(self._key(folder)))

    def missing(self, paths: Sequence[str]) -> list[str]:
        tags = _at_once(self.tag, paths)
        return [path for path, tag in zip(paths, tags, strict=True) if tag is None]

    def delete(self, paths: Iterable[str]) -> None:
        self._objects.delete(self._key(path) for path in paths)

    def prune(self, folders: Iterable[str]) -> None:
        """A folder in which nothing is, is not there."""

    def remove(self, folder: str) -> None:
        if next(self._keys(folder), None) is None:
            return
        marker = self._key(f"{folder}/{_DROPPED}")
        self._objects.put(marker, b"")
        self._empty([folder], marker)

    def mend(self, path: str) -> bool:  # noqa: ARG002
        return False

    # Inside

    def _key(self, path: str) -> Key:
        return Key(f"{self._root}/{path}" if path else self._root)

    def _keys(self, folder: str) -> Iterator[Key]:
        return (stat.key for stat in self._objects.listing(self._key(folder)))

    def _finish_removing(self, folder: str) -> None:
        """What a killed process began to remove makes way for what comes under its name.

        Its data files may lie beside new ones already, so they are left to the next vacuum.
        """
        marker = self._key(f"{folder}/{_DROPPED}")
        if self._objects.stat(marker) is not None:
            self._empty([f"{folder}/_delta_log", f"{folder}/_branches"], marker)

    def _empty(self, folders: Sequence[str], marker: Key) -> None:
        """Remove all, also what was written meanwhile by who had not heard of it; the marker last."""
        for folder in folders:
            while keys := [
                each.key for each in self._objects.listing(self._key(folder)) if each.key != marker
            ]:
                self._objects.delete(keys)
        self._objects.delete([marker])


def _at_once(ask: Callable[[str], Answer], paths: Sequence[str]) -> list[Answer]:
    """The answers in the order of the paths."""
    if len(paths) < 2:
        return [ask(path) for path in paths]
    with ThreadPoolExecutor(min(len(paths), ASKED_AT_ONCE)) as pool:
        return list(pool.map(ask, paths))
