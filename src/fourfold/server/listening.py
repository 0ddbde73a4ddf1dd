"""Listening: the socket, the event loop, and a clean end on SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import logging.handlers
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from fourfold.core.errors import Refused

BACKLOG = 2048
LISTENS = "0A"
"""How Linux writes the state of a listening socket in /proc/net/tcp."""
GRACE_S = 10
"""How long running requests may go on after the order to stop."""
LOG_BYTES, LOG_FILES = 10 * 2**20, 3


def bind(host: str, port: int) -> socket.socket:
    """A bound socket; when somebody else has the port, the error says so and what to do."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)  # from now on the port is ours; clients wait until we answer
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            holder = holder_of(port)
            by = f"by {holder}" if holder else "by a process that this user may not see"
            raise Refused(
                f"port {port} of {host} is in use, {by}",
                ways_on=[
                    "take any free one: fourfold up --port 0, or set server.port in fourfold.toml",
                    f"or end what has it (see: ss -ltnp 'sport = :{port}')",
                ],
                port=port,
            ) from error
        if error.errno == errno.EACCES:
            raise Refused(
                f"port {port} may not be opened by this user",
                ways_on=["take one above 1023, such as --port 4040"],
            ) from error
        if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
            raise Refused(f"'{host}' is not an address of this machine", ways_on=["use 127.0.0.1"]) from error
        raise
    listener.set_inheritable(False)
    return listener


def holder_of(port: int, proc: Path = Path("/proc")) -> str:
    """Who listens on a TCP port here, such as `process 123 (python)`; empty where that is not told."""
    sockets = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (proc / "net" / table).read_text().splitlines()[1:]:
                cells = line.split()
                if cells[3] == LISTENS and int(cells[1].rpartition(":")[2], 16) == port:
                    sockets.add(f"socket:[{cells[9]}]")
    for file in proc.glob("[0-9]*/fd/*") if sockets else ():
        with contextlib.suppress(OSError):
            if os.readlink(file) in sockets:
                process = file.parent.parent
                return f"process {process.name} ({(process / 'comm').read_text().strip()})"
    return ""


def url_of(listener: socket.socket) -> str:
    """Where a bound socket is reached."""
    host, port = listener.getsockname()[:2]
    return f"http://{'[' + host + ']' if ':' in host else host}:{port}"


def listen(app: ASGIApp, listener: socket.socket, *, on_ready: Callable[[Callable[[], None]], None]) -> None:
    """Answer requests until SIGTERM, SIGINT, or the `stop` that `on_ready` is given.

    `on_ready` is called once requests are answered. A second signal does not wait for running requests.
    """
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
        backlog=BACKLOG,
    )
    server = _Server(config, on_ready)
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(server.serve(sockets=[listener]))


class _Server(uvicorn.Server):
    """uvicorn, which leaves the process to end as it would: we still have a loop and a gateway to stop."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[Callable[[], None]], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        signals = (signal.SIGINT, signal.SIGTERM)
        caught = []
        for each in signals:
            with contextlib.suppress(ValueError, RuntimeError):  # not in the main thread: a test
                loop.add_signal_handler(each, self._stop)
                caught.append(each)
        try:
            yield
        finally:
            for each in caught:
                loop.remove_signal_handler(each)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.should_exit:
            self._on_ready(self._stop)

    def _stop(self) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True


def log_to(path: Path) -> None:
    """Keep the log in a file of bounded size; what people must see at once also goes to stderr."""
    file = logging.handlers.RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=LOG_FILES, delay=True)
    file.setLevel(logging.INFO)
    terminal = logging.StreamHandler()
    terminal.setLevel(logging.ERROR)
    for handler in (file, terminal):
        handler.setFormatter(OneLine("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[file, terminal], force=True)


class OneLine(logging.Formatter):
    """A record cannot forge another: control characters of its message are escaped.

    >>> record = logging.LogRecord("x", logging.INFO, "", 0, "one%s", ("\\nERROR two\\x1b[31m",), None)
    >>> OneLine("%(message)s").format(record)
    'one\\\\nERROR two\\\\x1b[31m'
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        record.message = "".join(
            sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in record.message
        )
        return super().formatMessage(record)
