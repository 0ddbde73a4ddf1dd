"""The services of a project that lives behind a server: any service protocol, fulfilled over HTTP.

`Remote` reads the same declarations as the server (`fourfold.core.routes`), so it has no method of its
own per service. It uses only the standard library's HTTP client, because a program that calls a server
should not wait for imports.
"""

from __future__ import annotations

import http.client
import inspect
import json
import random
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache, partial
from threading import Lock
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from fourfold.core import wire
from fourfold.core.errors import Defect, FourfoldError, Refused, Remedy, TimedOut, Unavailable, from_code
from fourfold.core.routes import PREFIX, Argument, Form, Place, Repeat, Route, routes, segment

ARROW = "application/vnd.apache.arrow.stream"
BYTES = "application/octet-stream"
JSON = "application/json"

REPEATABLE = frozenset({"GET", "PUT", "DELETE"})
"""Verbs that may be sent again after a lost answer: doing them twice is doing them once."""


@dataclass(frozen=True, slots=True)
class RemoteSettings:
    """How patient a client is."""

    connect_s: float = 10.0
    timeout_s: float = 600.0
    """The longest silence: a training set is computed without a word. A call with a `timeout_s` or `wait_s`
    of its own gets that much on top. A machine that is gone is noticed within two minutes all the same."""
    tries: int = 4
    first_pause_s: float = 0.1
    idle_connections: int = 8


