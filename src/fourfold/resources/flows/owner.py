"""The owner: the one process that turns a project's loop, and the socket over which others reach it.

Two things keep it alone. A file lock, which the system lets go when the process dies, decides who is the
owner here; and an epoch in the catalog, raised by each new owner and checked in each commit, keeps out
one that only slept. The socket lies in a folder that nobody else may enter.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fourfold.core.decide.place import Lease
from fourfold.core.decide.pools import gang_name, unit_name
from fourfold.core.decide.unit import left_to_engine
from fourfold.core.flows import Code
from fourfold.core.ports.clock import Clock
from fourfold.core.ports.control import Arrival, Away, Gone, Joined, Message, PoolView, PutOff, WorkerSpec
from fourfold.core.ports.engine import Capabilities, Launch
from fourfold.core.ports.flow_store import FlowStore
from fourfold.core.settings import ENVIRONMENT_PREFIX, NOT_SETTINGS
from fourfold.core.times import seconds_between
from fourfold.core.values import replace
from fourfold.resources.flows import secure
from fourfold.resources.flows.certificate import identity, secret
from fourfold.resources.flows.connection import private_folder, socket_path
from fourfold.resources.flows.crew import RunTimesOf, Settings
from fourfold.resources.flows.gangs import Gangs, worker_of
from fourfold.resources.flows.loop import Loop, Resolve
from fourfold.resources.flows.peers import FarDoor, Peers
from fourfold.resources.flows.starters import Brought, Starters
from fourfold.resources.pools.pool import OPEN_WITHIN_S, Pool, PoolPlan


@dataclass(frozen=True, slots=True)
class Far:
    """Where workers on other machines reach us."""

    host: str
    port: int
    address: str
    """`host:port` as they are told it."""
    away_s: float = 300.0
    """So long they wait for an owner before they end themselves."""


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


class Owner:
    """Turns the loop in a thread of its own, until `stop` or until another owner takes over.

    Make one only after `Lock.take()`; `start` recovers open runs and listens.
    """

    def __init__(
        self,
        *,
        home: Path,
        store: FlowStore,
        pools: Sequence[PoolPlan],
        clock: Clock,
        new_id: Callable[[str], str],
        code_folder: CodeFolder,
        lock: Lock,
        resolve: Resolve | None = None,
        step_code: Callable[[Any, str], str] | None = None,
        run_times: RunTimesOf | None = None,
        settings: Settings | None = None,
        is_firing: bool = False,
        far: Far | None = None,
        bundle: Callable[[Code], bytes] | None = None,
        brought: Brought | None = None,
        beside: Callable[[], Sequence[Lease]] | None = None,
    ) -> None:
        """`far` says how workers on other machines come in, `bundle` gives them their code, and `brought`
        what else they are brought where their machine has nothing. `beside` says what services hold of the
        pools' units."""
        self._home = home
        self._clock = clock
        self._code_folder = code_folder
        self._lock = lock
        self._at: dict[str, Pool] = {}
        self._specs: dict[str, WorkerSpec] = {}
        self._far, self._bundle, self._door = far, bundle, _door(home, far)
        self._beside = ThreadPoolExecutor(2, thread_name_prefix="fourfold-code")
        self._is_stopping = False
        self.fault: BaseException | None = None
        """Why the loop ended, when it was not asked to."""
        options: dict[str, Any] = {}
        if resolve is not None:
            options["resolve"] = resolve
        if step_code is not None:
            options["step_code"] = step_code
        if run_times is not None:
            options["run_times"] = run_times
        self.loop = Loop(
            store=store,
            control=_Hands(self),
            clock=clock,
            new_id=new_id,
            settings=settings or Settings(),
            beside=beside,
            **options,
        )
        self.loop.scheduler.is_firing = is_firing
        self._wake_in, self._wake_out = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._arrived: deque[Arrival | Callable[[], None]] = deque()
        self._pools = {plan.name: Pool(plan, self._reported) for plan in pools}
        self._starters = self._make_starters(brought)
        self.peers = Peers(
            self._heard,
            joined=self._joined,
            left=self._left,
            from_starter=None if self._starters is None else self._from_starter,
        )
        self._gangs = Gangs(post=self._to_loop, send=self.peers.send)
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
        try:
            self._open_pools([pool for pool in self._pools.values() if not pool.plan.outlives], ())
            self.loop.take_over(f"{socket.gethostname()}/{os.getpid()}")
            self._go_on_with_workers()
            self.peers.listen(socket_path(self._home))
            if self._door is not None:
                self.peers.listen_far(self._door)
            self.peers.wakes_with(self._wake_in)
            self._ready.set()
            while not self._is_stopping:
                self._once()
        except BaseException as error:
            self.fault = error
        finally:
            self._ready.set()
            self._close()

    def _open_pools(self, pools: Sequence[Pool], keep: Collection[str]) -> None:
        """Open pools at once, and end what is there but for `keep`; the slow ones join when they can."""
        opening: list[Future[None]] = [pool.open(keep) for pool in pools]
        deadline = time.monotonic() + OPEN_WITHIN_S
        for each in opening:
            with contextlib.suppress(TimeoutError):
                each.result(max(0.0, deadline - time.monotonic()))

    def _go_on_with_workers(self) -> None:
        """Workers that outlived the last owner are known again; what else it left on other machines ends."""
        kept = {worker.name: worker for worker in self.loop.workers}
        for name, worker in kept.items():
            self._at[name], self._specs[name] = self._pools[worker.spec.pool], worker.spec
            self._at[name].left(name)
            self._gangs.expect(name, worker.spec.nodes)
        self._open_pools([pool for pool in self._pools.values() if pool.plan.outlives], tuple(kept))

    def _once(self) -> None:
        self.loop.turn()
        for pool in self._pools.values():
            pool.look()
        due = self.loop.next_at()
        timeout = min(pool.looks_within_s for pool in self._pools.values())
        if due is not None:
            timeout = min(timeout, max(0.0, seconds_between(self._clock.now(), due)))
        elif self.loop.has_work:
            timeout = 0.0
        self.peers.wait(timeout)
        self._take_arrived()

    def _close(self) -> None:
        self.peers.close()
        busy = tuple(worker.name for worker in self.loop.workers if worker.task is not None)
        for pool in self._pools.values():
            pool.close(keep=busy if pool.plan.outlives else ())  # the next owner goes on with these
        self._beside.shutdown(wait=False, cancel_futures=True)
        for end in (self._wake_in, self._wake_out):
            os.close(end)
        self._lock.release()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(self._wake_out, b"!")

    # Control, for the loop

    def pools(self) -> Mapping[str, PoolView]:
        return {name: pool.view for name, pool in self._pools.items()}

    def launch(self, worker: str, spec: WorkerSpec) -> None:
        self._at[worker] = pool = self._pools[spec.pool]
        self._specs[worker] = spec
        self._gangs.expect(worker, spec.nodes)
        ways_in = self._ways_in(worker, is_far=pool.plan.outlives)

        def make(able: Capabilities) -> Launch:
            env = {
                **_passed_on(os.environ),
                "FOURFOLD_HOME": str(self._home),
                **ways_in,
                "FOURFOLD_CODE": str(self._code_folder(spec.code)),
                "PYTHONHASHSEED": "0",  # a body that loops over a set makes the same calls again
            }
            cwd = spec.cwd
            argv: tuple[str, ...] = (spec.python, "-P", "-m", "fourfold.runner")  # -P: its folder is no code
            starters = self._starters
            if starters is not None and (python := starters.python(pool.plan, able)):
                argv = starters.argv(python)
                env |= starters.environ(pool.plan, able)
                env.pop("PYTHONPATH", None)  # of this machine
                if not able.shares_files:
                    cwd = ""
            if spec.nodes > 1:
                env["FOURFOLD_NODES"] = str(spec.nodes)
            asked = left_to_engine(spec.resources, pool.plan.traits, pool.view.units)
            return Launch(worker, argv, env=env, cwd=cwd, resources=asked, nodes=spec.nodes)

        pool.launch(worker, make)

    def _ways_in(self, worker: str, *, is_far: bool) -> dict[str, str]:
        """What a worker needs to find us, and to show who it is."""
        if not is_far or self._door is None or self._far is None:
            return {
                "FOURFOLD_CONTROL": str(socket_path(self._home)),
                "FOURFOLD_WORKER_TOKEN": self.peers.expect(self._gangs.peers(worker)),
            }
        return {
            "FOURFOLD_CONTROL": f"tls://{self._far.address}",
            "FOURFOLD_WORKER_NAME": worker,
            "FOURFOLD_WORKER_TOKEN": secure.token_of(self._door.secret, worker),
            "FOURFOLD_WORKER_AWAY_S": f"{self._far.away_s:g}",
            "FOURFOLD_OWNER_CERTIFICATE": self._door.fingerprint,
        }

    def send(self, peer: str, header: dict[str, Any], parts: Sequence[bytes] = ()) -> None:
        self._gangs.send(peer, header, parts)

    def stop_worker(self, worker: str, *, grace_s: float) -> None:
        if (pool := self._at.get(worker)) is not None:
            # Where it is connected, its connection's end tells of it.
            peers = self._gangs.peers(worker)
            pool.stop(worker, grace_s, lambda: any(self.peers.has(peer) for peer in peers))

    # What happens to peers and pools

    def _heard(self, message: Message) -> None:
        """A frame from a peer: for the loop, unless a worker asks for its code."""
        spec = self._specs.get(worker_of(message.peer))
        if message.header["type"] == "code" and spec is not None and self._bundle is not None:
            self._beside.submit(self._tell_code, message.peer, spec.code, self._bundle)
        else:
            self._gangs.arrived(message)

    def _tell_code(self, worker: str, code: Code, bundle: Callable[[Code], bytes]) -> None:
        with contextlib.suppress(Exception):  # it asks again
            self._send_from_beside(worker, {"type": "code"}, [bundle(code)])

    def _send_from_beside(self, peer: str, header: dict[str, Any], parts: Sequence[bytes] = ()) -> None:
        """Send from another thread than the loop's."""
        self._arrived.append(lambda: self.peers.send(peer, header, parts))
        self._wake()

    def _make_starters(self, brought: Brought | None) -> Starters | None:
        if brought is None or self._door is None:
            return None
        return Starters(
            brought,
            installation=self._door.fingerprint[:32],
            send=self._send_from_beside,
            tell=self._reported,
            beside=self._beside,
        )

    def _from_starter(self, worker: str, message: Message) -> None:
        assert self._starters is not None
        self._starters.heard(message, worker, self._specs.get(worker), self._at.get(worker))

    def _joined(self, joined: Joined) -> None:
        self._gangs.arrived(joined)

    def _to_loop(self, arrival: Arrival) -> None:
        """Something for the loop. What joins tells where it is, by its engine's names, or is looked for."""
        if isinstance(arrival, Joined) and (pool := self._at.get(arrival.worker)) is not None:
            pool.joined(arrival.worker)
            told = [each.unit for each in arrival.ranks or (arrival,)]
            if all(told):
                unit = gang_name([unit_name(pool.plan.name, each) for each in told])
                arrival = replace(arrival, unit=unit)
            elif not arrival.ranks:
                pool.find_unit(arrival.worker)
        self.loop.post(arrival)

    def _left(self, peer: str, *, is_worker: bool, is_far: bool) -> None:
        """A connection has ended. Of a worker, its engine says how its process did."""
        if not is_worker:
            self.loop.post(Gone(peer))
        elif is_far:  # it goes on, and comes back, unless its engine says that it has ended
            if (pool := self._at.get(worker_of(peer))) is not None:
                pool.left(worker_of(peer))
            self._gangs.arrived(Away(peer))
        elif (pool := self._at.get(worker_of(peer))) is not None:
            pool.find_out(worker_of(peer))

    def _reported(self, arrival: Arrival) -> None:
        """A pool's thread tells something."""
        self._arrived.append(arrival)
        self._wake()

    def _take_arrived(self) -> None:
        while self._arrived:
            arrival = self._arrived.popleft()
            if callable(arrival):
                arrival()
                continue
            match arrival:
                case Gone(peer, _) | PutOff(peer, _):
                    self._at.pop(peer, None)
                    self._specs.pop(peer, None)
                    for each in self._gangs.peers(peer):
                        self.peers.forget(each)
                case _:
                    pass
            self._gangs.arrived(arrival)


def _door(home: Path, far: Far | None) -> FarDoor | None:
    """The way in for workers on other machines; its key and secret outlive this process, as they do."""
    if far is None:
        return None
    folder = home / "control"
    private_folder(folder)
    certificate, fingerprint = identity(folder)
    return FarDoor(far.host, far.port, secure.server_context(certificate), fingerprint, secret(folder))


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
        self.pools = owner.pools
        self.launch = owner.launch
        self.send = owner.send
        self.stop = owner.stop_worker
