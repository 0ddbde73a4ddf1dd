"""The OpenAPI document says what the routes are."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from fourfold.core.routes import PREFIX, Place, routes
from fourfold.server.openapi import document

from .conftest import Served
from .openapi_31 import OPENAPI_31
from .test_doors import all_service_protocols


@pytest.fixture(scope="module")
def spec() -> dict[str, Any]:
    declared = [r for name, protocol in all_service_protocols().items() for r in routes(name, protocol)]
    return document(declared, version="1.2.3")


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*map(references, value.values()))
    return set().union(*map(references, value)) if isinstance(value, list) else set()


def test_the_document_has_what_openapi_asks_for(spec: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(OPENAPI_31)
    Draft202012Validator(OPENAPI_31).validate(spec)
    ids = [operation["operationId"] for path in spec["paths"].values() for operation in path.values()]
    assert len(ids) == len(set(ids))
    for path, operations in spec["paths"].items():
        for operation in operations.values():
            in_path = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
            assert in_path == set(re.findall(r"{(\w+)}", path))
            assert operation["summary"]
            for needed in operation.get("security", spec["security"]):
                assert set(needed) <= set(spec["components"]["securitySchemes"])


def test_every_reference_leads_somewhere_and_every_schema_is_one(spec: dict[str, Any]) -> None:
    schemas = spec["components"]["schemas"]
    for reference in references(spec):
        assert reference.removeprefix("#/components/schemas/") in schemas
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["openapi"], "3.0.0"),
        (["info"], {"title": "x"}),
        (["paths", "no-slash"], {}),
        (["paths", "/api/v1/tables", "fetch"], {}),
        (["paths", "/api/v1/tables", "get", "responses"], {"ok": {"description": ""}}),
        (["paths", "/api/v1/tables/{name}", "get", "parameters", 0, "required"], False),
        (["paths", "/api/v1/tables/{name}", "get", "parameters", 0, "content"], {"a/b": {}}),
    ],
)
def test_a_planted_mistake_is_seen(spec: dict[str, Any], path: list[Any], value: Any) -> None:
    planted = copy.deepcopy(spec)
    place: Any = planted
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    assert not Draft202012Validator(OPENAPI_31).is_valid(planted)


def test_every_declared_route_is_in_the_document(spec: dict[str, Any]) -> None:
    count = 0
    for name, protocol in all_service_protocols().items():
        for route in routes(name, protocol):
            operation = spec["paths"][PREFIX + route.path.replace(":path", "")][route.verb.lower()]
            assert operation["operationId"] == route.name
            assert operation["x-needs-role"] == route.needs.name
            body = operation.get("requestBody", {}).get("content", {}).get("application/json")
            fields = {a.name for a in route.shape.at(Place.json)}
            assert set(body["schema"]["properties"] if body else ()) == fields
            count += 1
    assert count == sum(len(operations) for operations in spec["paths"].values())


def test_real_answers_meet_the_document(served: Served) -> None:
    client = served.client()
    spec = client.get("/api/v1/openapi.json").json()
    asked = [
        ("get", "/leaves", "/leaves", None),
        ("put", "/leaves/{name}", "/leaves/oak", {"leaf": {"size": 3, "notes": {"a": 0.5}}}),
        ("get", "/leaves/{name}", "/leaves/oak", None),
        ("get", "/leaves/{name}", "/leaves/elm", None),
        ("get", "/leaves", "/leaves?most=x", None),
    ]
    for verb, template, path, body in asked:
        response = client.request(verb, "/api/v1" + path, json=body)
        responses = spec["paths"]["/api/v1" + template][verb]["responses"]
        told = responses.get(str(response.status_code), responses["default"])
        schema = told["content"]["application/json"]["schema"]
        Draft202012Validator({**schema, "components": spec["components"]}).validate(response.json())
        if body is not None:
            sent = spec["paths"]["/api/v1" + template][verb]["requestBody"]["content"]["application/json"]
            Draft202012Validator({**sent["schema"], "components": spec["components"]}).validate(body)
