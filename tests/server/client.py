"""A client that calls an ASGI application in this process, byte for byte as it was asked to."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import unquote

from starlette.types import ASGIApp

PATIENCE_S = 30


@dataclass(frozen=True)
class Answer:
    """What came back; header names are in lower case."""

    status_code: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def text(self) -> str:
        return self.content.decode()

    def json(self) -> Any:
        return json.loads(self.content)


class Client:
    """Asks one application. Unlike a browser or an HTTP library, it does not tidy paths up.

    All clients share one event loop in a thread, as requests of one server do.
    """

    def __init__(
        self, app: ASGIApp, headers: Mapping[str, str] | None = None, *, host: str = "localhost:4040"
    ) -> None:
        self._app = app
        self._headers = {"Host": host, **(headers or {})}

    def request(
        self,
        verb: str,
        address: str,
        *,
        json: Any = None,
        content: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        path, _, query = address.partition("?")
        sent = {**self._headers, **(headers or {})}
        body: Iterable[bytes] = ()
        if json is not None:
            body = [_json(json)]
            sent.setdefault("Content-Type", "application/json")
        elif content is not None:
            body = [content] if isinstance(content, bytes) else content
        if isinstance(body, list):
            sent["Content-Length"] = str(sum(map(len, body)))
        elif body != ():
            sent["Transfer-Encoding"] = "chunked"
        scope = {
            "type": "http",
            "method": verb,
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode()) for name, value in sent.items()],
        }
        return asyncio.run_coroutine_threadsafe(self._ask(scope, body), _loop()).result(PATIENCE_S)

    async def _ask(self, scope: dict[str, Any], body: Iterable[bytes]) -> Answer:
        pieces = iter(body)
        status, headers, content = 0, dict[str, str](), list[bytes]()

        async def receive() -> dict[str, Any]:
            piece = next(pieces, None)
            return {"type": "http.request", "body": piece or b"", "more_body": piece is not None}

        async def send(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers.update((name.decode(), value.decode()) for name, value in message["headers"])
            else:
                content.append(message.get("body", b""))

        await self._app(scope, receive, send)
        return Answer(status, headers, b"".join(content))

    def get(self, address: str, **options: Any) -> Answer:
        return self.request("GET", address, **options)

    def put(self, address: str, **options: Any) -> Answer:
        return self.request("PUT", address, **options)

    def post(self, address: str, **options: Any) -> Answer:
        return self.request("POST", address, **options)

    def delete(self, address: str, **options: Any) -> Answer:
        return self.request("DELETE", address, **options)

    def options(self, address: str, **options: Any) -> Answer:
        return self.request("OPTIONS", address, **options)

    def websocket(self, address: str) -> list[Any]:
        """What the application says to somebody who opens a websocket."""
        told: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            told.append(message)

        scope = {"type": "websocket", "path": address, "query_string": b"", "headers": []}
        asyncio.run_coroutine_threadsafe(self._app(scope, receive, send), _loop()).result(PATIENCE_S)  # type: ignore[arg-type]
        return told


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="test-clients", daemon=True).start()
    return loop
