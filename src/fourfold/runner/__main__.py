"""What every engine starts: connects to the control socket, carries out what it is sent, dies with it.

FOURFOLD_CONTROL=<socket> FOURFOLD_WORKER_TOKEN=<token> python -m fourfold.runner
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading

from fourfold.core.errors import FourfoldError
from fourfold.resources.flows.connection import PROTOCOL, Closed, Connection


def main() -> int:
    path, token = os.environ["FOURFOLD_CONTROL"], os.environ.pop("FOURFOLD_WORKER_TOKEN")
    try:
        connection = Connection(path)
    except FourfoldError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    threading.Thread(target=_die_with, args=(connection,), daemon=True).start()
    connection.send(
        {"type": "hello", "role": "worker", "token": token, "pid": os.getpid(), "protocol": PROTOCOL}
    )
    # Imported while the loop hears of us: these are what a task needs.
    from fourfold.runner.durable import Replaced
    from fourfold.runner.work import Worker

    worker = Worker(connection)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115 - a log is read while it grows
    try:
        while True:
            received = connection.receive()
            assert received is not None
            header, parts = received
            match header["type"]:
                case "task":
                    worker.perform(header, parts)
                case "ahead":
                    worker.expect(header, parts)
                case "exit":
                    return 0
                case _:
                    pass  # words about a task that is over
    except (Closed, Replaced):
        _end()
    return 0


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
