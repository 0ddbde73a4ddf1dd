"""Online features in an LMDB file: memory-mapped reads, one durable writer, many processes."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fourfold.core.errors import Corrupted, FourfoldError, Missing, OutOfSpace, Refused, Unavailable
from fourfold.core.ports.online import LONGEST_KEY_BYTES, Space

try:
    import lmdb
except ImportError as error:  # pragma: no cover
    raise Missing("online features need LMDB", ways_on=["pip install lmdb"]) from error

MAP_BYTES = 64 * 2**30
"""How far the file may grow. It is address space, not memory or disk: the file is as large as its content."""

MAX_READERS = 1024


class LmdbOnline:
    """An online store in a folder.

    LMDB wants each file opened once per process: objects for the same folder share an environment.
    After a fork the child opens its own.
    """

    def __init__(self, folder: Path, *, map_bytes: int = MAP_BYTES) -> None:
        self._folder = Path(folder)
        self._map_bytes = map_bytes
        self._opened: _Opened | None = None
        self._lock = threading.Lock()
        self._environment()

    @contextmanager
    def read(self) -> Iterator[_Transaction]:
        opened = self._environment()
        with _translated(self._folder):
            transaction = opened.environment.begin(buffers=True)
        try:
            yield _Transaction(transaction, opened.spaces, self._folder)
        finally:
            transaction.abort()

    @contextmanager
    def write(self) -> Iterator[_Transaction]:
        opened = self._environment()
        with opened.writing, _translated(self._folder):
            transaction = opened.environment.begin(write=True, buffers=True)
            try:
                yield _Transaction(transaction, opened.spaces, self._folder)
            except BaseException:
                transaction.abort()
                raise
            transaction.commit()

    def close(self) -> None:
        with self._lock:
            if self._opened is not None:
                _release(self._folder, self._opened)
                self._opened = None

    def _environment(self) -> _Opened:
        opened = self._opened
        if opened is not None and opened.process == os.getpid():
            return opened
        with self._lock:
            if self._opened is None or self._opened.process != os.getpid():
                self._opened = _acquire(self._folder, self._map_bytes)
            return self._opened


class _Transaction:
    """A reader or a writer: LMDB's transaction with our spaces."""

    def __init__(self, transaction: Any, spaces: dict[Space, Any], folder: Path) -> None:
        self._transaction = transaction
        self._spaces = spaces
        self._folder = folder

    def get(self, space: Space, key: bytes) -> memoryview | None:
        found: memoryview | None = self._transaction.get(key, db=self._spaces[space])
        return found

    def scan(self, space: Space, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        with self._transaction.cursor(db=self._spaces[space]) as cursor:
            if not cursor.set_range(prefix):
                return
            for key, value in cursor:
                found = bytes(key)
                if not found.startswith(prefix):
                    return
                yield found, bytes(value)

    def put(self, space: Space, key: bytes, value: bytes) -> None:
        if not 1 <= len(key) <= LONGEST_KEY_BYTES:
            raise Refused(f"a key of {len(key)} bytes; keys have 1 to {LONGEST_KEY_BYTES}")
        self._transaction.put(key, value, db=self._spaces[space])

    def delete(self, space: Space, key: bytes) -> bool:
        return bool(self._transaction.delete(key, db=self._spaces[space]))


class _Opened:
    """An environment that this process has open, and how many objects use it."""

    def __init__(self, folder: Path, map_bytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with _translated(folder):
            self.environment = lmdb.open(
                str(folder), map_size=map_bytes, max_dbs=len(Space), max_readers=MAX_READERS
            )
            self.environment.reader_check()  # slots of processes that were killed
            self.spaces = {
                space: self.environment.open_db(f"{space.value}".encode(), create=True) for space in Space
            }
        self.process = os.getpid()
        self.users = 0
        # LMDB's own lock is held by the process; threads of one process take turns here.
        self.writing = threading.Lock()


_open: dict[Path, _Opened] = {}
_open_lock = threading.Lock()


def _acquire(folder: Path, map_bytes: int) -> _Opened:
    path = folder.resolve()
    with _open_lock:
        opened = _open.get(path)
        if opened is None or opened.process != os.getpid():
            opened = _open[path] = _Opened(path, map_bytes)
        opened.users += 1
        return opened


def _release(folder: Path, opened: _Opened) -> None:
    with _open_lock:
        opened.users -= 1
        if opened.users == 0 and opened.process == os.getpid():
            opened.environment.close()
            _open.pop(folder.resolve(), None)


@contextmanager
def _translated(folder: Path) -> Iterator[None]:
    """LMDB's errors as ours."""
    try:
        yield
    except FourfoldError:
        raise
    except lmdb.MapFullError as error:
        raise OutOfSpace(
            f"the online store {folder} has reached its bound; nothing was changed",
            ways_on=["raise online_map_bytes in fourfold.toml"],
        ) from error
    except lmdb.DiskError as error:
        raise OutOfSpace(f"no disk space for the online store {folder}; nothing was changed") from error
    except (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError) as error:
        raise Corrupted(
            f"the online store {folder} is damaged: {error}",
            ways_on=["move the folder away and run materialize: everything online comes from the tables"],
        ) from error
    except (lmdb.ReadersFullError, lmdb.LockError) as error:
        raise Unavailable(f"the online store {folder} has too many readers: {error}") from error
    except lmdb.Error as error:
        if "No space left" in str(error) or getattr(error, "code", None) == errno.ENOSPC:
            raise OutOfSpace(f"no disk space for the online store {folder}; nothing was changed") from error
        raise Unavailable(f"the online store {folder}: {error}") from error
