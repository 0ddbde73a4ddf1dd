"""Who talks to the owner: its listening sockets, its connections, and the frames that go over them.

The socket for processes of this machine lies in a folder that nobody else may enter. One thread, that of
the loop, calls everything here.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import selectors
import socket
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from fourfold.core import frames
from fourfold.core.errors import FourfoldError
from fourfold.core.ports.control import Message
from fourfold.resources.flows.connection import PROTOCOLS, private_folder

_MOST_UNSENT = 512 * 1024 * 1024
_READ_BYTES = 1 << 18


class Left(Protocol):
    """Hears that a peer's connection has ended."""

    def __call__(self, peer: str, *, is_worker: bool) -> None: ...


class Peer:
    """One connection: what came in, and what still has to go out."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.name = ""
        self.is_worker = False
        self.frames = frames.Frames()
        self.unsent: deque[memoryview] = deque()
        self.unsent_bytes = 0


class Peers:
    """All connections by the names of who is at their other end."""

    def __init__(self, post: Callable[[Message], None], *, joined: Callable[[str], None], left: Left) -> None:
        self._post = post
        self._joined = joined
        self._left = left
        self._selector = selectors.DefaultSelector()
        self._peers: dict[str, Peer] = {}
        self._tokens: dict[str, str] = {}
        self._client_count = 0
        self._path: Path | None = None
        self._listener: socket.socket | None = None

    def __repr__(self) -> str:
        return f"<Peers: {len(self._peers)} connected>"

    def listen(self, path: Path) -> None:
        """Listen for processes of this machine."""
        private_folder(path.parent)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()  # the project's lock is ours, so nobody listens there
        self._path = path
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        path.chmod(0o600)
        self._listener.listen(128)
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ, "listener")

    def wakes_with(self, pipe: int) -> None:
        """Let `wait` end when a byte comes through a pipe."""
        self._selector.register(pipe, selectors.EVENT_READ, "wake")

    def wait(self, timeout_s: float | None) -> None:
        """Handle what comes in and can go out; wait for it so long at most."""
        for key, mask in self._selector.select(timeout_s):
            if key.data == "listener":
                self._accept()
            elif key.data == "wake":
                with contextlib.suppress(BlockingIOError):
                    os.read(key.fd, 4096)
            else:
                if mask & selectors.EVENT_WRITE:
                    self._flush(key.data)
                if mask & selectors.EVENT_READ:
                    self._receive(key.data)

    def expect(self, worker: str) -> str:
        """A token with which this worker, and nobody else, may connect, once."""
        token = secrets.token_hex(16)
        self._tokens[token] = worker
        return token

    def forget(self, worker: str) -> None:
        """This worker may not connect any more."""
        for token in [token for token, name in self._tokens.items() if name == worker]:
            del self._tokens[token]

    def has(self, name: str) -> bool:
        """Whether somebody is connected under this name."""
        return name in self._peers

    def send(self, name: str, header: dict[str, Any], parts: Sequence[bytes] = ()) -> None:
        """Send a frame; nothing happens when the peer is gone."""
        peer = self._peers.get(name)
        if peer is not None:
            self._send(peer, frames.encode(header, parts))

    def close(self) -> None:
        """Stop listening, and close every connection."""
        if self._listener is not None and self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()
            self._listener.close()
        for peer in list(self._peers.values()):
            peer.socket.close()
        self._selector.close()

    # How

    def _accept(self) -> None:
        assert self._listener is not None
        while True:
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return
            connection.setblocking(False)
            self._selector.register(connection, selectors.EVENT_READ, Peer(connection))

    def _receive(self, peer: Peer) -> None:
        try:
            data = peer.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(peer)
            return
        try:
            for header, parts in peer.frames.feed(data):
                self._take(peer, header, parts)
        except (FourfoldError, KeyError, ValueError):
            self._drop(peer)  # not one of ours

    def _take(self, peer: Peer, header: dict[str, Any], parts: list[bytes]) -> None:
        if peer.name:
            self._post(Message(peer.name, header, parts))
            return
        if header["type"] != "hello":
            self._drop(peer)
            return
        if (spoken := header.get("protocol")) not in PROTOCOLS:
            told = f"this owner speaks protocol {' and '.join(map(str, PROTOCOLS))}, and not {spoken}"
            self._send(peer, frames.encode({"type": "refused", "key": "", "reason": told, "is_stale": True}))
            self._drop(peer)
            return
        if header["role"] == "worker":
            worker = self._tokens.pop(header["token"], None)
            if worker is None:
                self._drop(peer)
                return
            peer.name, peer.is_worker = worker, True
        else:
            self._client_count += 1
            peer.name = f"client_{self._client_count}"
        self._peers[peer.name] = peer
        if peer.is_worker:
            self._joined(peer.name)

    def _send(self, peer: Peer, encoded: bytes) -> None:
        data = memoryview(encoded)
        if not peer.unsent:
            try:
                data = data[peer.socket.send(data) :]
            except BlockingIOError:
                pass
            except OSError:
                return  # its end is told by the read side
        if data:
            peer.unsent.append(data)
            peer.unsent_bytes += len(data)
            if peer.unsent_bytes > _MOST_UNSENT:
                self._drop(peer)
                return
            self._selector.modify(peer.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, peer)

    def _flush(self, peer: Peer) -> None:
        while peer.unsent:
            try:
                sent = peer.socket.send(peer.unsent[0])
            except BlockingIOError:
                return
            except OSError:
                return
            peer.unsent_bytes -= sent
            if sent == len(peer.unsent[0]):
                peer.unsent.popleft()
            else:
                peer.unsent[0] = peer.unsent[0][sent:]
        self._selector.modify(peer.socket, selectors.EVENT_READ, peer)

    def _drop(self, peer: Peer) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(peer.socket)
        peer.socket.close()
        if peer.name and self._peers.pop(peer.name, None) is not None:
            self._left(peer.name, is_worker=peer.is_worker)
