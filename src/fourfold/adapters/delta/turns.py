"""Turns of those who commit to one log on a disk, in the order in which they asked.

Who wants a turn locks one byte of the file `.turn`, the first behind all that are locked, and waits until no
byte before it is. The locks belong to an opened file (`F_OFD_SETLKW`), so threads and processes wait in one
queue. The kernel drops them when a process dies, wakes the next, and forgets all of them in a power cut: no
order is stored, the file stays empty, and nothing in it can be stale.

The queue only says who is next. What a turn is worth lies in the lock on the folder itself, which everybody
takes who is first in the queue, or for whom there is no queue: on a full disk, for example.
"""

from __future__ import annotations

import fcntl
import os
import struct
from contextlib import suppress
from pathlib import Path

QUEUE = ".turn"
_DOOR = 1 << 62
"""The byte that is locked while one finds its place in the queue."""
_FLOCK = "@hhqqi0q"
"""`struct flock` of Linux: type, whence, start, length, process."""


class Turn:
    """A turn in a folder: making one waits for it. `FileNotFoundError` where there is no such folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder
        self._queue: int | None = None
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            try:
                self._queue = os.open(folder / QUEUE, os.O_RDWR | os.O_CREAT, 0o666)
                _wait(self._queue)
            except OSError:  # then there is no order, but still one at a time
                self._leave()
            fcntl.flock(self._folder, fcntl.LOCK_EX)
        except BaseException:
            self.end()
            raise

    @property
    def is_valid(self) -> bool:
        """Whether the path still means the folder in which we have the turn: it may have been dropped."""
        with suppress(FileNotFoundError):
            return os.path.samestat(os.stat(self._path), os.fstat(self._folder))
        return False

    def end(self) -> None:
        """Let the next go on. Told to the kernel: a process that was forked meanwhile has the files too."""
        fcntl.flock(self._folder, fcntl.LOCK_UN)
        os.close(self._folder)
        self._leave()

    def _leave(self) -> None:
        if self._queue is not None:
            with suppress(OSError):
                _lock(self._queue, fcntl.F_UNLCK, 0, 0)
            os.close(self._queue)
            self._queue = None


def _wait(queue: int) -> None:
    """Take the place behind all others, and wait until there is none before it."""
    _lock(queue, fcntl.F_WRLCK, _DOOR, 1)
    place = 0
    while (taken := _taken(queue, place)) is not None:
        place = taken + 1
    _lock(queue, fcntl.F_WRLCK, place, 1)
    _lock(queue, fcntl.F_UNLCK, _DOOR, 1)
    if place:
        # For the one before us: of all who wait, its end wakes only us. Then for all others, who are gone
        # by now unless that one died while it waited.
        _lock(queue, fcntl.F_RDLCK, place - 1, 1)
        _lock(queue, fcntl.F_RDLCK, 0, place)
        _lock(queue, fcntl.F_UNLCK, 0, place)


def _taken(queue: int, start: int) -> int | None:
    """A place that somebody has, at `start` or behind it."""
    asked = struct.pack(_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, start, _DOOR - start, 0)
    how, _, found, _, _ = struct.unpack(_FLOCK, fcntl.fcntl(queue, fcntl.F_OFD_GETLK, asked))
    return None if how == fcntl.F_UNLCK else max(found, start)


def _lock(queue: int, how: int, start: int, length: int) -> None:
    """Lock places, or let them go; to lock waits."""
    asked = struct.pack(_FLOCK, how, os.SEEK_SET, start, length, 0)
    fcntl.fcntl(queue, fcntl.F_OFD_SETLKW, asked)
