"""The control process's end of the supervisor process."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from fourfold.core.errors import Unavailable

READY_WITHIN_S = 20.0
SOURCE = Path(__file__).parents[3]
BOOT = """
import sys
root = sys.argv.pop(1)
for name in ("fourfold", "fourfold.core", "fourfold.adapters", "fourfold.adapters.local_engine"):
    package = type(sys)(name)
    package.__path__ = [root + "/" + name.replace(".", "/")]
    sys.modules[name] = package
from fourfold.adapters.local_engine.supervisor import main
main()
"""
"""Starts the supervisor without what the packages above it would load: it stays as small as bare Python."""


class Link:
    """Our end of the supervisor process: starts it, sends to it, and hears it in a thread."""

    def __init__(self, heard: Callable[[dict[str, object]], None], died: Callable[[Link], None]) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            boot = [sys.executable, "-I", "-S", "-c", BOOT, str(SOURCE)]
            command = [*boot, str(theirs.fileno()), str(os.getpid())]
            self._process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                cwd="/",
                env={"PATH": os.defpath},
                start_new_session=True,
            )
        # A supervisor that hangs must not hold us up for ever.
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _seconds(READY_WITHIN_S))
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _seconds(READY_WITHIN_S))
        self._socket = ours
        self._died = died
        self._heard = heard
        self.is_dead = False
        self._lines = ours.makefile("rb")
        if not self._is_ready():
            self._process.kill()
            self._process.wait()
            raise Unavailable("the supervisor of local jobs did not start", ways_on=["run: fourfold doctor"])
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _seconds(0))
        threading.Thread(target=self._listen, name="local-engine", daemon=True).start()

    def _is_ready(self) -> bool:
        try:
            return bool(self._lines.readline())
        except OSError:  # nothing was heard in time
            return False

    def send(self, message: dict[str, object]) -> None:
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            self.is_dead = True
            self._process.kill()  # one that hangs: its keepers see it and end their jobs, which count as lost
            raise Unavailable("the supervisor of local jobs has died", ways_on=["try again"]) from error

    def close(self, *, grace_s: float) -> None:
        with contextlib.suppress(Unavailable):
            self.send({"op": "close", "grace_s": grace_s})
        try:
            self._process.wait(grace_s + READY_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()  # the keepers see it and kill their jobs
            self._process.wait()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _listen(self) -> None:
        # One that is killed before it has read all that it was sent resets the line.
        with self._lines, self._socket, contextlib.suppress(ConnectionResetError):
            for line in self._lines:
                self._heard(json.loads(line))
        self.is_dead = True
        self._process.wait()
        self._died(self)


def _seconds(value: float) -> bytes:
    """As the kernel takes a time (`struct timeval`)."""
    return struct.pack("ll", int(value), int(value % 1 * 1e6))
