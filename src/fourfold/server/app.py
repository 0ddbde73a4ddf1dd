"""The HTTP door: every route that a service protocol declares, in one ASGI application."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from fourfold.core import wire
from fourfold.core.catalog import Identity
from fourfold.core.context import Ref
from fourfold.core.errors import FourfoldError, NotFound, Refused, did_you_mean
from fourfold.core.routes import PREFIX, Role, Route, routes
from fourfold.server import metrics as openmetrics
from fourfold.server.dispatch import Audit, Dispatcher, Threads
from fourfold.server.doors import PUBLIC, Door, Public
from fourfold.server.guard import Guard
from fourfold.server.identity import Bearers
from fourfold.server.openapi import document
from fourfold.server.pages import PAGE_HEADERS, About, front_page
from fourfold.server.problems import AtDoor, answer

BODY_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Mounted:
    """A service and the protocol that says what of it can be called from outside."""

    name: str
    protocol: type
    service: object


@dataclass(frozen=True, slots=True)
class Access:
    """Who may come, and from where."""

    bearers: Bearers
    hosts: Collection[str] = ()
    """Names of this server besides those of the loopback."""
    origins: Collection[str] = ()
    """Origins of pages that may change things, besides our own."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much the server takes on at once."""

    body_bytes: int = BODY_BYTES
    threads: int = 32
    waiting: int = 512


def build_app(
    services: Iterable[Mounted],
    *,
    access: Access,
    about: About,
    bounds: Bounds | None = None,
    audit: Audit | None = None,
) -> Guard:
    """One ASGI application over the services: guard outside, doors inside."""
    bounds = bounds or Bounds()
    mounted = tuple(services)
    metrics = openmetrics.Metrics()
    threads = Threads(bounds.threads, bounds.waiting)
    declared = [(route, each.service) for each in mounted for route in routes(each.name, each.protocol)]
    spec = wire.encode(document((route for route, _ in declared), version=about.version))

    def door(path: str, endpoint: Any, name: str, needs: Role | Public) -> Door:
        return Door("GET", path, endpoint, needs=needs, name=name, metrics=metrics)

    async def front(_request: Request) -> Response:
        return HTMLResponse(front_page(about), headers=PAGE_HEADERS)

    async def health(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def version(_request: Request) -> Response:
        return JSONResponse({"version": about.version, "project": about.project})

    async def metrics_text(_request: Request) -> Response:
        return PlainTextResponse(metrics.text(), media_type=openmetrics.CONTENT_TYPE)

    async def openapi(_request: Request) -> Response:
        return Response(spec, media_type="application/json")

    doors = [
        door("/", front, "front", PUBLIC),
        door("/health", health, "health", PUBLIC),
        door("/version", version, "version", PUBLIC),
        door("/metrics", metrics_text, "metrics", Role.viewer),
        door(f"{PREFIX}/openapi.json", openapi, "openapi", Role.viewer),
    ]
    for route, service in sorted(declared, key=lambda each: _specificity(each[0])):
        dispatcher = Dispatcher(
            route, getattr(service, route.method), threads=threads, body_bytes=bounds.body_bytes, audit=audit
        )
        doors.append(
            Door(
                route.verb,
                PREFIX + route.path,
                dispatcher.__call__,
                needs=route.needs,
                name=route.name,
                metrics=metrics,
            )
        )
    inner = Starlette(
        routes=doors,
        exception_handlers={
            HTTPException: partial(_not_served, known=[d.path for d in doors]),
            Exception: _defect,
        },
    )
    inner.router.redirect_slashes = False
    public = [d.path for d in doors if isinstance(d.needs, Public)]
    return Guard(inner, bearers=access.bearers, public=public, hosts=access.hosts, origins=access.origins)


def audit_into(record: Any) -> Audit:
    """An `Audit` that writes to the catalog's own, by `record(action, ref, facts=…)`."""

    def audit(route: Route, identity: Identity, status: int) -> None:
        record(
            f"call.{route.name}",
            Ref("route", f"{route.verb} {route.path}"),
            facts={"status": status, "token": identity.token_id},
        )

    return audit


def _specificity(route: Route) -> tuple[list[int], str, str]:
    """Routes with words before those with names, and those before names with slashes."""

    def weight(segment: str) -> int:
        return 2 if segment.endswith(":path}") else 1 if segment.startswith("{") else 0

    # 3 at the end: of two routes that begin alike, the longer one is the more specific.
    return [*map(weight, route.path.strip("/").split("/")), 3], route.path, route.verb


async def _not_served(request: Request, error: Exception, *, known: list[str]) -> Response:
    """404 and 405 in our own words."""
    assert isinstance(error, HTTPException)
    path = request.url.path[:200]
    problem: FourfoldError
    if error.status_code == 404:
        problem = NotFound(
            f"there is nothing at {path!r}",
            ways_on=[*did_you_mean(path, known)[:-1], f"all routes: GET {PREFIX}/openapi.json"],
        )
    else:
        problem = Refused(f"{request.method} {path!r}: {error.detail}")
    allowed = sorted((error.headers or {}).get("Allow", "").split(", "))
    headers = {"allow": ", ".join(allowed)} if any(allowed) else {}
    return answer(AtDoor(error.status_code, problem, headers), doing="the door")


async def _defect(_request: Request, error: Exception) -> Response:
    return answer(error, doing="the door")
