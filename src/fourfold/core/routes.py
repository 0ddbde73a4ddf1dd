"""How a service method is called from outside the process: declared once, beside its signature.

A service protocol's methods carry a `@route`. Three generic interpreters read it: the HTTP server, the
HTTP client that fulfils the same protocol, and the journal of a flow's body. So a method is written
once, and a door is never a second implementation.

Arguments named in the path come from the path; those of GET and DELETE come from the query; those of
other methods from a JSON object. At most one argument may be `bytes`, `pyarrow.Table` or
`pyarrow.RecordBatchReader`: it is the body (Arrow as an IPC stream), and the others move to the query.
Where an argument may also be `Iterable[bytes]` or a `RecordBatchReader`, it travels in pieces and need not
fit in memory.
A result of these types is the response's body; any other is JSON, as `core.wire` writes it. `media` says
what bytes are that a browser can show.

A name that is one segment of a path may hold a slash: there `/` is written `~1`, and `~` is `~0` (as in a
JSON pointer), because many a server takes `%2F` for the slash itself: `/tables/flights@dev~1try-1/append`.

In a query, text travels as it is, a list of texts as a repeated key (or as one JSON array), and anything
else as JSON: `?tag=gold&columns=a&columns=b&version=3&where=[["day",">=","2013-01-01"]]`.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum, StrEnum
from functools import cache
from typing import Any, NewType, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

PREFIX = "/api/v1"
"""Where the doors mount the routes."""


class Role(IntEnum):
    """What a person or token may do in a project; each role may do what those below it may."""

    viewer = 10
    editor = 20
    deployer = 30
    admin = 40


class Place(StrEnum):
    """Where an argument travels."""

    path = "path"
    query = "query"
    json = "json"
    body = "body"


class Form(StrEnum):
    """How a body or a result travels."""

    json = "json"
    bytes = "bytes"
    pieces = "pieces"
    table = "table"
    batches = "batches"
    nothing = "nothing"

    @property
    def is_arrow(self) -> bool:
        return self in {Form.table, Form.batches}

    @property
    def is_stream(self) -> bool:
        """Whether it may be larger than memory."""
        return self.is_arrow or self is Form.pieces


class Repeat(StrEnum):
    """How a query writes an argument."""

    text = "text"
    texts = "texts"
    json = "json"


REQUIRED: Any = inspect.Parameter.empty


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a method: its type, where it travels, and its default (`REQUIRED` if it has none)."""

    name: str
    kind: Any
    place: Place
    default: Any
    form: Form = Form.json
    writes: Repeat = Repeat.json

    @property
    def is_required(self) -> bool:
        return self.default is REQUIRED


@dataclass(frozen=True, slots=True)
class Shape:
    """What a method takes and gives, as the doors need to know it."""

    arguments: tuple[Argument, ...]
    result: Any
    result_form: Form

    def named(self, name: str) -> Argument | None:
        return next((a for a in self.arguments if a.name == name), None)

    def at(self, place: Place) -> tuple[Argument, ...]:
        return tuple(a for a in self.arguments if a.place is place)

    @property
    def body(self) -> Argument | None:
        return next(iter(self.at(Place.body)), None)


@dataclass(frozen=True, slots=True)
class Route:
    """One method's address and the role that it needs."""

    verb: str
    path: str
    needs: Role
    service: str
    method: str
    function: Callable[..., Any]
    media: str = ""

    @property
    def path_arguments(self) -> tuple[str, ...]:
        return tuple(re.findall(r"{(\w+)(?::path)?}", self.path))

    @property
    def summary(self) -> str:
        return (inspect.getdoc(self.function) or self.method).splitlines()[0]

    @property
    def name(self) -> str:
        """`service.method`: what the OpenAPI document and the logs call it."""
        return f"{self.service}.{self.method}"

    @property
    def shape(self) -> Shape:
        return _shape(self)


def segment(text: str) -> str:
    """A name as one segment of a path.

    >>> segment("flights@dev/try-1"), from_segment("flights@dev~1try-1")
    ('flights@dev~1try-1', 'flights@dev/try-1')
    """
    return text.replace("~", "~0").replace("/", "~1")


def from_segment(text: str) -> str:
    """The name that a segment of a path says."""
    return text.replace("~1", "/").replace("~0", "~")


