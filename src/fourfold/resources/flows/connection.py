"""A process's end of the control socket: frames out, frames in. Standard library only."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import deque
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

from fourfold.core import frames
from fourfold.core.errors import Denied, Unavailable
from fourfold.core.frames import Header

PROTOCOL = 1
PROTOCOLS = (1,)
"""Those that the owner speaks: its own and the one before, so that workers of the last release go on."""
_MOST_PATH_BYTES = 100  # the system takes 108, with the closing zero


class Closed(Exception):
    """The other end is gone."""


def socket_path(home: Path) -> Path:
    """Where the owner of a project listens. Deep projects get a short path: the system allows 108 bytes."""
    path = home / "run" / "control.sock"
    if len(os.fsencode(path)) <= _MOST_PATH_BYTES:
        return path
    name = blake2b(os.fsencode(home), digest_size=8).hexdigest()
    return Path("/tmp") / f"fourfold-{os.getuid()}-{name}" / "control.sock"  # noqa: S108 - checked to be ours


def private_folder(path: Path) -> None:
    """Make the folder so that only its owner may enter, and refuse one that somebody else made."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    stat = path.lstat()
    if stat.st_uid != os.getuid() or (stat.st_mode & 0o170000) != 0o040000:
        raise Denied(f"{path} belongs to somebody else, so nothing secret may be put there")
    if stat.st_mode & 0o077:
        path.chmod(0o700)


class Connection:
    """A connection to the owner. Any thread may send; one at a time receives."""

    def __init__(self, path: str | Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            raise Unavailable(f"nothing listens at {path}: {error}") from error
        self._sending = threading.Lock()
        self._frames = frames.Frames()
        self._received: deque[tuple[Header, list[bytes]]] = deque()

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, header: Header, parts: Sequence[bytes] = ()) -> None:
        data = frames.encode(header, parts)
        with self._sending:
            try:
                self._socket.sendall(data)
            except OSError as error:
                raise Closed(str(error)) from error

    def receive(self, timeout_s: float | None = None) -> tuple[Header, list[bytes]] | None:
        """The next frame; `None` when the time is over. Raises `Closed` when the other end is gone."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._received:
            if deadline is not None:
                self._socket.settimeout(max(0.0, deadline - time.monotonic()) or 1e-6)
            try:
                data = self._socket.recv(1 << 18)
            except TimeoutError:
                return None
            except OSError as error:
                raise Closed(str(error)) from error
            finally:
                if deadline is not None:
                    self._socket.settimeout(None)
            if not data:
                raise Closed("the other end is gone")
            self._received.extend(self._frames.feed(data))
        return self._received.popleft()

    def close(self) -> None:
        self._socket.close()
