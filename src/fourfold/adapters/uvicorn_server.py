"""ASGI over HTTP by uvicorn, with uvloop and httptools where they are installed."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from fourfold.core.errors import Refused
from fourfold.core.ports.gateway import Asgi

BACKLOG = 2048
KEEP_ALIVE_S = 75
CONNECTIONS_MAX = 4096
"""Requests and connections at once; beyond it 503 is answered at once."""
STOP_S = 10
"""How long requests that have begun may take when the server stops."""


class UvicornServer:
    """Serves one application in the present event loop."""

    def __init__(self) -> None:
        self._server: _Server | None = None
        self._stop_asked = False

    async def serve(
        self, app: Asgi, *, host: str, port: int, on_listening: Callable[[str, int], Awaitable[None]]
    ) -> None:
        listener = _listen(host, port)
        self._server = server = _Server(_config(app))
        try:
            # The socket accepts already: who connects now waits until the application answers.
            await on_listening(host, listener.getsockname()[1])
            if self._stop_asked:
                return
            await server.serve(sockets=[listener])
        finally:
            listener.close()

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=_config(_nothing).get_loop_factory()) as runner:
            runner.run(main)

    def stop(self) -> None:
        self._stop_asked = True
        if self._server is not None:
            self._server.should_exit = True


class _Server(uvicorn.Server):
    """uvicorn without its hold on the process's signals: whoever runs us decides about these."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _config(app: Asgi) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        lifespan="off",
        access_log=False,
        log_config=None,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=STOP_S,
        limit_concurrency=CONNECTIONS_MAX,
        server_header=False,
        date_header=False,
        ws="none",
    )


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    del scope, receive, send


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Connections inherit it. Without it an answer of two packets waits 40 ms for an acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise Refused(
                f"port {port} of {host} is in use",
                ways_on=[
                    "choose another one, or 0 for any that is free",
                    f"see who: ss -ltnp 'sport = :{port}'",
                ],
                port=port,
            ) from error
        raise Refused(f"cannot listen on {host}:{port}: {error.strerror}", port=port) from error
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener
