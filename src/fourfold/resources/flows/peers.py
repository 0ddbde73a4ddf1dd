"""Who talks to the owner: its listening sockets, its connections, and the frames that go over them.

The socket for processes of this machine lies in a folder that nobody else may enter. Workers on other
machines come over TCP, where that is wanted: encrypted, with a proof of their token, and with a word every
few seconds, so that a connection that only looks open is noticed. One thread, that of the loop, calls
everything here.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import selectors
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fourfold.core import frames
from fourfold.core.errors import FourfoldError, Refused
from fourfold.core.ports.control import Joined, Message
from fourfold.core.values import replace
from fourfold.resources.flows import secure
from fourfold.resources.flows.connection import PROTOCOLS, private_folder

_MOST_UNSENT = 512 * 1024 * 1024
_READ_BYTES = 1 << 18
_MOST_STRANGERS = 64
"""So many connections from other machines may not have proven yet who they are."""
_PROVE_WITHIN_S = 15.0
_MOST_STRANGER_BYTES = 64 * 1024
"""So much is taken from somebody who has not proven who they are."""


@dataclass(frozen=True, slots=True)
class FarDoor:
    """How workers on other machines come in."""

    host: str
    port: int
    context: ssl.SSLContext
    fingerprint: str
    secret: bytes
    """What their tokens are made from."""


class Left(Protocol):
    """Hears that a peer's connection has ended."""

    def __call__(self, peer: str, *, is_worker: bool, is_far: bool) -> None: ...


class FromStarter(Protocol):
    """Hears a word of what starts a worker on its machine; `left` when its connection has ended."""

    def __call__(self, worker: str, message: Message) -> None: ...


class Peer:
    """One connection: what came in, and what still has to go out."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.name = ""
        self.is_worker = False
        self.frames = frames.Frames()
        self.unsent: deque[memoryview] = deque()
        self.unsent_bytes = 0
        self.secure: secure.Secure | None = None
        """Encrypts, where the other end is on another machine."""
        self.starts = ""
        """The worker that will join, where this is what starts it."""
        self.life = ""
        self.nonce = secrets.token_hex(16)
        self.is_welcome = False
        """Whether the loop has answered on this connection."""
        self.heard_at = time.monotonic()


class Peers:
    """All connections by the names of who is at their other end."""

    def __init__(
        self,
        post: Callable[[Message], None],
        *,
        joined: Callable[[Joined], None],
        left: Left,
        from_starter: FromStarter | None = None,
    ) -> None:
        """Without `from_starter` nobody comes in who is not a worker yet."""
        self._post = post
        self._from_starter = from_starter
        self._joined = joined
        self._left = left
        self._selector = selectors.DefaultSelector()
        self._peers: dict[str, Peer] = {}
        self._tokens: dict[str, dict[int, str]] = {}
        self._client_count = 0
        self._path: Path | None = None
        self._listener: socket.socket | None = None
        self._door: FarDoor | None = None
        self._far_listener: socket.socket | None = None
        self._far: set[Peer] = set()
        self._beat_at = 0.0

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

    def listen_far(self, door: FarDoor) -> None:
        """Listen for workers on other machines."""
        try:
            self._far_listener = socket.create_server((door.host, door.port), backlog=128)
        except OSError as error:
            raise Refused(
                f"nobody can listen at {door.host}:{door.port}: {error.strerror or error}",
                ways_on=["free that port, or name another one: [control] listen in fourfold.toml"],
            ) from error
        self._far_listener.setblocking(False)
        self._door = door
        self._selector.register(self._far_listener, selectors.EVENT_READ, "far listener")

    def wakes_with(self, pipe: int) -> None:
        """Let `wait` end when a byte comes through a pipe."""
        self._selector.register(pipe, selectors.EVENT_READ, "wake")

    def wait(self, timeout_s: float | None) -> None:
        """Handle what comes in and can go out; wait for it so long at most."""
        if self._far:
            timeout_s = secure.BEAT_S if timeout_s is None else min(timeout_s, secure.BEAT_S)
            self._tend()
        for key, mask in self._selector.select(timeout_s):
            if key.data == "listener":
                self._accept()
            elif key.data == "far listener":
                self._accept_far()
            elif key.data == "wake":
                with contextlib.suppress(BlockingIOError):
                    os.read(key.fd, 4096)
            else:
                if mask & selectors.EVENT_WRITE:
                    self._flush(key.data)
                if mask & selectors.EVENT_READ:
                    self._receive(key.data)

    def expect(self, peers: Sequence[str]) -> str:
        """A token with which a worker's processes, by rank, and nobody else, may connect, each once."""
        token = secrets.token_hex(16)
        self._tokens[token] = dict(enumerate(peers))
        return token

    def forget(self, peer: str) -> None:
        """This process may not connect any more, unless the loop knows it."""
        for token, names in list(self._tokens.items()):
            if peer in names.values():
                del self._tokens[token]

    def has(self, name: str) -> bool:
        """Whether somebody is connected under this name."""
        return name in self._peers

    def send(self, name: str, header: dict[str, Any], parts: Sequence[bytes] = ()) -> None:
        """Send a frame; nothing happens when the peer is gone."""
        peer = self._peers.get(name)
        if peer is None:
            return
        if peer.secure is not None:
            if header["type"] == "refused" and header.get("is_stale"):
                self._refuse(peer, header)
                return
            peer.is_welcome = peer.is_welcome or header["type"] == "welcome"
            if not peer.is_welcome:
                return  # meant for an earlier connection: the loop has not heard of this one yet
        self._send(peer, frames.encode(header, parts))

    def close(self) -> None:
        """Stop listening, and close every connection."""
        if self._listener is not None and self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()
            self._listener.close()
        if self._far_listener is not None:
            self._far_listener.close()
        for peer in {*self._peers.values(), *self._far}:
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

    def _accept_far(self) -> None:
        assert self._far_listener is not None
        assert self._door is not None
        while True:
            try:
                connection, _ = self._far_listener.accept()
            except BlockingIOError:
                return
            if sum(not peer.name for peer in self._far) >= _MOST_STRANGERS:
                connection.close()  # a worker tries again; others may not crowd it out for long
                continue
            connection.setblocking(False)
            peer = Peer(connection)
            peer.secure = secure.Secure(self._door.context, is_server=True)
            self._far.add(peer)
            self._selector.register(connection, selectors.EVENT_READ, peer)

    def _tend(self) -> None:
        """Tell those on other machines that we are here, and let go of who cannot be heard."""
        now = time.monotonic()
        if now - self._beat_at < secure.BEAT_S:
            return
        self._beat_at = now
        beat = frames.encode({"type": "beat"})
        for peer in list(self._far):
            if now - peer.heard_at > (secure.QUIET_S if peer.name else _PROVE_WITHIN_S):
                self._drop(peer)
            elif peer.is_welcome:
                self._send(peer, beat)

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
            if peer.secure is not None:
                data = self._decrypted(peer, peer.secure, data)
            for header, parts in peer.frames.feed(data):
                self._take(peer, header, parts)
            if peer.secure is not None and not peer.name and peer.frames.waiting_bytes > _MOST_STRANGER_BYTES:
                raise ValueError("a stranger says too much")
        except (FourfoldError, KeyError, TypeError, ValueError, ssl.SSLError):
            self._drop(peer)  # not one of ours

    def _decrypted(self, peer: Peer, tls: secure.Secure, data: bytes) -> bytes:
        if peer.name:
            peer.heard_at = time.monotonic()  # a stranger's time runs from when it came
        was_ready = tls.is_ready
        read, answer = tls.feed(data)
        if answer:
            self._put(peer, answer)
        if tls.is_ready and not was_ready:
            self._send(peer, frames.encode({"type": "challenge", "nonce": peer.nonce}))
        return read

    def _take(self, peer: Peer, header: dict[str, Any], parts: list[bytes]) -> None:
        if peer.name:
            if header["type"] != "beat" and self._peers.get(peer.name) is peer:
                message = Message(peer.name, header, parts)
                if peer.starts and self._from_starter is not None:
                    self._from_starter(peer.starts, message)
                else:
                    self._post(message)
            return
        if header["type"] != "hello":
            self._drop(peer)
            return
        if (spoken := header.get("protocol")) not in PROTOCOLS:
            told = f"this owner speaks protocol {' and '.join(map(str, PROTOCOLS))}, and not {spoken}"
            self._refuse(peer, {"type": "refused", "key": "", "reason": told, "is_stale": True})
            return
        if peer.secure is not None:
            self._take_far(peer, header)
            return
        if header["role"] == "worker":
            left = self._tokens.get(header["token"], {})
            if (worker := left.pop(int(header.get("rank", 0)), None)) is None:
                self._drop(peer)
                return
            if not left:
                del self._tokens[header["token"]]
            peer.name, peer.is_worker = worker, True
        else:
            self._client_count += 1
            peer.name = f"client_{self._client_count}"
        self._peers[peer.name] = peer
        if peer.is_worker:
            unit, group = str(header.get("unit", "")), str(header.get("group", ""))
            self._joined(Joined(peer.name, unit=unit, group=group))

    def _take_far(self, peer: Peer, header: dict[str, Any]) -> None:
        """A worker on another machine says who it is, and shows that it has the token of that name."""
        assert self._door is not None
        worker, life = str(header["worker"]), str(header["life"])
        expected = secure.proof(
            secure.token_of(self._door.secret, worker),
            nonce=peer.nonce,
            worker=worker,
            life=life,
            fingerprint=self._door.fingerprint,
        )
        if not secrets.compare_digest(expected, str(header["proof"])):
            self._drop(peer)
            return
        if header["role"] == "starter" and self._from_starter is not None:
            # Named with its life: an engine may have started its job twice.
            peer.name, peer.starts, peer.is_welcome = f"{worker}/{life}", worker, True
            peer.heard_at = time.monotonic()
            self._peers[peer.name] = peer
            return
        if header["role"] != "worker":
            self._drop(peer)
            return
        if (rank := header.get("rank")) is not None:
            worker = f"{worker}.{int(rank)}"
        has = header.get("has")
        task = (str(has[0]), str(has[1]), int(has[2])) if has else None
        unit, group = str(header.get("unit", "")), str(header.get("group", ""))
        joined = Joined(worker, life, task, unit=unit, group=group)
        other = self._peers.get(worker)
        if other is not None and other.life != life:
            told = "another process is this worker: its job was started twice"
            self._refuse(peer, {"type": "refused", "key": "", "reason": told, "is_stale": True})
            return
        if other is not None:  # it has connected again before its earlier connection was seen to end
            self._let_go(other)
        peer.name, peer.is_worker, peer.life = worker, True, life
        peer.heard_at = time.monotonic()
        self._peers[worker] = peer
        self._joined(replace(joined, is_done=bool(header.get("is_done"))))

    def _refuse(self, peer: Peer, told: dict[str, Any]) -> None:
        """Tell somebody why they must end; who that is does not count as having been here."""
        self._send(peer, frames.encode(told))
        self._let_go(peer)

    def _send(self, peer: Peer, encoded: bytes) -> None:
        if peer.secure is not None:
            try:
                encoded = peer.secure.wrap(encoded)
            except ssl.SSLError:
                return  # its end is told by the read side
        self._put(peer, encoded)

    def _put(self, peer: Peer, encoded: bytes) -> None:
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
        """A connection has ended, or is ended: whoever is at its other end has left."""
        is_known = bool(peer.name) and self._peers.get(peer.name) is peer
        self._let_go(peer)
        if is_known and peer.starts and self._from_starter is not None:
            self._from_starter(peer.starts, Message(peer.name, {"type": "left"}))
        elif is_known:
            self._left(peer.name, is_worker=peer.is_worker, is_far=peer.secure is not None)

    def _let_go(self, peer: Peer) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(peer.socket)
        peer.socket.close()
        self._far.discard(peer)
        if peer.name and self._peers.get(peer.name) is peer:
            del self._peers[peer.name]
