"""What a flow's body does besides calling steps, done once and remembered.

Inside a body every service call that has a route is an implicit step: its answer is recorded, and when
the body is run again the record answers. Elsewhere the proxy only passes calls on.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from fourfold.core.routes import routes
from fourfold.resources.flows import body as bodies

S = TypeVar("S")


def journalled(service: S, *, name: str, protocol: type) -> S:
    """The service, with its routed methods journalled inside flow bodies. Other methods pass through."""
    return _Journalled(service, name, protocol)  # type: ignore[return-value]


class _Journalled:
    def __init__(self, service: object, name: str, protocol: type) -> None:
        self._service = service
        for route in routes(name, protocol):
            inner = getattr(service, route.method, None)
            if inner is not None:
                setattr(self, route.method, _wrap(inner, f"{name}.{route.method}", route.function))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._service, name)

    def __repr__(self) -> str:
        return repr(self._service)


def _wrap(inner: Callable[..., Any], name: str, declared: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(declared)

    def call(*args: Any, **kwargs: Any) -> Any:
        body = bodies.current()
        if body is None:
            return inner(*args, **kwargs)
        try:
            bound = signature.bind(None, *args, **kwargs)
        except TypeError:
            return inner(*args, **kwargs)  # raises the same, with the method's own name
        arguments = {key: _whole(value) for key, value in bound.arguments.items() if key != "self"}

        def perform() -> Any:
            with bodies.running(None):
                return _whole(inner(**arguments))

        return _streamed(body.effect(name, arguments, perform), declared)

    call.__name__ = name.rpartition(".")[2]
    call.__doc__ = declared.__doc__
    return call


def _whole(value: Any) -> Any:
    """A stream as a table, and pieces as bytes: they can be read once, and a record must be read again."""
    pyarrow = sys.modules.get("pyarrow")
    if pyarrow is not None and isinstance(value, pyarrow.RecordBatchReader):
        return value.read_all()
    return b"".join(value) if isinstance(value, Iterator) else value


def _streamed(value: Any, declared: Callable[..., Any]) -> Any:
    """The table as a stream again, where the method promises one."""
    if "RecordBatchReader" in str(declared.__annotations__.get("return", "")) and hasattr(value, "to_reader"):
        return value.to_reader()
    return value
