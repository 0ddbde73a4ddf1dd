"""Ray's REST APIs as we use them: bounded answers within a bounded time, and errors in our words."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from fourfold.adapters.ray.settings import TOKEN, RaySettings
from fourfold.core.errors import Refused, TooMuch, Unauthenticated, Unavailable

CONNECT_S = 5.0
MOST_ANSWER_BYTES = 256 << 20
MOST_NODES = 10_000
IDLE_CONNECTIONS = 4
SHOWN_CHARACTERS = 400


class RayApi:
    """A cluster's Jobs API and state API. May be used from several threads.

    The token is read anew for each new connection, so that a rotated one is found.
    """

    def __init__(self, settings: RaySettings) -> None:
        self._settings = settings
        parts = urlsplit(settings.url)
        self._host, self._port, self._base = parts.hostname or "", parts.port, parts.path
        self._is_tls = parts.scheme == "https"
        self._idle: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    # Jobs.

    def submit(self, request: Mapping[str, object]) -> None:
        """Submit a job. A second one with the same `submission_id` starts nothing, and is no error."""
        status, answer = self._ask("POST", "/api/jobs/", body=json.dumps(request).encode())
        if status < 300:
            return
        text = _text(answer)
        if "already exists" in text or self.job(str(request["submission_id"])) is not None:
            return
        if status in (400, 422):
            raise Refused(
                f"the Ray cluster at {self._settings.url} refused the job: {_last_line(text)}",
                ways_on=["the cluster needs Ray 2.30 or newer"],
            )
        raise self._failed(status, text)

    def job(self, submission_id: str) -> dict[str, Any] | None:
        """What Ray knows of one job; None when it knows none."""
        status, answer = self._ask("GET", f"/api/jobs/{quote(submission_id, safe='')}")
        if status == 404:
            return None
        found = self._json(status, answer)
        return found if isinstance(found, dict) else None

    def jobs(self) -> dict[str, dict[str, Any]]:
        """All jobs of the cluster in one call, by submission id."""
        status, answer = self._ask("GET", "/api/jobs/")
        found = self._json(status, answer)
        if not isinstance(found, list):
            raise self._foreign(answer)
        return {job["submission_id"]: job for job in found if job.get("submission_id")}

    def stop(self, submission_id: str) -> None:
        """Ask a job to stop; one that has ended, or that nobody knows, needs nothing."""
        status, answer = self._ask("POST", f"/api/jobs/{quote(submission_id, safe='')}/stop", body=b"")
        if status >= 300 and status != 404:
            raise self._failed(status, _text(answer))

    def delete(self, submission_id: str) -> None:
        """Forget a job that has ended."""
        self._ask("DELETE", f"/api/jobs/{quote(submission_id, safe='')}")

    # Packages: files for the nodes, by the digest of their content.

    def has_package(self, name: str) -> bool:
        """Whether the cluster has it; if so, Ray keeps it for some minutes more."""
        status, answer = self._ask("GET", f"/api/packages/gcs/{name}")
        if status not in (200, 404):
            raise self._failed(status, _text(answer))
        return status == 200

    def put_package(self, name: str, data: bytes) -> None:
        status, answer = self._ask("PUT", f"/api/packages/gcs/{name}", body=data)
        if status >= 300:
            raise self._failed(status, _text(answer))

    # Nodes, and files in their folders of logs.

    def nodes(self) -> list[dict[str, Any]]:
        """All nodes that the cluster remembers, dead ones too."""
        status, answer = self._ask("GET", f"/api/v0/nodes?limit={MOST_NODES}")
        found = self._json(status, answer)
        try:
            return [dict(node) for node in found["data"]["result"]["result"]]
        except (KeyError, TypeError) as error:
            raise self._foreign(answer) from error

    def file(self, node_id: str, path: str) -> bytes | None:
        """A file below a node's folder of logs; None when it, or the node, is not there."""
        query = urlencode({"node_id": node_id, "filename": path, "lines": -1})
        status, answer = self._ask("GET", f"/api/v0/logs/file?{query}")
        if status == 200:
            return answer
        text = _text(answer)
        if "not found" in text or "doesn't exist" in text or status == 404:
            return None
        raise self._failed(status, text)

    # How.

    def _ask(self, verb: str, path: str, *, body: bytes | None = None) -> tuple[int, bytes]:
        deadline = time.monotonic() + self._settings.timeout_s
        is_used, connection = self._take()
        try:
            while True:
                try:
                    return self._once(connection, verb, path, body, deadline)
                except (ConnectionError, http.client.BadStatusLine) as error:
                    # A kept connection may be dead. Everything here may be sent twice.
                    if not is_used or isinstance(error, TimeoutError):
                        raise
                    connection.close()
                    is_used, connection = False, self._new()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            said = str(error) or type(error).__name__
            if isinstance(error, TimeoutError):
                said = f"no answer within {self._settings.timeout_s:g} s"
            raise Unavailable(
                f"the Ray cluster at {self._settings.url} does not answer: {said}",
                ways_on=[
                    "is its head up, and is this the address of its dashboard (port 8265)?",
                    "it is asked again; what was submitted is not lost",
                ],
            ) from error

    def _once(
        self,
        connection: http.client.HTTPConnection,
        verb: str,
        path: str,
        body: bytes | None,
        deadline: float,
    ) -> tuple[int, bytes]:
        if connection.sock is None:
            connection.connect()
        headers = {"Accept": "application/json"}
        if token := self._settings.token(os.environ):
            headers["Authorization"] = f"Bearer {token}"
        if body is not None:
            headers["Content-Type"] = "application/json"
        connection.sock.settimeout(_left(deadline))
        connection.request(verb, self._base + path, body=body, headers=headers)
        response = connection.getresponse()
        pieces, size = [], 0
        while piece := response.read1(1 << 20):
            pieces.append(piece)
            size += len(piece)
            if size > MOST_ANSWER_BYTES:
                connection.close()
                raise TooMuch(
                    f"the Ray cluster at {self._settings.url} answered more than {MOST_ANSWER_BYTES} bytes"
                )
            if connection.sock is not None:
                connection.sock.settimeout(_left(deadline))
        answer = b"".join(pieces)
        response.close()
        self._give_back(connection)
        if response.status in (401, 403):
            raise self._denied(response.status, is_sent=bool(token))
        return response.status, answer

    def _denied(self, status: int, *, is_sent: bool) -> Unauthenticated:
        settings = self._settings
        place = (
            f"the variable {settings.token_env}"
            if settings.token_env
            else f"the file {settings.token_file}"
            if settings.token_file
            else f"{TOKEN}, or ~/.ray/auth_token"
        )
        said = "does not accept the token" if is_sent else "asks for a token, and none is set"
        return Unauthenticated(
            f"the Ray cluster at {settings.url} {said} (HTTP {status})",
            ways_on=[
                f"put the cluster's token into {place}",
                "the cluster's own is its RAY_AUTH_TOKEN, or what `ray get-auth-token` prints on its head",
            ],
        )

    def _json(self, status: int, answer: bytes) -> Any:
        if status >= 300:
            raise self._failed(status, _text(answer))
        try:
            return json.loads(answer)
        except ValueError as error:
            raise self._foreign(answer) from error

    def _failed(self, status: int, text: str) -> Unavailable:
        return Unavailable(
            f"the Ray cluster at {self._settings.url} answered {status}: {_last_line(text)}",
            ways_on=["it is asked again; if it stays, look into dashboard.log on the cluster's head"],
        )

    def _foreign(self, answer: bytes) -> Unavailable:
        begin = _text(answer)[:80].replace("\n", " ")
        return Unavailable(
            f"what answers at {self._settings.url} does not speak Ray's Jobs API: {begin!r}",
            ways_on=["is this the address of the cluster's dashboard (port 8265)?"],
        )

    def _take(self) -> tuple[bool, http.client.HTTPConnection]:
        with self._lock:
            if self._idle:
                return True, self._idle.pop()
        return False, self._new()

    def _give_back(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if connection.sock is not None and len(self._idle) < IDLE_CONNECTIONS:
                self._idle.append(connection)
                return
        with contextlib.suppress(OSError):
            connection.close()

    def _new(self) -> http.client.HTTPConnection:
        timeout_s = min(CONNECT_S, self._settings.timeout_s)
        make: Callable[..., http.client.HTTPConnection] = http.client.HTTPConnection
        if self._is_tls:
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(self._host, self._port, timeout=timeout_s, context=context)
        return make(self._host, self._port, timeout=timeout_s)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _text(answer: bytes) -> str:
    return answer.decode("utf-8", "replace")


def _last_line(text: str) -> str:
    """Ray answers with Python's tracebacks: their last line says what it is."""
    lines = [line.strip() for line in text.splitlines() if line.strip(" .")]
    return lines[-1][:SHOWN_CHARACTERS] if lines else "(nothing)"
