"""What the OpenAPI 3.1 specification asks of a document, as a JSON schema: the objects that we write."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]


def _object(required: list[str], properties: Schema, **more: Any) -> Schema:
    return {
        "type": "object",
        "required": required,
        "properties": properties,
        "patternProperties": {"^x-": {}},
        "additionalProperties": False,
        **more,
    }


def _ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def _map(name: str, **more: Any) -> Schema:
    return {"type": "object", "additionalProperties": _ref(name), **more}


TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}

OPENAPI_31: Schema = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    **_object(
        ["openapi", "info"],
        {
            "openapi": {"type": "string", "pattern": r"^3\.1\.\d+$"},
            "info": _ref("info"),
            "servers": {"type": "array"},
            "paths": {
                "type": "object",
                "propertyNames": {"pattern": "^/"},
                "additionalProperties": _ref("path_item"),
            },
            "components": _ref("components"),
            "security": {"type": "array", "items": _ref("security")},
            "tags": {"type": "array", "items": _object(["name"], {"name": TEXT, "description": TEXT})},
        },
        anyOf=[{"required": ["paths"]}, {"required": ["components"]}],
    ),
    "$defs": {
        "info": _object(
            ["title", "version"],
            {"title": TEXT, "version": TEXT, "summary": TEXT, "description": TEXT, "license": {}},
        ),
        "path_item": _object(
            [],
            {
                verb: _ref("operation")
                for verb in ("get", "put", "post", "delete", "patch", "head", "options")
            },
        ),
        "operation": _object(
            ["responses"],  # the specification lets it out; a caller wants it
            {
                "tags": {"type": "array", "items": TEXT},
                "summary": TEXT,
                "description": TEXT,
                "operationId": TEXT,
                "parameters": {"type": "array", "items": _ref("parameter"), "uniqueItems": True},
                "requestBody": _ref("request_body"),
                "responses": _ref("responses"),
                "deprecated": FLAG,
                "security": {"type": "array", "items": _ref("security")},
            },
        ),
        "parameter": _object(
            ["name", "in"],
            {
                "name": TEXT,
                "in": {"enum": ["query", "header", "path", "cookie"]},
                "description": TEXT,
                "required": FLAG,
                "schema": _ref("schema"),
                "content": _map("media_type", minProperties=1, maxProperties=1),
                "style": TEXT,
                "explode": FLAG,
            },
            oneOf=[{"required": ["schema"]}, {"required": ["content"]}],
            **{
                "if": {"properties": {"in": {"const": "path"}}},
                "then": {"properties": {"required": {"const": True}}, "required": ["required"]},
            },
        ),
        "request_body": _object(
            ["content"],
            {"description": TEXT, "required": FLAG, "content": _map("media_type", minProperties=1)},
        ),
        "responses": {
            "type": "object",
            "minProperties": 1,
            "patternProperties": {"^[1-5](?:[0-9]{2}|XX)$": _ref("response"), "^x-": {}},
            "properties": {"default": _ref("response")},
            "additionalProperties": False,
        },
        "response": _object(
            ["description"],
            {"description": TEXT, "headers": {"type": "object"}, "content": _map("media_type")},
        ),
        "media_type": _object([], {"schema": _ref("schema"), "example": {}, "encoding": {}}),
        "schema": {"type": ["object", "boolean"]},
        "components": _object(
            [],
            {
                "schemas": _map("schema", propertyNames={"pattern": r"^[a-zA-Z0-9._-]+$"}),
                "securitySchemes": {
                    "type": "object",
                    "additionalProperties": _object(
                        ["type", "scheme"],
                        {
                            "type": {"const": "http"},
                            "scheme": TEXT,
                            "bearerFormat": TEXT,
                            "description": TEXT,
                        },
                    ),
                },
            },
        ),
        "security": {"type": "object", "additionalProperties": {"type": "array", "items": TEXT}},
    },
}
