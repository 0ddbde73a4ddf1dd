"""Bodies held against Kubernetes' own OpenAPI schemas, and those schemas as the server serves them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]

from fourfold.testing.kubernetes.errors import bad_request
from fourfold.testing.kubernetes.kinds import KINDS, Kind, served_at

GROUP_VERSION_KIND = "x-kubernetes-group-version-kind"
_PACKAGES = {"": "core", "batch": "batch", "apps": "apps"}


class Schemas:
    """One release's schemas, as the package `kubernetes-validate` carries them; none are kept here.

    `folder` is that package's `kubernetes-json-schema/v1.37.0-local-strict`, or the like.
    """

    def __init__(self, folder: Path) -> None:
        found = re.match(r"v(\d+\.\d+\.\d+)", folder.name)
        self.version = found[1] if found else "1.0.0"
        self._definitions: dict[str, Any] = json.loads((folder / "_definitions.json").read_text())["$defs"]
        self._checks: dict[str, jsonschema.Draft202012Validator] = {}

    def definition(self, kind: Kind) -> str:
        return f"io.k8s.api.{_PACKAGES[kind.group]}.{kind.version}.{kind.name}"

    def check(self, kind: Kind, body: Mapping[str, Any]) -> None:
        """Refuse a body of the wrong shape, or with a field that its kind does not have."""
        name = self.definition(kind)
        if name not in self._checks:
            schema = {"$ref": f"#/$defs/{name}", "$defs": self._definitions}
            self._checks[name] = jsonschema.Draft202012Validator(schema)
        errors = sorted(self._checks[name].iter_errors(body), key=lambda error: list(map(str, error.path)))
        if errors:
            said = "; ".join(f"{_path(error)}: {error.message[:300]}" for error in errors[:5])
            raise bad_request(
                f"{kind.name} in version {kind.version!r} cannot be handled as a {kind.name}: "
                f"strict decoding error: {said}"
            )

    def openapi_v3(self, base: str) -> dict[str, Any]:
        """The document of one group and version, with what `kubectl` looks for in it."""
        paths: dict[str, Any] = {}
        needed: set[str] = set()
        for kind in served_at(base):
            gvk = {"group": kind.group, "version": kind.version, "kind": kind.name}
            where = "/namespaces/{namespace}" if kind.is_namespaced else ""
            operation = {
                GROUP_VERSION_KIND: gvk,
                "parameters": [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}],
                "responses": {"200": {"description": "OK"}},
            }
            paths[f"{base}{where}/{kind.plural}/{{name}}"] = {
                verb: {**operation, "x-kubernetes-action": verb} for verb in ("get", "patch", "put")
            }
            self._collect(self.definition(kind), needed)
        schemas = {name: _for_openapi(self._definitions[name]) for name in sorted(needed)}
        for kind in served_at(base):
            schemas[self.definition(kind)][GROUP_VERSION_KIND] = [
                {"group": kind.group, "version": kind.version, "kind": kind.name}
            ]
        return {
            "openapi": "3.0.0",
            "info": {"title": "Kubernetes", "version": f"v{self.version}"},
            "paths": paths,
            "components": {"schemas": schemas},
        }

    def _collect(self, name: str, found: set[str]) -> None:
        if name in found:
            return
        found.add(name)
        for reference in re.findall(r'"#/\$defs/([^"]+)"', json.dumps(self._definitions[name])):
            self._collect(reference, found)


def openapi_v3_index() -> dict[str, Any]:
    bases = sorted({kind.base for kind in KINDS})
    return {"paths": {base[1:]: {"serverRelativeURL": f"/openapi/v3{base}"} for base in bases}}


def _for_openapi(value: Any) -> Any:
    """The schema as OpenAPI has it: the JSON form that we read says "or null" and names definitions else."""
    if isinstance(value, dict):
        made = {name: _for_openapi(each) for name, each in value.items()}
        kinds = made.get("type")
        if isinstance(kinds, list):
            made["type"] = next(each for each in kinds if each != "null")
        if isinstance(made.get("$ref"), str):
            made["$ref"] = made["$ref"].replace("#/$defs/", "#/components/schemas/")
        return made
    if isinstance(value, list):
        return [_for_openapi(each) for each in value]
    return value


def _path(error: jsonschema.ValidationError) -> str:
    return ".".join(map(str, error.absolute_path)) or "(whole)"
