"""A job's output: a file that it writes itself, bounded by giving up its middle.

The beginning and the end stay (a log is read for how it began and how it ended); what lies between is
handed back to the disk as a hole, so offsets go on counting every byte that was written. Where the hole
lies is kept beside the log before it is made. Standard library only: keepers use it too.
"""

from __future__ import annotations

import contextlib
import ctypes
import os

HEAD_SHARE = 4
"""The beginning keeps a quarter of the bound."""
BLOCK = 4096
PUNCH = 1 | 2  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


class Output:
    """The keeper's side: opens the log for the job, and keeps it bounded."""

    def __init__(self, folder: str, most_bytes: int) -> None:
        self._folder = folder
        self.fd = os.open(f"{folder}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._head = max(BLOCK, most_bytes // HEAD_SHARE // BLOCK * BLOCK)
        self._tail = max(BLOCK, most_bytes - self._head)
        self._cut_to = self._head
        self._size = 0

    def hold(self) -> tuple[int, bool]:
        """Give up the middle if there is too much: how much came since the last time, and whether it is held.

        It is not held where the file system cannot make holes.
        """
        size = os.fstat(self.fd).st_size
        grown, self._size = size - self._size, size
        if size - self._cut_to <= self._tail + self._tail // 4:  # not for every line
            return grown, True
        cut_to = (size - self._tail) // BLOCK * BLOCK
        self._write_cut(cut_to)
        if _libc.fallocate(self.fd, PUNCH, self._cut_to, cut_to - self._cut_to) != 0:
            return grown, False
        self._cut_to = cut_to
        return grown, True

    def _write_cut(self, cut_to: int) -> None:
        path = f"{self._folder}/cut"
        with contextlib.suppress(OSError):
            with open(path + ".new", "w") as file:
                file.write(f"{self._head} {cut_to}")
            os.rename(path + ".new", path)


def read(folder: str, offset: int, limit_bytes: int) -> tuple[bytes, int, int]:
    """A piece of a log from `offset`: the bytes, the next offset, and how far the log goes.

    Where the middle was given up stands one line that counts what is missing. Raises `FileNotFoundError`
    where there is no log.
    """
    with open(f"{folder}/log", "rb") as file:
        size = os.fstat(file.fileno()).st_size
        start, end = _cut(folder)
        data = b""
        if not start <= offset < end:
            file.seek(offset)
            data = file.read(min(limit_bytes, start - offset) if offset < start else limit_bytes)
        if _cut(folder)[1] > end:  # more was given up while we read: what was read may be of the hole
            return read(folder, offset, limit_bytes)
    next_offset = offset + len(data)
    if start <= next_offset < end:
        data += f"\n[{end - next_offset} bytes of output were given up here]\n".encode()
        next_offset = end
    return data, next_offset, size


def _cut(folder: str) -> tuple[int, int]:
    try:
        with open(f"{folder}/cut") as file:
            start, end = file.read().split()
    except OSError:
        return 1 << 62, 0
    return int(start), int(end)
