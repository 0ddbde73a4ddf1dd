"""The OpenAPI 3.1 document, made from the declarations alone."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from fourfold.core.routes import PREFIX, Argument, Form, Place, Repeat, Route
from fourfold.server.dispatch import ARROW, BYTES, JSON

ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "ways_on", "facts"],
            "properties": {
                "code": {"type": "string"},
                "message": {"type": "string"},
                "ways_on": {"type": "array", "items": {"type": "string"}},
                "facts": {"type": "object"},
            },
        }
    },
}
"""What every answer of 400 and more holds."""


def document(routes: Iterable[Route], *, version: str) -> dict[str, Any]:
    """The whole document; the same routes give the same document."""
    routes = tuple(routes)
    kinds = [kind for route in routes for kind in _json_kinds(route)]
    schemas, components = msgspec.json.schema_components(
        kinds, schema_hook=_anything, ref_template="#/components/schemas/{name}"
    )
    by_kind = dict(zip(map(repr, kinds), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        path = PREFIX + re.sub(r":path}", "}", route.path)
        paths.setdefault(path, {})[route.verb.lower()] = _operation(route, by_kind)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Fourfold",
            "version": version,
            "description": "The same services that the Python package calls, over HTTP.",
        },
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": {**dict(sorted(components.items())), "Error": ERROR},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


def _anything(kind: type) -> dict[str, Any]:
    """The schema of `object`: any JSON. Other kinds that cannot be described should not travel."""
    if kind is object:
        return {"description": "Any JSON value."}
    raise NotImplementedError(f"{kind} has no schema")


def _json_kinds(route: Route) -> Iterable[Any]:
    for argument in route.shape.arguments:
        if argument.place is not Place.body:
            yield argument.kind
    if route.shape.result_form is Form.json:
        yield route.shape.result


def _operation(route: Route, by_kind: Mapping[str, Any]) -> dict[str, Any]:
    shape = route.shape
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "description": inspect.getdoc(route.function) or "",
        "tags": [route.service],
        "x-needs-role": route.needs.name,
        "parameters": [_parameter(a, by_kind) for a in (*shape.at(Place.path), *shape.at(Place.query))],
        "responses": {
            "204" if shape.result_form is Form.nothing else "200": _success(route, by_kind),
            "default": {
                "description": "What went wrong, and what to do next.",
                "content": {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}},
            },
        },
    }
    if shape.body is not None:
        operation["requestBody"] = {"required": True, "content": _content(shape.body.form, None)}
    elif fields := shape.at(Place.json):
        required = [a.name for a in fields if a.is_required]
        operation["requestBody"] = {
            "required": bool(required),
            "content": {
                JSON: {
                    "schema": {
                        "type": "object",
                        "properties": {a.name: _schema(a, by_kind) for a in fields},
                        "required": required,
                        "additionalProperties": False,
                    }
                }
            },
        }
    return operation


def _parameter(argument: Argument, by_kind: Mapping[str, Any]) -> dict[str, Any]:
    parameter: dict[str, Any] = {
        "name": argument.name,
        "in": argument.place.value,
        "required": argument.place is Place.path or argument.is_required,
    }
    schema = _schema(argument, by_kind)
    if argument.place is Place.query and argument.writes is Repeat.json:
        return parameter | {"content": {JSON: {"schema": schema}}}
    return parameter | {"schema": schema}


def _schema(argument: Argument, by_kind: Mapping[str, Any]) -> dict[str, Any]:
    schema = by_kind[repr(argument.kind)]
    if argument.is_required or argument.place is Place.path:
        return dict(schema)
    return {**schema, "default": msgspec.to_builtins(argument.default)}


def _success(route: Route, by_kind: Mapping[str, Any]) -> dict[str, Any]:
    form = route.shape.result_form
    if form is Form.nothing:
        return {"description": "Done."}
    schema = by_kind[repr(route.shape.result)] if form is Form.json else None
    content = (
        {route.media: {"schema": {"contentMediaType": route.media}}}
        if route.media
        else _content(form, schema)
    )
    return {"description": "The result.", "content": content}


def _content(form: Form, schema: Any) -> dict[str, Any]:
    match form:
        case Form.json:
            return {JSON: {"schema": schema}}
        case Form.bytes | Form.pieces:
            return {BYTES: {"schema": {"contentMediaType": BYTES}}}
        case Form.table | Form.batches:
            return {ARROW: {"schema": {"contentMediaType": ARROW}}}
        case Form.nothing:
            return {}
