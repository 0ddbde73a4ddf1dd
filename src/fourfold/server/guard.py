"""What every request must pass before any route is looked at.

The order is from cheap to dear: the shape of the path, the `Host`, where a browser says the request comes
from, then the token. Nothing here knows what a route does; which role it needs is the route's own word
(`fourfold.server.doors`).
"""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import unquote, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fourfold.core.errors import Denied, FourfoldError, Refused, Unauthenticated
from fourfold.server.identity import LOOPBACK, WAYS_TO_A_TOKEN, Bearers
from fourfold.server.problems import answer

SAFE_VERBS = frozenset({"GET", "HEAD"})

SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'none'",
}


class Guard:
    """An ASGI application around another: lets through what is allowed, and says who asks.

    `scope["identity"]` is set for the routes: the identity of the token, or `None` on public paths.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        bearers: Bearers,
        public: Collection[str],
        hosts: Collection[str] = (),
        origins: Collection[str] = (),
    ) -> None:
        self._app = app
        self._bearers = bearers
        self._public = frozenset(public)
        self._hosts = frozenset(host.lower() for host in (*LOOPBACK, *hosts))
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":  # there is no websocket door yet, so none can be left unchecked
            return await send({"type": "websocket.close", "code": 1008})
        headers = Headers(scope=scope)
        guarded = _with_security_headers(send)
        try:
            check_path(scope.get("raw_path") or scope["path"].encode())
            check_host(headers.get("host", ""), self._hosts)
            if scope["method"] not in SAFE_VERBS:
                check_origin(headers, self._origins)
            scope["identity"] = None
            if scope["path"] not in self._public:
                scope["identity"] = await self._identify(headers)
        except FourfoldError as error:
            return await answer(error, doing="the door")(scope, receive, guarded)
        return await self._app(scope, receive, guarded)

    async def _identify(self, headers: Headers) -> object:
        authorization = headers.get("authorization", "")
        if not authorization:
            raise Unauthenticated("this needs a token, and none came", ways_on=WAYS_TO_A_TOKEN)
        # In a thread, because the catalog may have to be asked.
        return await run_in_threadpool(self._bearers.who, authorization)


def check_path(raw: bytes) -> None:
    """Refuse a path that tries to leave its folder, however it is written.

    >>> check_path(b"/api/v1/tables/raw.flights")
    >>> check_path(b"/api/v1/tables/%2e%2e/token")
    Traceback (most recent call last):
    ...
    fourfold.core.errors.Refused: the path has a segment that no name may have: '..'
      names in a path are plain: letters, digits, '_', '-', '.', '@', '/'
    """
    text = raw.split(b"?")[0].decode("latin-1")
    for _ in range(3):  # what is encoded twice is looked at twice
        check_path_text(text)
        text = unquote(text)
    check_path_text(text)


def check_path_text(text: str, *, what: str = "the path") -> None:
    """Refuse `..`, empty segments, backslashes and control characters."""
    inner = text.removeprefix("/").removesuffix("/")
    for segment in inner.split("/") if inner else ():
        if (
            segment in {"", ".", ".."}
            or "\\" in segment
            or any(ord(c) < 32 or ord(c) == 127 for c in segment)
        ):
            raise Refused(
                f"{what} has a segment that no name may have: {segment!r}",
                ways_on=["names in a path are plain: letters, digits, '_', '-', '.', '@', '/'"],
            )


def check_host(host: str, allowed: Collection[str]) -> None:
    """Refuse a `Host` that is not one of ours: a page that rebinds its name to this machine has its own.

    >>> check_host("localhost:4040", {"localhost"})
    >>> check_host("evil.example:4040", {"localhost"})
    Traceback (most recent call last):
    ...
    fourfold.core.errors.Denied: host 'evil.example' is not a name of this server
      names: localhost
      add it to the setting server.hosts if it should be
    """
    name = _host_name(host)
    if name not in allowed:
        raise Denied(
            f"host '{name[:200]}' is not a name of this server",
            ways_on=[
                "names: " + ", ".join(sorted(allowed)),
                "add it to the setting server.hosts if it should be",
            ],
        )


def _host_name(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def check_origin(headers: Headers, allowed: Collection[str]) -> None:
    """Refuse a change that a page of another site asks a browser for."""
    origin = headers.get("origin")
    site = headers.get("sec-fetch-site")
    if origin in allowed:
        return
    if origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower():
        raise Denied(
            f"a page of {origin[:200]!r} may not change anything here",
            ways_on=["call from a program, or add the origin to the setting server.origins"],
        )
    if site not in {None, "same-origin", "none"}:
        raise Denied(
            f"a {site[:40]} request of a browser may not change anything here",
            ways_on=["call from a program, or from a page that this server gave"],
        )


def _with_security_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sending
