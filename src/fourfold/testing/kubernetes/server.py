"""The API server on the wire: HTTP/1.1, bearer tokens, streams, and the faults that a test asks for."""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from fourfold.testing.kubernetes.api import DISCOVERY, Api, Request, Target
from fourfold.testing.kubernetes.errors import ApiError, bad_request
from fourfold.testing.kubernetes.faults import Fault
from fourfold.testing.kubernetes.kinds import POD
from fourfold.testing.kubernetes.store import Store

LONGEST_WATCH_S = 1800.0
MOST_BODY_BYTES = 3 << 20
PIECE_BYTES = 1 << 16
HANDSHAKE_S = 10.0


class ApiServer:
    """Serves an `Api` on a port of this machine, until it is closed."""

    def __init__(
        self,
        api: Api,
        store: Store,
        log: Callable[[str], Path],
        *,
        tokens: frozenset[str],
        fault: Callable[[str, str], Fault | None],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`log` finds a pod's output by its uid. `fault` is asked before each request, by verb and path."""
        self.api, self.store, self.log, self.tokens, self.fault = api, store, log, tokens, fault
        self.closing = threading.Event()
        self.asked: list[str] = []

        class Handler(_Handler):
            server_of = self

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_: object) -> None:
                """A client that has gone, or was cut off."""

            def finish_request(self, request: Any, client_address: Any) -> None:
                # The handshake is the client's own thread's: one that says nothing holds up nobody.
                if tls is None:
                    super().finish_request(request, client_address)
                    return
                request.settimeout(HANDSHAKE_S)
                with tls.wrap_socket(request, server_side=True) as secured:
                    secured.settimeout(None)
                    super().finish_request(secured, client_address)

        self._server = Server(("127.0.0.1", 0), Handler)
        scheme = "http" if tls is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()


