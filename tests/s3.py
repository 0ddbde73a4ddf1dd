"""S3 over HTTP for tests: two real servers, and a proxy that does to them what networks do."""

from __future__ import annotations

import http.client
import itertools
import select
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

START_S = 60
MOTO = """
import logging, sys
from moto.server import ThreadedMotoServer
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""
LOCALBUCKET = """
import sys, threading
from pathlib import Path
from http.server import ThreadingHTTPServer
from localbucket import S3Handler
handler = type("Handler", (S3Handler,), {"data_root": Path(sys.argv[1])})
server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_port, flush=True)
sys.stdin.read()
"""
"""Both end when their standard input does: with the test's process, however that ends."""

_numbers = itertools.count()


@contextmanager
def serving(program: str, *arguments: str) -> Iterator[str]:
    """Run a server that prints its port, and give its endpoint."""
    command = [sys.executable, "-c", program, *arguments]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        ready, _, _ = select.select([process.stdout], [], [], START_S)
        port = process.stdout.readline().strip() if ready else b""
        assert port, "the S3 server did not start"
        yield f"http://127.0.0.1:{port.decode()}"
    finally:
        process.stdin.close()
        process.kill()
        process.wait(START_S)
        process.stdout.close()


def fresh_bucket(endpoint: str) -> str:
    """Make an empty bucket of a new name."""
    name = f"bucket-{next(_numbers)}-{threading.get_native_id()}"
    request = urllib.request.Request(f"{endpoint}/{name}", method="PUT")
    with urllib.request.urlopen(request, timeout=START_S) as answer:
        assert answer.status == 200
    return name


@dataclass(frozen=True)
class Asked:
    """One request that came to the proxy."""

    number: int
    method: str
    path: str
    """With the query."""
    headers: dict[str, str]
    body: bytes

    @property
    def range(self) -> str:
        return self.headers.get("range", "")


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    cut: int | None = None
    """After how many bytes of the body the connection breaks."""


def refusal(status: int, code: str) -> Answer:
    """An error as S3 words it."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>"
    return Answer(status, {"Content-Type": "application/xml"}, body.encode())


Ask = Callable[[Asked], Answer]
Plan = Callable[[Asked, Ask], Answer | None]
"""What happens to a request: `ask` passes it on; None breaks the connection without an answer."""


@dataclass
class Proxy:
    """Stands before a real server. `plan` decides about each request; without one all pass."""

    upstream: str
    plan: Plan | None = None
    asked: list[Asked] = field(default_factory=list)
    endpoint: str = ""
    _server: ThreadingHTTPServer | None = None

    def __enter__(self) -> Proxy:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                proxy._handle(self)

            def log_message(self, *_: Any) -> None: ...

        for method in ("GET", "PUT", "POST", "HEAD", "DELETE"):
            setattr(Handler, f"do_{method}", Handler.handle_any)

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None: ...

        self._server = Server(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.vanish()

    def vanish(self) -> None:
        """Close the port: from now on nobody is there."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def paths(self, method: str) -> list[str]:
        return [each.path for each in self.asked if each.method == method]

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        asked = Asked(len(self.asked), handler.command, handler.path, headers, body)
        self.asked.append(asked)
        answer = self.plan(asked, self._pass) if self.plan else self._pass(asked)
        if answer is None or self._server is None:
            handler.close_connection = True
            handler.connection.shutdown(socket.SHUT_RDWR)
            return
        handler.send_response(answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in {"content-length", "transfer-encoding", "connection", "server", "date"}:
                handler.send_header(name, value)
        length = answer.headers.get("Content-Length") if handler.command == "HEAD" else None
        handler.send_header("Content-Length", length or str(len(answer.body)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(answer.body[: answer.cut])
        if answer.cut is not None:
            handler.wfile.flush()
            handler.close_connection = True
            handler.connection.shutdown(socket.SHUT_RDWR)

    def _pass(self, asked: Asked) -> Answer:
        host = self.upstream.removeprefix("http://")
        connection = http.client.HTTPConnection(host, timeout=START_S)
        try:
            connection.request(asked.method, asked.path, asked.body, asked.headers)
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()
