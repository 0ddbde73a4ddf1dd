"""The owner: the one process that turns a project's loop, and the socket over which others reach it.

Two things keep it alone. A file lock, which the system lets go when the process dies, decides who is the
owner here; and an epoch in the catalog, raised by each new owner and checked in each commit, keeps out
one that only slept. The socket lies in a folder that nobody else may enter.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fourfold.core import frames
from fourfold.core.errors import FourfoldError
from fourfold.core.jobs import Exit, ExitKind, Resources, UnitCapacity
from fourfold.core.ports.clock import Clock
from fourfold.core.ports.control import Gone, Joined, Message, WorkerSpec
from fourfold.core.ports.engine import Engine, Launch, Phase
from fourfold.core.ports.flow_store import FlowStore
from fourfold.core.settings import ENVIRONMENT_PREFIX, NOT_SETTINGS
from fourfold.core.times import seconds_between
from fourfold.resources.flows.connection import private_folder, socket_path
from fourfold.resources.flows.loop import Loop, Resolve, Settings

START_TIMEOUT_S = 60.0
"""A worker that has not connected by then is taken for lost."""
_LOOK_S = 1.0
"""So often the engine is asked about workers that have not connected yet."""
_END_WITHIN_S = 5.0
"""So long may a process take to end after its connection has, or after its grace."""
_OVER = (Phase.ended, Phase.unknown)
_MOST_UNSENT = 512 * 1024 * 1024

CodeFolder = Callable[[Any], Path]
"""Makes sure that a run's code is unpacked here, and tells where."""


class Lock:
    """The project's owner lock. The system lets it go when the process ends, however it ends."""

    def __init__(self, home: Path) -> None:
        self._path = home / "owner.lock"
        self._file: int | None = None

    def take(self) -> bool:
        """Take the lock if it is free."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return False
        os.ftruncate(file, 0)
        os.write(file, f"{os.getpid()}\n".encode())
        self._file = file
        return True

    def holder(self) -> str:
        """Who holds the lock, as far as the file tells."""
        try:
            return f"process {int(self._path.read_text())}"
        except (OSError, ValueError):
            return "process unknown"

    def release(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


class _Peer:
    """One connection: what came in, and what still has to go out."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.name = ""
        self.frames = frames.Frames()
        self.unsent: deque[memoryview] = deque()
        self.unsent_bytes = 0