class Remote:
    """A project behind a server's address: `http://host:port`, `https://…` or `unix:///path/to/socket`."""

    def __init__(self, url: str, token: str, settings: RemoteSettings | None = None) -> None:
        self.url = url.rstrip("/")
        self._token = token
        self._settings = settings or RemoteSettings()
        self._connect = _connector(self.url)
        self._base = "" if self.url.startswith("unix:") else urlsplit(self.url).path.rstrip("/")
        self._idle: list[http.client.HTTPConnection] = []
        self._lock = Lock()

    def service(self, name: str, protocol: type, *, here: Callable[[Any], object] | None = None) -> Any:
        """An object that fulfils the protocol by calling the server.

        Methods without a route are not the server's to answer. `here`, given the service when one is first
        asked for, makes what answers them in this process; what it lacks says that it works only beside
        the project.
        """
        return _Service(self, name, protocol, here)

    def close(self) -> None:
        """Close idle connections; the object may be used again."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def call(self, route: Route, arguments: Mapping[str, Any]) -> Any:
        """Call one route with arguments by name."""
        path, headers, body = _request(route, arguments)
        patience_s = self._settings.timeout_s + _asked_for_s(route, arguments)
        # A body that streams can be read only once, so a call with one is never sent again.
        tries = self._settings.tries if route.verb in REPEATABLE and not callable(body) else 1
        for attempt in range(1, tries + 1):
            try:
                return self._once(route, path, headers, body, patience_s)
            except FourfoldError as error:
                if attempt == tries or error.remedy is not Remedy.transient or error.code == "conflict":
                    raise
                pause_s = self._settings.first_pause_s * 2 ** (attempt - 1)
                time.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads clients, guards nothing
        raise AssertionError("the last try returns or raises")

    def _once(self, route: Route, path: str, headers: Mapping[str, str], body: Any, patience_s: float) -> Any:
        connection = self._take()
        done = partial(self._give_back, connection)
        try:
            if connection.sock is None:
                connection.connect()
                _watch(connection)
            connection.sock.settimeout(patience_s)
            connection.request(
                route.verb,
                self._base + path,
                body=body() if callable(body) else body,
                headers={**headers, "Authorization": f"Bearer {self._token}", "Accept": "*/*"},
                encode_chunked=callable(body),
            )
            response = connection.getresponse()
            if response.status >= 400:
                data = response.read()
                done()
                raise _error(response.status, data, route)
            return _result(route, response, done, connection.close)
        except (OSError, http.client.HTTPException) as error:
            is_silent = isinstance(error, TimeoutError) and error.errno is None
            is_silent = is_silent and connection.sock is not None
            connection.close()
            if not is_silent:
                raise Unavailable(
                    f"the server at {self.url} does not answer: {error or type(error).__name__}",
                    ways_on=["is it up? start it with: fourfold up", "is FOURFOLD_URL right?"],
                    url=self.url,
                ) from error
            raise TimedOut(
                f"{route.name} got no answer from {self.url} within {patience_s:g} s",
                ways_on=["ask for less, or give the client a longer timeout_s"],
            ) from error

    def _take(self) -> http.client.HTTPConnection:
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                return self._connect(self._settings.connect_s)
            # The server may have closed it meanwhile; then it is readable, and what we sent would be lost.
            if connection.sock is not None and not select.select([connection.sock], [], [], 0)[0]:
                return connection
            connection.close()

    def _give_back(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if connection.sock is not None and len(self._idle) < self._settings.idle_connections:
                self._idle.append(connection)
                return
        connection.close()

    def __repr__(self) -> str:
        return f"<Remote {self.url}>"


class _Service:
    """One service of a remote project."""

    def __init__(
        self, remote: Remote, name: str, protocol: type, here: Callable[[Any], object] | None
    ) -> None:
        self._name = name
        self._protocol = protocol
        self._here = None if here is None else cache(partial(here, self))
        self._methods = {r.method: _method(remote, r) for r in routes(name, protocol)}

    def __getattr__(self, name: str) -> Any:
        found = self.__dict__.get("_methods", {}).get(name)
        if found is not None:
            return found
        if not name.startswith("_") and hasattr(self._protocol, name):
            if self._here is not None and hasattr(self._here(), name):
                return getattr(self._here(), name)
            raise Refused(
                f"{self._name}.{name} works only beside the project",
                ways_on=["run this where the project's folder is, without FOURFOLD_URL"],
            )
        raise AttributeError(f"the {self._name} service has no method '{name}'")

    def __repr__(self) -> str:
        return f"<remote {self._name}>"


def _method(remote: Remote, route: Route) -> Callable[..., Any]:
    signature = inspect.signature(route.function)

    def method(*args: Any, **kwargs: Any) -> Any:
        arguments = signature.bind(None, *args, **kwargs).arguments  # None stands for self
        arguments.pop("self", None)
        return remote.call(route, arguments)

    method.__name__ = route.method
    method.__doc__ = route.function.__doc__
    return method


def _asked_for_s(route: Route, arguments: Mapping[str, Any]) -> float:
    """How long a call says that it may take, by what is given or by its own default."""
    named = (route.shape.named(name) for name in ("timeout_s", "wait_s"))
    return sum(float(arguments.get(a.name, a.default) or 0) for a in named if a is not None)


# Addresses


def _connector(url: str) -> Callable[[float], http.client.HTTPConnection]:
    parts = urlsplit(url)
    match parts.scheme:
        case "http" if parts.hostname:
            return lambda timeout: http.client.HTTPConnection(
                parts.hostname or "", parts.port, timeout=timeout
            )
        case "https" if parts.hostname:
            context = ssl.create_default_context()
            return lambda timeout: http.client.HTTPSConnection(
                parts.hostname or "", parts.port, timeout=timeout, context=context
            )
        case "unix" if parts.path:
            return lambda timeout: _UnixConnection(parts.path, timeout)
        case _:
            raise Refused(
                f"'{url}' is not a server's address",
                ways_on=["write http://host:port, https://host or unix:///path/to/socket"],
            )


def _watch(connection: http.client.HTTPConnection) -> None:
    """Let the system ask now and then whether the other machine is still there."""
    connected: socket.socket = connection.sock
    if connected.family == socket.AF_UNIX:
        return
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


# What is sent


def _request(route: Route, arguments: Mapping[str, Any]) -> tuple[str, dict[str, str], Any]:
    shape = route.shape
    path = route.path
    for argument in shape.at(Place.path):
        text = _text(arguments[argument.name])
        if not text:
            raise Refused(
                f"{argument.name} {text!r} cannot be part of an address", ways_on=["names here are not empty"]
            )
        path = path.replace(f"{{{argument.name}:path}}", quote(text)).replace(
            f"{{{argument.name}}}", quote(segment(text), safe="")
        )
    query = [
        (a.name, text)
        for a in shape.at(Place.query)
        if a.name in arguments and not _is_default(a, arguments[a.name])
        for text in _query(a, arguments[a.name])
    ]
    address = PREFIX + path + ("?" + urlencode(query) if query else "")
    if shape.body is not None:
        form = shape.body.form
        value = arguments[shape.body.name]
        if isinstance(value, bytes):
            return address, {"Content-Type": BYTES}, value
        if form is Form.pieces:
            return address, {"Content-Type": BYTES, "Transfer-Encoding": "chunked"}, partial(iter, value)
        return address, {"Content-Type": ARROW, "Transfer-Encoding": "chunked"}, partial(_ipc, value)
    fields = {
        a.name: arguments[a.name]
        for a in shape.at(Place.json)
        if a.name in arguments and not _is_default(a, arguments[a.name])
    }
    if route.verb in {"GET", "DELETE"}:
        return address, {}, None
    return address, {"Content-Type": JSON}, wire.encode(fields)


def _is_default(argument: Argument, value: Any) -> bool:
    default = argument.default
    return not argument.is_required and type(value) is type(default) and bool(value == default)


def _query(argument: Argument, value: Any) -> Iterator[str]:
    match argument.writes:
        case Repeat.text:
            yield _text(value)
        case Repeat.texts if value and not any(_text(item).startswith("[") for item in value):
            yield from map(_text, value)
        case _:
            yield wire.encode(value).decode()


def _text(value: Any) -> str:
    return str(value.value if isinstance(value, Enum) else value)


def _ipc(data: Any) -> Iterator[bytes]:
    """A table or a reader as pieces of an Arrow IPC stream, made as they are sent."""
    import pyarrow as pa

    sink = _Pieces()
    batches = data.to_batches(max_chunksize=65536) if isinstance(data, pa.Table) else data
    with pa.ipc.new_stream(pa.PythonFile(sink, mode="w"), data.schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
            yield sink.take()
    yield sink.take()


class _Pieces:
    """A file that keeps what is written until it is taken."""

    closed = False

    def __init__(self) -> None:
        self._held: list[bytes] = []

    def write(self, data: Any) -> int:
        self._held.append(bytes(data))
        return len(self._held[-1])

    def take(self) -> bytes:
        data = b"".join(self._held)
        self._held.clear()
        return data

    def flush(self) -> None: ...

    def close(self) -> None: ...


# What comes back


def _result(
    route: Route,
    response: http.client.HTTPResponse,
    done: Callable[[], None],
    give_up: Callable[[], None],
) -> Any:
    shape = route.shape
    if shape.result_form.is_arrow:
        import pyarrow as pa

        reader = pa.ipc.open_stream(_Body(response, route))
        if shape.result_form is Form.batches:
            rest = _batches(reader, response, done, give_up)
            return pa.RecordBatchReader.from_batches(reader.schema, rest)
        table = reader.read_all()
        response.read()  # what follows the end marker: nothing, but the connection must be at rest
        done()
        return table
    data = response.read()
    done()
    match shape.result_form:
        case Form.nothing:
            return None
        case Form.bytes:
            return data
        case _:
            return wire.decode(data, shape.result, what=f"the answer of {route.name}")


def _batches(
    reader: Any, response: http.client.HTTPResponse, done: Callable[[], None], give_up: Callable[[], None]
) -> Iterator[Any]:
    """The batches; the connection is kept after the last, and closed if nobody wants them all."""
    try:
        yield from reader
        response.read()
    except BaseException:
        give_up()
        raise
    done()


class _Body:
    """A response's body as a file for pyarrow.

    pyarrow takes a stream that merely stops for a whole one; the HTTP client knows better.
    """

    closed = False

    def __init__(self, response: http.client.HTTPResponse, route: Route) -> None:
        self._response = response
        self._route = route

    def read(self, size: int) -> bytes:
        try:
            return self._response.read(size)
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(
                f"the answer of {self._route.name} broke off before its end",
                ways_on=["ask again; the server's log says why"],
            ) from error

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True


def _error(status: int, data: bytes, route: Route) -> FourfoldError:
    try:
        told = json.loads(data)["error"]
        return from_code(told["code"], told["message"], told["ways_on"], dict(told["facts"]))
    except (ValueError, KeyError, TypeError):
        text = data[:200].decode("utf-8", "replace")
        if status in {502, 503, 504}:
            return Unavailable(f"{route.name}: something before the server answered {status}: {text!r}")
        return Defect(f"{route.name} was answered {status}, not in our words: {text!r}", status=status)
