"""What every engine starts: connects to the control socket, carries out what it is sent, dies with it.

FOURFOLD_CONTROL=<socket> FOURFOLD_WORKER_TOKEN=<token> python -m fourfold.runner

With `tls://host:port` in the socket's place it is on another machine than the owner, and outlives the
connection (see `far.py`).
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from fourfold.core.errors import FourfoldError
from fourfold.resources.flows.connection import PROTOCOL, Closed, Connection
from fourfold.runner.ranks import taken_rank, tell_rank, told_of

if TYPE_CHECKING:
    from fourfold.core.frames import Header
    from fourfold.runner.work import Worker


def main() -> int:
    rank = taken_rank(os.environ)
    if os.environ["FOURFOLD_CONTROL"].startswith("tls://"):
        return _far(rank)
    path, token = os.environ["FOURFOLD_CONTROL"], os.environ.pop("FOURFOLD_WORKER_TOKEN")
    try:
        connection = Connection(path)
    except FourfoldError as error:
        sys.stderr.write(
            f"{error}\n  on another machine than the owner's: set [control] listen in fourfold.toml\n"
        )
        return 1
    threading.Thread(target=_die_with, args=(connection,), daemon=True).start()
    hello = {
        "type": "hello",
        "role": "worker",
        "token": token,
        "pid": os.getpid(),
        "protocol": PROTOCOL,
        "unit": os.environ.get("FOURFOLD_UNIT", ""),
    }
    connection.send(hello if rank is None else {**hello, **told_of(rank, os.environ)})
    # Imported while the loop hears of us: these are what a task needs.
    from fourfold.runner.durable import Replaced
    from fourfold.runner.work import Worker

    worker = Worker(connection, rank=rank)
    try:
        _work(worker, connection.receive, rank)
    except (Closed, Replaced):
        _end()
    return 0


def _far(rank: int | None) -> int:
    """The same on another machine than the owner's."""
    from fourfold.runner.far import FarConnection, end_all

    environ = os.environ
    host, _, port = environ["FOURFOLD_CONTROL"].removeprefix("tls://").rpartition(":")
    connection = FarConnection(
        (host.strip("[]"), int(port)),
        worker=environ["FOURFOLD_WORKER_NAME"],
        token=environ.pop("FOURFOLD_WORKER_TOKEN"),
        certificate=environ["FOURFOLD_OWNER_CERTIFICATE"],
        away_s=float(environ["FOURFOLD_WORKER_AWAY_S"]),
        end=end_all,
        unit=environ.get("FOURFOLD_UNIT", ""),
        more={} if rank is None else told_of(rank, environ),
    )
    from fourfold.runner.work import Worker

    _work(Worker(connection, fetch=connection.code, rank=rank), connection.receive, rank)
    return 0


def _work(worker: Worker, receive: Callable[[], tuple[Header, list[bytes]] | None], rank: int | None) -> None:
    """Carry out what comes, until the word to end."""
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115 - a log is read while it grows
    if rank is not None:
        tell_rank(rank)
    while True:
        received = receive()
        assert received is not None
        header, parts = received
        match header["type"]:
            case "task":
                worker.perform(header, parts)
            case "ahead":
                worker.expect(header, parts)
            case "welcome":
                worker.forget_ahead()
            case "exit":
                return
            case _:
                pass  # words about a task that is over


def _die_with(connection: Connection) -> None:
    """End this process, and what it started, as soon as the control process is gone."""
    poll = select.poll()
    poll.register(connection.fileno(), getattr(select, "POLLRDHUP", select.POLLHUP))
    while not poll.poll():
        pass
    _end()


def _end() -> None:
    if os.getpgrp() == os.getpid():  # we lead our group: take along what steps started
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