class Owner:
    """Turns the loop in a thread of its own, until `stop` or until another owner takes over.

    Make one only after `Lock.take()`; `start` recovers open runs and listens.
    """

    def __init__(
        self,
        *,
        home: Path,
        store: FlowStore,
        engine: Engine,
        clock: Clock,
        new_id: Callable[[str], str],
        code_folder: CodeFolder,
        lock: Lock,
        resolve: Resolve | None = None,
        step_code: Callable[[Any, str], str] | None = None,
        settings: Settings | None = None,
        is_firing: bool = False,
    ) -> None:
        self._home = home
        self._engine = engine
        self._clock = clock
        self._code_folder = code_folder
        self._lock = lock
        self._peers: dict[str, _Peer] = {}
        self._tokens: dict[str, str] = {}
        self._launched: dict[str, float] = {}
        self._selector = selectors.DefaultSelector()
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="fourfold-stop")
        self._client_count = 0
        self._is_stopping = False
        self._units: tuple[UnitCapacity, ...] = ()
        self._looked_at = 0.0
        self.fault: BaseException | None = None
        """Why the loop ended, when it was not asked to."""
        options: dict[str, Any] = {}
        if resolve is not None:
            options["resolve"] = resolve
        if step_code is not None:
            options["step_code"] = step_code
        self.loop = Loop(
            store=store,
            control=_Hands(self),
            clock=clock,
            new_id=new_id,
            settings=settings or Settings(),
            **options,
        )
        self.loop.scheduler.is_firing = is_firing
        self._wake_in, self._wake_out = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._arrived: deque[Gone] = deque()
        self._thread = threading.Thread(target=self._run, name="fourfold-loop", daemon=True)
        self._ready = threading.Event()

    # Life

    def start(self) -> None:
        """Recover, listen and turn. Returns once others can connect."""
        self._thread.start()
        self._ready.wait()
        if self.fault is not None:
            raise self.fault

    def stop(self) -> None:
        """Stop turning and let the lock go. Open runs go on with the next owner."""
        self._is_stopping = True
        self._wake()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait for the loop's end; whether it came."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        listener: socket.socket | None = None
        try:
            self._engine.reap(())  # what an earlier owner left running must not run twice
            self._units = tuple(
                UnitCapacity(offer.unit, offer.cpu, offer.memory_bytes, offer.gpu)
                for offer in self._engine.offers(Resources())
            )
            self.loop.take_over(f"{socket.gethostname()}/{os.getpid()}")
            listener = self._listen()
            self._selector.register(listener, selectors.EVENT_READ, "listener")
            self._selector.register(self._wake_in, selectors.EVENT_READ, "wake")
            self._ready.set()
            while not self._is_stopping:
                self._once(listener)
        except BaseException as error:
            self.fault = error
        finally:
            self._ready.set()
            self._close(listener)

    def _once(self, listener: socket.socket) -> None:
        self.loop.turn()
        self._look_after_launched()
        due = self.loop.next_at()
        timeout = None if due is None else max(0.0, seconds_between(self._clock.now(), due))
        if self._launched:
            timeout = _LOOK_S if timeout is None else min(timeout, _LOOK_S)
        if self.loop.has_work and due is None:
            timeout = 0.0
        for key, mask in self._selector.select(timeout):
            if key.data == "listener":
                self._accept(listener)
            elif key.data == "wake":
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_in, 4096)
            else:
                if mask & selectors.EVENT_WRITE:
                    self._flush(key.data)
                if mask & selectors.EVENT_READ:
                    self._receive(key.data)
        while self._arrived:
            self.loop.post(self._arrived.popleft())

    def _listen(self) -> socket.socket:
        path = socket_path(self._home)
        private_folder(path.parent)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()  # we hold the lock, so nobody listens there
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(128)
        listener.setblocking(False)
        return listener

    def _close(self, listener: socket.socket | None) -> None:
        if listener is not None:
            with contextlib.suppress(OSError):
                socket_path(self._home).unlink()
            listener.close()
        for peer in list(self._peers.values()):
            peer.socket.close()
        with contextlib.suppress(Exception):
            self._engine.reap(())
        self._pool.shutdown(wait=True, cancel_futures=True)
        with contextlib.suppress(Exception):
            self._engine.close()
        self._selector.close()
        for end in (self._wake_in, self._wake_out):
            os.close(end)
        self._lock.release()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(self._wake_out, b"!")

    # Control, for the loop

    def units(self) -> Sequence[UnitCapacity]:
        return self._units

    def launch(self, worker: str, spec: WorkerSpec) -> None:
        token = secrets.token_hex(16)
        self._tokens[token] = worker
        try:
            code = self._code_folder(spec.code)
            self._engine.submit(
                Launch(
                    key=worker,
                    argv=(spec.python, "-P", "-m", "fourfold.runner"),  # -P: its folder is no code
                    env={
                        **_passed_on(os.environ),
                        "FOURFOLD_HOME": str(self._home),
                        "FOURFOLD_CONTROL": str(socket_path(self._home)),
                        "FOURFOLD_WORKER_TOKEN": token,
                        "FOURFOLD_CODE": str(code),
                        "PYTHONHASHSEED": "0",  # a body that loops over a set makes the same calls again
                    },
                    cwd=spec.cwd,
                    resources=spec.resources,
                )
            )
        except Exception as error:  # whatever the engine says, the call learns it and may be tried again
            text = error.message if isinstance(error, FourfoldError) else str(error)
            self._arrived.append(Gone(worker, Exit(ExitKind.worker_lost, f"it could not be started: {text}")))
            self._wake()
            return
        self._launched[worker] = time.monotonic()

    def send(self, peer: str, header: dict[str, Any], parts: Sequence[bytes] = ()) -> None:
        found = self._peers.get(peer)
        if found is None:
            return
        data = memoryview(frames.encode(header, parts))
        if not found.unsent:
            try:
                data = data[found.socket.send(data) :]
            except BlockingIOError:
                pass
            except OSError:
                return  # its end is told by the read side
        if data:
            found.unsent.append(data)
            found.unsent_bytes += len(data)
            if found.unsent_bytes > _MOST_UNSENT:
                self._drop(found)
                return
            self._selector.modify(found.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, found)

    def stop_worker(self, worker: str, grace_s: float) -> None:
        """End a worker and all it started; takes as long as the grace."""
        with contextlib.suppress(Exception):
            self._engine.stop(worker, grace_s)
            self._engine.wait([worker], grace_s + _END_WITHIN_S)
        if worker not in self._peers:  # else its connection's end tells of it
            self._arrived.append(Gone(worker, Exit(ExitKind.cancelled, "it was stopped")))
            self._wake()

    # Peers

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except BlockingIOError:
                return
            connection.setblocking(False)
            self._selector.register(connection, selectors.EVENT_READ, _Peer(connection))

    def _receive(self, peer: _Peer) -> None:
        try:
            data = peer.socket.recv(1 << 18)
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

    def _take(self, peer: _Peer, header: dict[str, Any], parts: list[bytes]) -> None:
        if peer.name:
            self.loop.post(Message(peer.name, header, parts))
            return
        if header["type"] != "hello":
            self._drop(peer)
            return
        if header["role"] == "worker":
            worker = self._tokens.pop(header["token"], None)
            if worker is None:
                self._drop(peer)
                return
            peer.name = worker
            self._launched.pop(worker, None)
            self.loop.post(Joined(worker))
        else:
            self._client_count += 1
            peer.name = f"client_{self._client_count}"
        self._peers[peer.name] = peer

    def _flush(self, peer: _Peer) -> None:
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

    def _drop(self, peer: _Peer) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(peer.socket)
        peer.socket.close()
        if not peer.name or self._peers.pop(peer.name, None) is None:
            return
        if peer.name.startswith("client_"):
            self.loop.post(Gone(peer.name))
        else:
            self._pool.submit(self._find_out, peer.name)

    def _find_out(self, worker: str) -> None:
        """A worker's connection has ended: ask its engine how the process did."""
        ended: Exit | None = None
        with contextlib.suppress(Exception):
            status = self._engine.wait([worker], _END_WITHIN_S)[worker]
            if status.phase not in _OVER:  # it closed its connection but lives on
                self._engine.stop(worker, 0.0)
                status = self._engine.wait([worker], _END_WITHIN_S)[worker]
            ended = status.exit
        self._arrived.append(Gone(worker, ended or Exit(ExitKind.worker_lost, "its process ended")))
        self._wake()

    def _look_after_launched(self) -> None:
        """Workers that end, or take too long, before they ever connect."""
        now = time.monotonic()
        if not self._launched or now - self._looked_at < _LOOK_S:
            return
        self._looked_at = now
        for worker, status in self._engine.status(list(self._launched)).items():
            ended = status.exit
            is_late = now - self._launched[worker] > START_TIMEOUT_S
            if status.phase not in _OVER and not is_late:
                continue
            del self._launched[worker]
            reason = "it did not connect in time" if is_late else "it ended before it began"
            if ended is not None and ended.reason:
                reason += f" ({ended.reason})"
            with contextlib.suppress(Exception):
                text = self._engine.logs(worker).data.decode(errors="replace").strip()
                reason += f": {text[-500:]}" if text else ""
            if is_late:
                self._pool.submit(self._engine.stop, worker, 0.0)
            self._arrived.append(Gone(worker, Exit(ExitKind.worker_lost, reason)))
        while self._arrived:
            self.loop.post(self._arrived.popleft())


def _passed_on(environ: Mapping[str, str]) -> dict[str, str]:
    """What of our own environment a worker needs: the project's settings, and where code is found."""
    found = {
        name: value
        for name, value in environ.items()
        if name.startswith(ENVIRONMENT_PREFIX) and name.removeprefix(ENVIRONMENT_PREFIX) not in NOT_SETTINGS
    }
    return found | {name: environ[name] for name in ("PYTHONPATH",) if name in environ}


class _Hands:
    """The loop's hands: the owner's under the port's names. What takes time is done beside the loop."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self.units = owner.units
        self.launch = owner.launch
        self.send = owner.send

    def stop(self, worker: str, *, grace_s: float) -> None:
        self._owner._pool.submit(self._owner.stop_worker, worker, grace_s)  # noqa: SLF001 - one thing in two
