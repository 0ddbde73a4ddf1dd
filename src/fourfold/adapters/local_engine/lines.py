"""Messages between the processes of the local engine. Standard library only."""

from __future__ import annotations

import contextlib
import json
import socket


class Lines:
    """JSON lines over a stream socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._rest = b""

    def send(self, message: dict[str, object]) -> None:
        with contextlib.suppress(OSError):  # the other side is gone: that is noticed where we read
            self.sock.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[dict[str, object]] | None:
        """The messages that have come; `None` when the other side has closed."""
        try:
            data = self.sock.recv(1 << 16)
        except ConnectionError:
            return None
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines]
