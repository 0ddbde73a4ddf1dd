"""OpenLineage events as lines of a file, which is turned over when it has grown."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from fourfold.core.errors import OutOfSpace, Refused, Unavailable

TURN_BYTES = 64 * 2**20
"""At this size the file is put aside under its name and `.1`, in place of the one before."""
READ_BYTES = 2**16


class FileEvents:
    """Fulfils `EventSink`: one event a line, synced before `send` returns."""

    def __init__(self, path: Path, *, turn_bytes: int = TURN_BYTES) -> None:
        self._path = path
        self._turn_bytes = turn_bytes

    @property
    def address(self) -> str:
        return f"file://{self._path}"

    def send(self, event: bytes) -> None:
        if b"\n" in event:
            raise Refused("an event of several lines cannot be told from several events")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._turn()
            self._append(event + b"\n")
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise OutOfSpace(f"no space left for lineage events in {self._path}") from error
            raise Unavailable(
                f"lineage events cannot be written to {self._path}: {error.strerror}"
            ) from error

    def close(self) -> None:
        """Nothing is kept open."""

    def _append(self, line: bytes) -> None:
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            whole = _whole(file)
            try:
                written = os.write(file, line)
                if written != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file)
            except OSError:
                os.ftruncate(file, whole)  # half a line would spoil the next
                raise
        finally:
            os.close(file)

    def _turn(self) -> None:
        if self._path.exists() and self._path.stat().st_size >= self._turn_bytes:
            self._path.replace(self._path.with_name(self._path.name + ".1"))


def _whole(file: int) -> int:
    """Where the last whole line ends. Half of one, which a process left that died as it wrote, is cut off:
    the event is sent again, and would else be spoilt by what it continues."""
    end = size = os.fstat(file).st_size
    while end > 0:
        start = max(0, end - READ_BYTES)
        found = os.pread(file, end - start, start).rfind(b"\n")
        if found >= 0:
            end = start + found + 1
            break
        end = start
    if end < size:
        os.ftruncate(file, end)
    return end
