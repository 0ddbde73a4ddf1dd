"""Reaching the owner: connect to it, or become it.

Whoever needs the loop first becomes its owner; others send it their words. When the owner dies, the next
one who asks or waits takes over. Words are safe to send again: each carries a key where it matters.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fourfold.core.errors import Conflict, Defect, Refused, Unavailable, from_code
from fourfold.core.ports.flow_store import Fenced
from fourfold.resources.flows.connection import PROTOCOL, Closed, Connection, socket_path
from fourfold.resources.flows.owner import Lock, Owner

PATIENCE_S = 30.0
"""So long is an owner awaited that holds the lock but does not listen yet."""
_PAUSE_S = 0.02

MakeOwner = Callable[[Lock, bool], Owner]
"""Makes this process the owner, given the lock; whether it fires schedules."""


class Client:
    """One process's way to the owner of a project."""

    def __init__(self, home: Path, make_owner: MakeOwner) -> None:
        self._home = home
        self._make_owner = make_owner
        self._owner: Owner | None = None
        self._owning = threading.Lock()

    def ask(self, header: dict[str, Any]) -> dict[str, Any]:
        """Send a word and return the answer. Sent again when the owner dies before it answers."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            connection = self._connect()
            try:
                return _ask(connection, header)
            except Closed:
                if time.monotonic() > deadline:
                    raise Unavailable("the owner of this project's flows died again and again") from None
            finally:
                connection.close()

    def ask_if_owned(self, header: dict[str, Any]) -> dict[str, Any] | None:
        """The answer of the owner, if there is one now; never becomes the owner."""
        try:
            connection = self._open()
        except (Unavailable, Closed):
            return None
        try:
            return _ask(connection, header)
        except Closed:
            return None
        finally:
            connection.close()

    def follow(
        self, run: str, timeout_s: float | None = None, *, with_events: bool = False
    ) -> Iterator[dict[str, Any]]:
        """Frames about a run, until it has ended or the time is over; across owners.

        The first frame of each owner is its answer to `watch`, so that the caller looks at what it missed.
        The last is `ended`, where an owner saw the end; `with_events` brings `events` frames in between.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            connection = self._connect()
            try:
                connection.send({"type": "watch", "id": 1, "run": run, "with_events": with_events})
                while True:
                    left = None if deadline is None else deadline - time.monotonic()
                    if left is not None and left <= 0:
                        return
                    received = connection.receive(left)
                    if received is None:
                        return
                    header, _ = received
                    yield header
                    if header["type"] == "ended" or header.get("is_open") is False:
                        return
            except Closed:
                continue  # the owner died: the next one is asked, or made here
            finally:
                connection.close()

    def own(self, *, is_firing: bool) -> Owner:
        """Become the owner, or refuse because another process is."""
        with self._owning:
            if self._owner is not None and self._owner.is_alive:
                self._owner.loop.scheduler.is_firing = is_firing
                return self._owner
            lock = Lock(self._home)
            if not lock.take():
                raise Conflict(
                    f"{lock.holder()} runs this project's loop already; there is one at a time",
                    ways_on=["stop it first (another `fourfold up`, or a script that waits for its flow)"],
                )
            return self._start(lock, is_firing=is_firing)

    def close(self) -> None:
        """Stop owning, if we do."""
        with self._owning:
            owner, self._owner = self._owner, None
        if owner is not None:
            atexit.unregister(self.close)
            owner.stop()

    def _connect(self) -> Connection:
        """A connection to the owner; this process becomes it if nobody is."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return self._open()
            except (Unavailable, Closed) as error:
                with self._owning:
                    if self._owner is not None and not self._owner.is_alive:
                        fault, self._owner = self._owner.fault, None
                        if fault is not None and not isinstance(fault, Fenced):
                            raise Defect(f"the loop stopped: {fault}") from fault
                    lock = Lock(self._home)
                    if self._owner is None and lock.take():
                        self._start(lock, is_firing=False)
                        continue
                if time.monotonic() > deadline:
                    raise Unavailable(
                        f"{Lock(self._home).holder()} holds this project's loop but does not answer",
                        ways_on=["if it hangs, end it: the next process goes on with all runs"],
                    ) from error
                time.sleep(_PAUSE_S)  # it is about to listen, or about to let the lock go

    def _open(self) -> Connection:
        connection = Connection(socket_path(self._home))
        connection.send({"type": "hello", "role": "client", "protocol": PROTOCOL})
        return connection

    def _start(self, lock: Lock, *, is_firing: bool) -> Owner:
        try:
            owner = self._make_owner(lock, is_firing)
            owner.start()
        except BaseException:
            lock.release()
            raise
        self._owner = owner
        atexit.register(self.close)
        return owner


def _ask(connection: Connection, header: dict[str, Any]) -> dict[str, Any]:
    connection.send({**header, "id": 1})
    while True:
        received = connection.receive()
        assert received is not None
        answer, _ = received
        if answer["type"] == "refused":
            raise Refused(
                f"the owner of this project's flows refused us: {answer['reason']}",
                ways_on=["let all processes of the project run the same version of Fourfold"],
            )
        if answer["type"] != "reply":
            continue
        if (told := answer.get("error")) is not None:
            raise from_code(told["code"], told["message"], told["ways_on"], told["facts"])
        return answer