class _Cut(Exception):
    """The connection is to end here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_of: ApiServer

    def _serve(self) -> None:
        of = self.server_of
        size = int(self.headers.get("Content-Length") or 0)
        if size > MOST_BODY_BYTES:
            self.close_connection = True
            return self._refuse(ApiError(413, "RequestEntityTooLarge", "Request entity too large"))
        body = self.rfile.read(size)
        fault = of.fault(self.command, self.path) or Fault()
        of.asked.append(f"{self.command} {self.path}")
        try:
            if fault.hangs:
                self._until_gone()
            if fault.cut_before:
                raise _Cut
            if fault.status:
                raise ApiError(fault.status, "Fault", fault.message, headers=fault.headers)
            self._answer(body, fault)
        except ApiError as error:
            self._refuse(error)
        except (_Cut, OSError):
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.close()
        return None

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815 - the library's names

    def _answer(self, body: bytes, fault: Fault) -> None:
        of = self.server_of
        parts = urlsplit(self.path)
        path = parts.path.rstrip("/")
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        if path not in DISCOVERY:
            self._authenticate()
        found = of.api.discovery(path) if self.command == "GET" else None
        if found is not None:
            return self._send(200, found, fault)
        target = of.api.target(path)
        type_ = self.headers.get("Content-Type") or "application/json"
        request = Request(self.command, path, query, body, type_)
        if self.command == "POST" and "json" not in type_:
            raise ApiError(
                415, "UnsupportedMediaType", f"the body of the request was in {type_!r}: JSON only"
            )
        if target.sub == "log":
            return self._send_log(request, target, fault)
        if self.command == "GET" and query.get("watch") in ("true", "1"):
            return self._send_watch(request, target, fault)
        status, answer = of.api.answer(request, target)
        return self._send(status, answer, fault)

    def _authenticate(self) -> None:
        if isinstance(self.connection, ssl.SSLSocket) and self.connection.getpeercert():
            return  # a certificate that our authority has signed
        word = self.headers.get("Authorization", "")
        if word.removeprefix("Bearer ") not in self.server_of.tokens or not word.startswith("Bearer "):
            raise ApiError(401, "Unauthorized", "Unauthorized")

    def _send(self, status: int, answer: Any, fault: Fault, headers: Mapping[str, str] | None = None) -> None:
        if fault.loses_answer:
            raise _Cut
        is_text = isinstance(answer, str)
        data = answer.encode() if is_text else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if is_text else "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if fault.cut_after is not None:
            self.wfile.write(data[: fault.cut_after])
            raise _Cut
        self.wfile.write(data)

    def _refuse(self, error: ApiError) -> None:
        with contextlib.suppress(OSError):
            self._send(error.code, error.status, Fault(), error.headers)

    def _send_watch(self, request: Request, target: Target, fault: Fault) -> None:
        of, query = self.server_of, request.query
        if query.get("sendInitialEvents") == "true":
            message = "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled"
            raise ApiError(422, "Invalid", message)
        named = query.get("resourceVersion", "").strip("0")
        try:
            since = int(named) if named else of.store.version
        except ValueError as error:
            raise bad_request(f"Invalid resource version: {named!r}") from error
        until = time.monotonic() + min(LONGEST_WATCH_S, float(query.get("timeoutSeconds") or LONGEST_WATCH_S))
        changes = of.store.watch(target.kind, target.namespace, since, until, of.closing.is_set)
        self._begin_stream("application/json")
        told = 0
        for event in of.api.watched(request, target, changes):
            if fault.cut_after is not None and told >= fault.cut_after:
                raise _Cut
            if event is None:
                continue
            self._piece(json.dumps(event).encode() + b"\n")
            told += event["type"] != "BOOKMARK"
        self._end_stream()

    def _send_log(self, request: Request, target: Target, fault: Fault) -> None:
        of, query = self.server_of, request.query
        if query.get("timestamps") == "true" or query.get("previous") == "true":
            raise bad_request("this small Kubernetes keeps no timestamps and no earlier output")
        pod = of.store.get(POD, target.namespace, target.name)
        container = (pod["status"].get("containerStatuses") or [{}])[0]
        state = container.get("state") or {}
        if "waiting" in state or not state:
            name = pod["spec"]["containers"][0]["name"]
            why = (state.get("waiting") or {"reason": "ContainerCreating"})["reason"]
            raise bad_request(f'container "{name}" in pod "{target.name}" is waiting to start: {why}')
        limit = int(query["limitBytes"]) if query.get("limitBytes") else None
        self._begin_stream("text/plain")
        sent = 0
        for piece in self._log(pod, query):
            part = piece if limit is None else piece[: limit - sent]
            if fault.cut_after is not None and sent + len(part) > fault.cut_after:
                self._piece(part[: fault.cut_after - sent])
                raise _Cut
            self._piece(part)
            sent += len(part)
            if limit is not None and sent >= limit:
                break
        self._end_stream()

    def _log(self, pod: Mapping[str, Any], query: Mapping[str, str]) -> Iterator[bytes]:
        of, metadata = self.server_of, pod["metadata"]
        path = of.log(metadata["uid"])
        follows = query.get("follow") in ("true", "1")
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            if (lines := query.get("tailLines")) is not None:
                data = file.read().splitlines(keepends=True)
                yield b"".join(data[len(data) - int(lines) :] if int(lines) else [])
            while not of.closing.is_set():
                now = of.store.find(POD, metadata["namespace"], metadata["name"])
                is_live = now is not None and now["metadata"]["uid"] == metadata["uid"]
                is_over = not is_live or (now or {})["status"].get("phase") in ("Succeeded", "Failed")
                while piece := file.read(PIECE_BYTES):
                    yield piece
                if is_over or not follows:
                    return
                time.sleep(0.02)

    def _begin_stream(self, type_: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", type_)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _piece(self, data: bytes) -> None:
        if data:
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def _end_stream(self) -> None:
        self.wfile.write(b"0\r\n\r\n")

    def _until_gone(self) -> None:
        """Say nothing; the client gives up, or the cluster is closed."""
        self.connection.settimeout(0.1)
        while not self.server_of.closing.is_set():
            with contextlib.suppress(TimeoutError):
                if not self.connection.recv(1):
                    break
        raise _Cut

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""
