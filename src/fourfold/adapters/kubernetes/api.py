"""Kubernetes' API as we use it: bounded answers within a bounded time, and errors in our words."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from fourfold.adapters.kubernetes.access import Access
from fourfold.core.errors import Denied, FourfoldError, Refused, TooMuch, Unauthenticated, Unavailable

PAGE = 500
"""So many objects are asked for at once."""
MOST_ANSWER_BYTES = 64 << 20
MOST_LINE_BYTES = 8 << 20
IDLE_CONNECTIONS = 4
RETRIED = frozenset({429, 500, 502, 503, 504})
FIRST_PAUSE_S = 0.1
TRIES = 4
SHOWN_CHARACTERS = 400
MERGE = "application/merge-patch+json"


class Expired(FourfoldError):
    """A version of the cluster's history that it no longer has (410): list again."""

    code = "unavailable"


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: Any

    @property
    def reason(self) -> str:
        return str(self.body.get("reason") or "") if isinstance(self.body, dict) else ""

    @property
    def message(self) -> str:
        said = self.body.get("message") if isinstance(self.body, dict) else self.body
        return " ".join(str(said or "").split())[:SHOWN_CHARACTERS] or f"status {self.status}"


class KubeApi:
    """Calls to one cluster. May be used from several threads."""

    def __init__(self, access: Access, timeout_s: float) -> None:
        self._access = access
        self._timeout_s = timeout_s
        parts = urlsplit(access.url)
        self._host, self._base = parts.hostname or "", parts.path.rstrip("/")
        self._port = parts.port or (443 if access.is_tls else 80)
        self._idle: list[http.client.HTTPConnection] = []
        self._streams: set[http.client.HTTPConnection] = set()
        self._lock = threading.Lock()
        self._is_closed = False

    @property
    def url(self) -> str:
        return self._access.url

    def close(self) -> None:
        """Let go of all connections; streams end."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
            streams = list(self._streams)
        for connection in idle:
            connection.close()
        for connection in streams:
            _hang_up(connection)

    # Objects.

    def get(self, path: str) -> Any | None:
        """An object; None where it is not there."""
        answer = self.ask("GET", path)
        return None if answer.status == 404 else self.good(answer)

    def list(self, path: str, selector: str = "") -> tuple[list[dict[str, Any]], str]:
        """All objects, by pages, and the version of the cluster that they are of."""
        found: list[dict[str, Any]] = []
        token = ""
        while True:
            query: dict[str, object] = {"limit": PAGE, **({"labelSelector": selector} if selector else {})}
            answer = self.ask("GET", path, query=query | ({"continue": token} if token else {}))
            if answer.status == 410 and token:  # the pages are of one moment, and it has passed
                found, token = [], ""
                continue
            body = self.good(answer)
            if not isinstance(body, dict) or not isinstance(body.get("items"), list):
                raise self._foreign()
            found += body["items"]
            metadata = body.get("metadata") or {}
            token = str(metadata.get("continue") or "")
            if not token:
                return found, str(metadata.get("resourceVersion") or "")

    def create(self, path: str, body: Mapping[str, Any]) -> Answer:
        """Create an object; the caller reads the status: 409 is that it is there."""
        return self.ask("POST", path, body=body, query={"fieldValidation": "Strict"})

    def patch(self, path: str, change: Mapping[str, Any]) -> Any | None:
        """Merge a change into an object; None where it is not there."""
        answer = self.ask("PATCH", path, body=change, content_type=MERGE)
        return None if answer.status == 404 else self.good(answer)

    def delete(self, path: str, **options: object) -> None:
        """Delete an object; one that is gone needs nothing."""
        answer = self.ask("DELETE", path, body={"kind": "DeleteOptions", "apiVersion": "v1", **options})
        if answer.status not in (404, 409):
            self.good(answer)

    def good(self, answer: Answer) -> Any:
        """The body of a success; else our word for what it is."""
        if answer.status < 300:
            return answer.body
        raise self.error(answer)

    def error(self, answer: Answer) -> FourfoldError:
        said, at = answer.message, f"the cluster at {self.url}"
        match answer.status:
            case 401:
                return Unauthenticated(
                    f"{at} does not accept who we are (HTTP 401): {said}",
                    ways_on=["look at the kubeconfig's user: is its token or certificate still good?"],
                )
            case 403 if "quota" in said:
                return TooMuch(f"{at} has no room by its quota: {said}", ways_on=["it is asked again"])
            case 403:
                return Denied(
                    f"{at} does not allow this: {said}",
                    ways_on=["the rights that a pool needs are in docs/internals/kubernetes.md"],
                )
            case 410:
                return Expired(f"{at} no longer has this version")
            case 429:
                return TooMuch(f"{at} is busy: {said}", ways_on=["it is asked again"])
            case status if status >= 500:
                return Unavailable(f"{at} answered {status}: {said}", ways_on=["it is asked again"])
            case _:
                return Refused(f"{at} refused this: {said}")

    # Streams.

    @contextmanager
    def stream(
        self, path: str, query: Mapping[str, object], *, silent_s: float
    ) -> Iterator[http.client.HTTPResponse]:
        """An answer that goes on; each read ends within `silent_s`."""
        connection = self._new()
        with self._lock:
            if self._is_closed:
                raise Unavailable("the engine is closed")
            self._streams.add(connection)
        try:
            deadline = time.monotonic() + self._timeout_s
            self._send(connection, "GET", path + _query(query), None, "", deadline)
            response = connection.getresponse()
            if response.status >= 300:
                raise self.error(Answer(response.status, _read(response.read(MOST_LINE_BYTES))))
            if connection.sock is not None:
                connection.sock.settimeout(silent_s)
            yield response
        except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
            raise self._away(error) from error
        finally:
            with self._lock:
                self._streams.discard(connection)
            connection.close()

    def watch(
        self, path: str, version: str, selector: str, *, within_s: int, begun: Callable[[], None]
    ) -> Iterator[dict[str, Any]]:
        """Changes since a version, until the server or `within_s` ends it. `Expired` where it is too old.

        `begun` is called once the cluster has taken it.
        """
        query = {
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": within_s,
            **({"labelSelector": selector} if selector else {}),
        }
        with self.stream(path, query, silent_s=within_s + self._timeout_s) as lines:
            begun()
            while line := lines.readline(MOST_LINE_BYTES):
                try:
                    event = json.loads(line)
                except ValueError as error:  # cut off in the middle
                    raise self._away(error) from error
                if event["type"] == "ERROR":
                    raise self.error(Answer(int(event["object"].get("code") or 500), event["object"]))
                yield event

    # How.

    def ask(
        self,
        verb: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, object] | None = None,
        content_type: str = "application/json",
    ) -> Answer:
        """One call, asked again while the cluster says that it is busy, within the bound of time.

        All that we ask may be asked twice: names are settled, changes are whole.
        """
        deadline = time.monotonic() + self._timeout_s
        data = None if body is None else json.dumps(body).encode()
        has_renewed = False
        for attempt in range(TRIES):
            status, headers, answer = self._once(
                verb, path + _query(query or {}), data, content_type, deadline
            )
            if status == 401 and not has_renewed:
                has_renewed = True
                self._access.forget()
                continue
            if status not in RETRIED or attempt == TRIES - 1:
                break
            pause_s = FIRST_PAUSE_S * 4**attempt
            with contextlib.suppress(ValueError):
                pause_s = max(pause_s, float(headers.get("Retry-After") or 0))
            if time.monotonic() + pause_s >= deadline:
                break
            time.sleep(pause_s)
        return Answer(status, _read(answer))

    def _once(
        self, verb: str, path: str, data: bytes | None, content_type: str, deadline: float
    ) -> tuple[int, Mapping[str, str], bytes]:
        is_used, connection = self._take()
        while True:
            try:
                self._send(connection, verb, path, data, content_type, deadline)
                response = connection.getresponse()
                answer = self._whole(response, connection, deadline)
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if is_used and not isinstance(error, TimeoutError):  # a kept connection may be dead
                    is_used, connection = False, self._new()
                    continue
                raise self._away(error) from error
            except BaseException:
                connection.close()
                raise
            self._give_back(connection)
            return response.status, dict(response.headers.items()), answer

    def _send(
        self,
        connection: http.client.HTTPConnection,
        verb: str,
        path: str,
        data: bytes | None,
        content_type: str,
        deadline: float,
    ) -> None:
        headers = {"Accept": "application/json", "User-Agent": "fourfold"}
        if token := self._access.token():
            headers["Authorization"] = f"Bearer {token}"
        if data is not None:
            headers["Content-Type"] = content_type
        left_s = max(0.001, deadline - time.monotonic())
        if connection.sock is None:
            connection.timeout = left_s
            connection.connect()
        connection.sock.settimeout(left_s)
        connection.request(verb, self._base + path, body=data, headers=headers)

    def _whole(
        self, response: http.client.HTTPResponse, connection: http.client.HTTPConnection, deadline: float
    ) -> bytes:
        pieces, size = [], 0
        while piece := response.read1(1 << 20):
            pieces.append(piece)
            size += len(piece)
            if size > MOST_ANSWER_BYTES:
                raise TooMuch(f"the cluster at {self.url} answered more than {MOST_ANSWER_BYTES} bytes")
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            if connection.sock is not None:
                connection.sock.settimeout(left_s)
        if response.length:
            raise http.client.IncompleteRead(b"".join(pieces))
        response.close()  # else the connection takes no other request
        return b"".join(pieces)

    def _take(self) -> tuple[bool, http.client.HTTPConnection]:
        with self._lock:
            return (True, self._idle.pop()) if self._idle else (False, self._new())

    def _give_back(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if not self._is_closed and len(self._idle) < IDLE_CONNECTIONS and connection.sock is not None:
                self._idle.append(connection)
                return
        connection.close()

    def _new(self) -> http.client.HTTPConnection:
        if not self._access.is_tls:
            return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)
        self._access.token()  # a plugin may give a certificate
        secured = _Secured(self._host, self._port, timeout=self._timeout_s, context=self._access.tls())
        secured.server_name = self._access.server_name
        return secured

    def _away(self, error: Exception) -> Unavailable:
        said = str(error) or type(error).__name__
        if isinstance(error, TimeoutError):
            said = f"no answer within {self._timeout_s:g} s"
        return Unavailable(
            f"the cluster at {self.url} does not answer: {said[:SHOWN_CHARACTERS]}",
            ways_on=["try: kubectl get nodes", "it is asked again; what was submitted is not lost"],
        )

    def _foreign(self) -> Unavailable:
        return Unavailable(
            f"what answers at {self.url} does not speak Kubernetes' API",
            ways_on=["is the kubeconfig's server right?"],
        )


class _Secured(http.client.HTTPSConnection):
    """A connection whose certificate may bear another name than its address (`tls-server-name`)."""

    server_name = ""

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        context = self._context  # type: ignore[attr-defined] # the library has no other way to name it
        self.sock = context.wrap_socket(self.sock, server_hostname=self.server_name or self.host)


def _hang_up(connection: http.client.HTTPConnection) -> None:
    """Wake who reads from it."""
    with contextlib.suppress(OSError, AttributeError):
        connection.sock.shutdown(socket.SHUT_RDWR)


def _query(query: Mapping[str, object]) -> str:
    return f"?{urlencode(query, quote_via=quote)}" if query else ""


def _read(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return data.decode("utf-8", "replace")
