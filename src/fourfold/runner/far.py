"""A worker's connection to an owner on another machine: it outlives the network, and the owner's own process.

One thread keeps the connection: it connects, proves who it is, says now and then that it is there, and
connects again when the owner cannot be heard. The result of a task is kept until the next task, and told
again when the owner asks for it. Who is refused, or hears nothing for too long, ends itself and all that it
started: by then its place is given to another. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue

from fourfold.core import frames
from fourfold.core.errors import FourfoldError
from fourfold.core.frames import Header
from fourfold.resources.flows import secure
from fourfold.resources.flows.certificate import fingerprint
from fourfold.resources.flows.connection import PROTOCOL, Closed

CONNECT_TIMEOUT_S = 10.0
MOST_PAUSE_S = 5.0
_RESULTS = ("finished", "failed")
_READ_BYTES = 1 << 18

Frame = tuple[Header, list[bytes]]


class FarConnection:
    """Looks to the worker like any connection: any thread may send, one at a time receives."""

    def __init__(
        self,
        address: tuple[str, int],
        *,
        worker: str,
        token: str,
        certificate: str,
        away_s: float,
        end: Callable[[str], None],
        unit: str = "",
        more: Mapping[str, object] | None = None,
    ) -> None:
        """`certificate` is the fingerprint of the owner's; `end` ends this process, with a reason. `unit` is
        where it runs, as its engine calls that; `more` is said in its first word too."""
        self._address = address
        self._worker = worker
        self._more = more or {}
        self._token = token
        self._certificate = certificate
        self._away_s = away_s
        self._end = end
        self._unit = unit
        self._life = secrets.token_hex(8)
        self._received: SimpleQueue[Frame] = SimpleQueue()
        self._code: SimpleQueue[bytes] = SimpleQueue()
        self._sending = threading.RLock()
        self._socket: socket.socket | None = None
        self._secure: secure.Secure | None = None
        self._has: list[object] | None = None
        self._result: Frame | None = None
        self._is_welcome = False
        self._heard_at = time.monotonic()
        threading.Thread(target=self._live, name="fourfold-far", daemon=True).start()

    def send(self, header: Header, parts: Sequence[bytes] = ()) -> None:
        """Send a frame. A result that cannot be sent now is told when the owner is there again."""
        with self._sending:
            if header["type"] in _RESULTS:
                self._result = (header, list(parts))
            if self._is_welcome:
                with contextlib.suppress(OSError, ssl.SSLError):  # the thread that keeps it notices
                    self._write(header, parts)

    def receive(self) -> Frame:
        """The next frame for the worker."""
        return self._received.get()

    def code(self, digest: str) -> bytes:
        """The bundle of code with this digest, from the owner. Asked again until it comes."""
        while True:
            self.send({"type": "code", "digest": digest})
            with contextlib.suppress(Empty):
                return self._code.get(timeout=secure.QUIET_S)

    # The thread that keeps the connection

    def _live(self) -> None:
        pause_s = 0.1
        while True:
            try:
                self._connect()
                self._listen()
            except (OSError, ssl.SSLError, Closed, FourfoldError, KeyError, ValueError) as error:
                why = str(error)
            if self._is_welcome:
                pause_s = 0.1
            self._hang_up()
            silent_s = time.monotonic() - self._heard_at
            if silent_s > self._away_s:
                self._end(f"the owner was not heard of for {silent_s:.0f} s (the last attempt: {why})")
            time.sleep(pause_s * (0.5 + secrets.randbelow(1000) / 1000))
            pause_s = min(MOST_PAUSE_S, 2 * pause_s)

    def _connect(self) -> None:
        connection = socket.create_connection(self._address, timeout=CONNECT_TIMEOUT_S)
        self._socket, self._secure = connection, secure.Secure(secure.client_context(), is_server=False)
        connection.sendall(self._secure.begin())
        frames_in = self._frames(CONNECT_TIMEOUT_S)
        challenge, _ = next(frames_in)
        if challenge["type"] != "challenge":
            raise Closed(challenge.get("reason", "no owner is there"))
        with self._sending:  # what it has, and whether it is done with it, is one look
            self._write(
                {
                    "type": "hello",
                    "role": "worker",
                    "worker": self._worker,
                    "life": self._life,
                    "protocol": PROTOCOL,
                    "unit": self._unit,
                    "proof": secure.proof(
                        self._token,
                        nonce=challenge["nonce"],
                        worker=self._worker,
                        life=self._life,
                        fingerprint=self._certificate,
                    ),
                    "has": self._has,
                    "is_done": self._result is not None,
                    **self._more,
                }
            )

    def _listen(self) -> None:
        for header, parts in self._frames(secure.QUIET_S):
            self._heard_at = time.monotonic()
            match header["type"]:
                case "beat":
                    pass
                case "welcome":
                    self._welcomed(header)
                case "refused" if header.get("is_stale"):
                    self._end(f"the owner refused it: {header['reason']}")
                case "code":
                    self._code.put(parts[0])
                case "task":
                    with self._sending:
                        self._has, self._result = [header["run"], header["key"], header["n"]], None
                    self._received.put((header, parts))
                case _:
                    self._received.put((header, parts))

    def _welcomed(self, header: Header) -> None:
        with self._sending:
            self._is_welcome = True
            self._away_s = float(header.get("away_s", self._away_s))
            if header.get("tell_result") and self._result is not None:
                self._write(*self._result)
        self._received.put((header, []))  # the worker forgets what went ahead on an earlier connection

    def _frames(self, quiet_s: float) -> Iterator[Frame]:
        """Frames as they come; says now and then that this end is there. Ends by an exception only."""
        connection, tls = self._socket, self._secure
        assert connection is not None
        assert tls is not None
        cut = frames.Frames()
        heard_at = beat_at = time.monotonic()
        while True:
            ready, _, _ = select.select([connection], [], [], secure.BEAT_S)
            now = time.monotonic()
            if now - beat_at >= secure.BEAT_S and self._is_welcome:
                beat_at = now
                self._write({"type": "beat"})
            if not ready:
                if now - heard_at > quiet_s:
                    raise Closed(f"nothing was heard for {quiet_s:g} s")
                continue
            data = connection.recv(_READ_BYTES)
            if not data:
                raise Closed("the connection was closed")
            heard_at = now
            with self._sending:
                was_ready = tls.is_ready
                read, answer = tls.feed(data)
                if answer:
                    connection.sendall(answer)
            if tls.is_ready and not was_ready:
                shown = fingerprint(tls.peer_certificate())
                if not secrets.compare_digest(shown, self._certificate):
                    raise Closed("who answers there is not the owner: its certificate is another one")
            yield from cut.feed(read)

    def _write(self, header: Header, parts: Sequence[bytes] = ()) -> None:
        with self._sending:
            if self._socket is None or self._secure is None:
                raise OSError("there is no connection")
            self._socket.sendall(self._secure.wrap(frames.encode(header, parts)))

    def _hang_up(self) -> None:
        with self._sending:
            self._is_welcome = False
            if self._socket is not None:
                self._socket.close()
            self._socket = self._secure = None


def end_all(reason: str) -> None:
    """End this process and everything that it started."""
    sys.stderr.write(f"{reason}\n")
    sys.stderr.flush()
    for pid in _descendants(os.getpid()):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _descendants(root: int) -> list[int]:
    """The processes below this one, as far as they have not left it."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            words = stat.read_text().rpartition(")")[2].split()
            children.setdefault(int(words[1]), []).append(int(stat.parent.name))
    found, waiting = [], [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found
