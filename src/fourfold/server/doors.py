"""One kind of route: with the role that it needs, checked here and nowhere else."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as StarletteRoute

from fourfold.core.catalog import Identity
from fourfold.core.errors import Denied, Unauthenticated
from fourfold.core.routes import Role
from fourfold.server.identity import WAYS_TO_A_TOKEN
from fourfold.server.metrics import Metrics
from fourfold.server.problems import answer, log

Endpoint = Callable[[Request], Awaitable[Response]]


class Public:
    """Says that a route needs no role: it tells nothing about the project."""


PUBLIC: Final = Public()


class Door(StarletteRoute):
    """A route of the server. There is no other kind: a test walks the application and says so."""

    def __init__(
        self, verb: str, path: str, endpoint: Endpoint, *, needs: Role | Public, name: str, metrics: Metrics
    ) -> None:
        self.verb = verb
        self.needs = needs
        self._metrics = metrics
        super().__init__(path, self._guarded(endpoint, name), methods=[verb], name=name)

    def _guarded(self, endpoint: Endpoint, name: str) -> Endpoint:
        async def guarded(request: Request) -> Response:
            began = time.perf_counter()
            identity = request.scope.get("identity")
            try:
                check_role(identity, self.needs)
                response = await endpoint(request)
            except HTTPException:
                raise
            except Exception as error:
                response = answer(error, doing=name)
            took_s = time.perf_counter() - began
            self._metrics.observe(name, response.status_code, took_s)
            log.info(
                "%s %s %d %.1f ms by %s",
                self.verb,
                name,
                response.status_code,
                took_s * 1e3,
                identity.principal if identity else "-",
            )
            return response

        return guarded


def check_role(identity: Identity | None, needs: Role | Public) -> None:
    """Refuse who may not do this."""
    if isinstance(needs, Public):
        return
    if identity is None:
        raise Unauthenticated("this needs a token, and none came", ways_on=WAYS_TO_A_TOKEN)
    if identity.role < needs:
        raise Denied(
            f"'{identity.principal}' has the role {identity.role.name} here, and this needs {needs.name}",
            ways_on=[f"ask an admin for: fourfold token new NAME --role {needs.name}"],
            needs=needs.name,
            has=identity.role.name,
        )
