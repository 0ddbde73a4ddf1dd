"""How a service method is called from outside the process: declared once, beside its signature.

A service protocol's methods carry a `@route`. Three generic interpreters read it: the HTTP server, the
HTTP client that fulfils the same protocol, and the journal of a flow's body. So a method is written
once, and a door is never a second implementation.

Arguments named in the path come from the path; those of GET and DELETE come from the query; those of
other methods from a JSON object. At most one argument may be `bytes`, `pyarrow.Table` or
`pyarrow.RecordBatchReader`: it is the body (Arrow as an IPC stream), and the others move to the query.
A result of these types is the response's body; any other is JSON, as `core.wire` writes it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


class Role(IntEnum):
    """What a person or token may do in a project; each role may do what those below it may."""

    viewer = 10
    editor = 20
    deployer = 30
    admin = 40


@dataclass(frozen=True, slots=True)
class Route:
    """One method's address and the role that it needs."""

    verb: str
    path: str
    needs: Role
    service: str
    method: str
    function: Callable[..., Any]

    @property
    def path_arguments(self) -> tuple[str, ...]:
        return tuple(re.findall(r"{(\w+)(?::path)?}", self.path))

    @property
    def summary(self) -> str:
        return (inspect.getdoc(self.function) or self.method).splitlines()[0]


def route(spec: str, *, needs: Role) -> Callable[[F], F]:
    """Declare a service method's address, such as `@route("GET /tables/{name}", needs=Role.viewer)`.

    Paths are relative to `/api/v1`. `{name:path}` takes slashes too.
    """
    verb, _, path = spec.partition(" ")
    if verb not in {"GET", "POST", "PUT", "PATCH", "DELETE"} or not path.startswith("/"):
        raise ValueError(f"route {spec!r} is not 'VERB /path'")

    def mark(function: F) -> F:
        function.__fourfold_route__ = (verb, path, needs)  # type: ignore[attr-defined]
        return function

    return mark


def routes(service: str, protocol: type) -> Iterator[Route]:
    """The routes that a service protocol declares, in the order of its methods."""
    for name, function in vars(protocol).items():
        declared = getattr(function, "__fourfold_route__", None)
        if declared is not None:
            verb, path, needs = declared
            yield Route(verb, path, needs, service, name, function)
