"""Keeps what a job writes. Runs on a node, beside `keeper.py`: standard library only."""

from __future__ import annotations

import contextlib
import os

PIECE_BYTES = 1 << 20
SHOWN_BYTES = 4096
"""So much of the output is shown in Ray's own log too."""


class Stream:
    """Passes what a job writes on, for who started us to keep."""

    kept_bytes = 0

    def write(self, data: bytes) -> None:
        while data:
            data = data[os.write(1, data) :]

    def close(self) -> None:
        pass


class Output:
    """Keeps what a job writes in pieces, up to a bound, and shows its beginning in Ray's own log."""

    def __init__(self, folder: str, most_bytes: int) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._file: int | None = None
        self._shown = 0
        self.kept_bytes = 0
        self.lost_bytes = 0

    def write(self, data: bytes) -> None:
        kept = data[: max(0, self._most_bytes - self.kept_bytes)]
        self.lost_bytes += len(data) - len(kept)
        self._append(kept)
        if self._shown < SHOWN_BYTES:
            part = data[: SHOWN_BYTES - self._shown]
            self._shown += len(part)
            # Ray reads its log as text; a byte that is none would make all of it unreadable.
            say(part.decode("utf-8", "backslashreplace"))

    def close(self) -> None:
        if self.lost_bytes:
            self._append(f"\n(fourfold: {self.lost_bytes} bytes more were not kept)\n".encode())
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _append(self, data: bytes) -> None:
        while data:
            room = PIECE_BYTES - self.kept_bytes % PIECE_BYTES
            if self._file is None:
                path = os.path.join(self._folder, f"out.{self.kept_bytes // PIECE_BYTES:06d}")
                self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                written = os.write(self._file, data[:room])
            except OSError:  # a full disk: the job goes on, its output is counted
                self.lost_bytes += len(data)
                return
            self.kept_bytes += written
            data = data[written:]
            if self.kept_bytes % PIECE_BYTES == 0:
                os.close(self._file)
                self._file = None


def say(text: str) -> None:
    """Into Ray's own log of the job."""
    with contextlib.suppress(OSError):
        os.write(1, text.encode())