def route(spec: str, *, needs: Role, media: str = "") -> Callable[[F], F]:
    """Declare a service method's address, such as `@route("GET /tables/{name}", needs=Role.viewer)`.

    Paths are relative to `/api/v1`. `{name:path}` takes slashes too.
    """
    verb, _, path = spec.partition(" ")
    if verb not in {"GET", "POST", "PUT", "PATCH", "DELETE"} or not path.startswith("/"):
        raise ValueError(f"route {spec!r} is not 'VERB /path'")

    def mark(function: F) -> F:
        function.__fourfold_route__ = (verb, path, needs, media)  # type: ignore[attr-defined]
        return function

    return mark


def routes(service: str, protocol: type) -> Iterator[Route]:
    """The routes that a service protocol declares, in the order of its methods."""
    for name, function in vars(protocol).items():
        declared = getattr(function, "__fourfold_route__", None)
        if declared is not None:
            verb, path, needs, media = declared
            yield Route(verb, path, needs, service, name, function, media)


@cache
def _shape(route: Route) -> Shape:
    hints = _hints(route)
    signature = inspect.signature(route.function)
    parameters = [p for p in signature.parameters.values() if p.name != "self"]
    forms = {p.name: _form(hints[p.name]) for p in parameters}
    bodies = [
        name for name, form in forms.items() if form is not Form.json and name not in route.path_arguments
    ]
    if len(bodies) > 1:
        raise TypeError(f"{route.name} takes {' and '.join(bodies)}: only one argument may be the body")
    elsewhere = Place.query if bodies or route.verb in {"GET", "DELETE"} else Place.json

    def argument(p: inspect.Parameter) -> Argument:
        kind = hints[p.name]
        place = (
            Place.path if p.name in route.path_arguments else Place.body if p.name in bodies else elsewhere
        )
        return Argument(p.name, kind, place, p.default, forms[p.name], _writes(kind, p.default))

    result = hints.get("return", type(None))
    form = Form.nothing if result is type(None) else _form(result)
    return Shape(tuple(argument(p) for p in parameters), result, form)


class _ArrowNames:
    """Stands for pyarrow where a protocol imports it for type checkers only: a client that reads a
    declaration should not pay for the import."""

    Table = type("Table", (), {"__module__": "pyarrow.lib"})
    RecordBatchReader = type("RecordBatchReader", (), {"__module__": "pyarrow.lib"})


def _hints(route: Route) -> Mapping[str, Any]:
    local = {} if "pa" in route.function.__globals__ else {"pa": _ArrowNames, "pyarrow": _ArrowNames}
    try:
        return typing.get_type_hints(route.function, localns=local)
    except NameError as error:
        raise TypeError(
            f"{route.name}: {error}; a service protocol's types are imported, not only under TYPE_CHECKING"
        ) from error


_FORMS = {
    ("builtins", "bytes"): Form.bytes,
    ("pyarrow.lib", "Table"): Form.table,
    ("pyarrow.lib", "RecordBatchReader"): Form.batches,
}


def _form(kind: Any) -> Form:
    if Iterable[bytes] in _options(kind):
        return Form.pieces
    names = ((getattr(o, "__module__", ""), getattr(o, "__qualname__", "")) for o in _options(kind))
    found = {_FORMS[name] for name in names if name in _FORMS}
    if Form.batches in found:  # a table is one that came whole
        return Form.batches
    return next(iter(found), Form.json)


def _options(kind: Any) -> tuple[Any, ...]:
    """The members of a union, or the type itself."""
    if typing.get_origin(kind) in {typing.Union, types.UnionType}:
        return typing.get_args(kind)
    return (kind,)


def _writes(kind: Any, default: Any) -> Repeat:
    options = [o for o in _options(kind) if o is not type(None)]
    nullable = len(options) < len(_options(kind))
    if len(options) != 1 or (nullable and default is not None):
        return Repeat.json  # a bare text could not be told from a number, or from null
    (only,) = options
    if _is_text(only):
        return Repeat.text
    if typing.get_origin(only) in {tuple, list}:
        items = [item for item in typing.get_args(only) if item is not Ellipsis]
        if len(set(items)) == 1 and _is_text(items[0]) and default in ((), None, REQUIRED):
            return Repeat.texts
    return Repeat.json


def _is_text(kind: Any) -> bool:
    while isinstance(kind, NewType):
        kind = kind.__supertype__
    if typing.get_origin(kind) is typing.Literal:
        return all(isinstance(value, str) for value in typing.get_args(kind))
    return isinstance(kind, type) and issubclass(kind, str) and (kind is str or issubclass(kind, Enum))
