"""The API server's answers: what each path and verb means, without the wire."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from fourfold.testing.kubernetes import kinds as k
from fourfold.testing.kubernetes.errors import ApiError, bad_request, conflict, gone, not_found
from fourfold.testing.kubernetes.kinds import KINDS, Kind
from fourfold.testing.kubernetes.patch import patched
from fourfold.testing.kubernetes.rules import check_change, check_new
from fourfold.testing.kubernetes.schema import Schemas, openapi_v3_index
from fourfold.testing.kubernetes.selectors import fields_match, labels_match
from fourfold.testing.kubernetes.store import Change, Item, Store

ORPHANS_BY_DEFAULT = (k.JOB,)
"""Whose dependants stay when they are deleted and nothing is said of it."""
DISCOVERY = ("/healthz", "/livez", "/readyz", "/version")


@dataclass(frozen=True, slots=True)
class Request:
    verb: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    content_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Target:
    """What a path names."""

    kind: Kind
    namespace: str = ""
    name: str = ""
    sub: str = ""


class Api:
    """Answers requests about objects; `log` and watching are the server's, because they stream."""

    def __init__(self, store: Store, schemas: Schemas) -> None:
        self._store = store
        self._schemas = schemas

    def discovery(self, path: str) -> Any:
        """What a client asks before it asks for objects; `None` where the path is none of these."""
        major, minor, _ = self._schemas.version.split(".")
        match path:
            case "/healthz" | "/livez" | "/readyz":
                return "ok"
            case "/version":
                version = f"v{self._schemas.version}"
                return {"major": major, "minor": minor, "gitVersion": version, "platform": "linux/amd64"}
            case "/api":
                return {"kind": "APIVersions", "apiVersion": "v1", "versions": ["v1"]}
            case "/apis":
                return k.group_list()
            case "/openapi/v3":
                return openapi_v3_index()
            case _:
                base = path.removeprefix("/openapi/v3")
                if base != path:
                    return self._schemas.openapi_v3(base) if k.served_at(base) else None
                if (found := k.resource_list(path)) is not None:
                    return found
                groups = {f"/apis/{each['name']}": each for each in k.group_list()["groups"]}
                return {"kind": "APIGroup", "apiVersion": "v1", **groups[path]} if path in groups else None

    def target(self, path: str) -> Target:
        parts = [unquote(each) for each in path.strip("/").split("/")]
        base = "/" + "/".join(parts[: 2 if parts[0] == "api" else 3])
        rest = parts[2 if parts[0] == "api" else 3 :]
        namespace = ""
        if len(rest) >= 3 and rest[0] == "namespaces" and rest[2] != "status":
            namespace, rest = rest[1], rest[2:]
        for kind in KINDS:
            if kind.base == base and rest and kind.plural == rest[0]:
                name, sub = [*rest[1:], "", ""][:2]
                if name and kind.is_namespaced and not namespace:
                    break
                if sub and sub not in kind.subresources:
                    break
                return Target(kind, namespace, name, sub)
        raise ApiError(404, "NotFound", "the server could not find the requested resource")

    def answer(self, request: Request, target: Target) -> tuple[int, Any]:
        match request.verb, bool(target.name):
            case "GET", False:
                return 200, self._list(request, target)
            case "GET", True:
                item = self._store.get(target.kind, target.namespace, target.name)
                return 200, _scale(item) if target.sub == "scale" else item
            case "POST", False:
                return 201, self._create(request, target)
            case "PUT" | "PATCH", True:
                return 200, self._change(request, target)
            case "DELETE", True:
                return 200, self._delete(request, target)
            case "DELETE", False:
                for item in self._selected(request, target):
                    metadata = item["metadata"]
                    one = Target(target.kind, metadata.get("namespace", ""), metadata["name"])
                    self._delete(request, one)
                return 200, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
            case _:
                message = "the server does not allow this method on the requested resource"
                raise ApiError(405, "MethodNotAllowed", message)

    def watched(self, request: Request, target: Target, changes: Iterator[Change | int]) -> Iterator[Any]:
        """Changes as a watch tells them."""
        kind = target.kind
        if not request.query.get("resourceVersion", "").strip("0"):
            for item in self._selected(request, target):
                yield {"type": "ADDED", "object": {**_typed(kind), **item}}
        is_marked = request.query.get("allowWatchBookmarks") == "true"
        try:
            for each in changes:
                if isinstance(each, int):
                    if is_marked:
                        mark = {**_typed(kind), "metadata": {"resourceVersion": str(each)}}
                        yield {"type": "BOOKMARK", "object": mark}
                    else:
                        yield None
                elif _is_selected(request, each.item):
                    yield {"type": each.what, "object": {**_typed(kind), **each.item}}
        except ApiError as error:
            yield {"type": "ERROR", "object": error.status}

    # How.

    def _list(self, request: Request, target: Target) -> Item:
        with self._store.changed:
            items, version = self._selected(request, target), self._store.version
        token = request.query.get("continue", "")
        if token:
            try:
                version, after = json.loads(base64.urlsafe_b64decode(token))
            except ValueError as error:
                raise bad_request("continue key is not valid") from error
            if version < self._store.oldest:
                raise gone("The provided continue parameter is too old to display a consistent list result")
            items = [item for item in items if _place(item) > after]
        limit = int(request.query.get("limit") or 0)
        metadata: dict[str, Any] = {"resourceVersion": str(version)}
        if limit and len(items) > limit:
            metadata["remainingItemCount"] = len(items) - limit
            items = items[:limit]
            mark = json.dumps([version, _place(items[-1])]).encode()
            metadata["continue"] = base64.urlsafe_b64encode(mark).decode()
        kind = target.kind
        return {
            "kind": f"{kind.name}List",
            "apiVersion": kind.api_version,
            "metadata": metadata,
            "items": items,
        }

    def _selected(self, request: Request, target: Target) -> list[Item]:
        found = self._store.list(target.kind, target.namespace)
        return [{**_typed(target.kind), **item} for item in found if _is_selected(request, item)]

    def _create(self, request: Request, target: Target) -> Item:
        kind, body = target.kind, _json(request.body)
        if not isinstance(body, dict):
            raise bad_request("the body is no object")
        for name, wanted in _typed(kind).items():
            if body.setdefault(name, wanted) != wanted:
                raise bad_request(f"the body's {name} is {body[name]!r}, and the path's is {wanted!r}")
        metadata = body.setdefault("metadata", {})
        self._schemas.check(kind, body)
        if kind.is_namespaced:
            if metadata.setdefault("namespace", target.namespace) != target.namespace:
                raise bad_request("the namespace of the provided object does not match the request")
            if self._store.find(k.NAMESPACE, "", target.namespace) is None:
                raise not_found("namespaces", target.namespace)
        if metadata.get("generateName") and not metadata.get("name"):
            metadata["name"] = metadata["generateName"] + secrets.token_hex(3)[:5]
        if metadata.get("resourceVersion"):
            raise bad_request("resourceVersion should not be set on objects to be created")
        _defaulted(kind, body)
        check_new(kind, body)
        if request.query.get("dryRun"):
            return body
        return self._store.create(kind, body)

    def _change(self, request: Request, target: Target) -> Item:
        kind = target.kind
        for _ in range(5):
            old = self._store.get(kind, target.namespace, target.name)
            new = self._changed(request, target, old)
            if request.verb == "PATCH" and not _json(request.body).get("metadata", {}).get("resourceVersion"):
                new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"]
            self._schemas.check(kind, {**_typed(kind), **new})
            check_change(kind, old, new)
            if request.query.get("dryRun"):
                return new
            try:
                saved = self._store.replace(kind, new)
            except ApiError as error:
                # A patch that names no version is applied to the newest.
                named = new["metadata"]["resourceVersion"] != old["metadata"]["resourceVersion"]
                if error.code != 409 or request.verb == "PUT" or named:
                    raise
                continue
            return _scale(saved) if target.sub == "scale" else {**_typed(kind), **saved}
        raise conflict(kind.plural, target.name)

    def _changed(self, request: Request, target: Target, old: Item) -> Item:
        """The whole object after the request; of a subresource only its part changes."""
        body = _json(request.body)
        if target.sub == "scale":
            given = patched(request.content_type, _scale(old), body) if request.verb == "PATCH" else body
            return {**old, "spec": {**old["spec"], "replicas": given["spec"].get("replicas", 0)}}
        given = patched(request.content_type, old, body) if request.verb == "PATCH" else body
        if not isinstance(given, dict):
            raise bad_request("the body is no object")
        metadata = given.setdefault("metadata", {})
        metadata.setdefault("name", target.name)
        if metadata["name"] != target.name:
            raise bad_request("the name of the object does not match the name on the URL")
        if target.kind.is_namespaced:
            metadata["namespace"] = target.namespace
        if target.sub == "status":
            return {**old, "metadata": metadata, "status": given.get("status", {})}
        if "status" in old:
            given["status"] = old["status"]
        return given

    def _delete(self, request: Request, target: Target) -> Item:
        options = {**(_json(request.body) if request.body else {})}
        policy = options.get("propagationPolicy") or request.query.get("propagationPolicy") or ""
        if not policy and target.kind in ORPHANS_BY_DEFAULT:
            policy = "Orphan"
        grace = options.get("gracePeriodSeconds", request.query.get("gracePeriodSeconds"))
        item = self._store.get(target.kind, target.namespace, target.name)
        for name, wanted in (options.get("preconditions") or {}).items():
            if wanted and item["metadata"][name] != wanted:
                why = f"Precondition failed: {name} in precondition: {wanted}"
                raise conflict(target.kind.plural, target.name, why)
        if target.kind == k.NAMESPACE:
            for kind in KINDS:
                for each in self._store.list(kind, target.name) if kind.is_namespaced else ():
                    self._store.remove(kind, target.name, each["metadata"]["name"])
        gone_or_going = self._store.delete(
            target.kind,
            target.namespace,
            target.name,
            grace_s=None if grace is None else int(grace),
            policy=policy,
        )
        return {**_typed(target.kind), **gone_or_going}


def _typed(kind: Kind) -> dict[str, str]:
    return {"apiVersion": kind.api_version, "kind": kind.name}


def _is_selected(request: Request, item: Mapping[str, Any]) -> bool:
    labels = item["metadata"].get("labels") or {}
    return labels_match(request.query.get("labelSelector", ""), labels) and fields_match(
        request.query.get("fieldSelector", ""), item
    )


def _place(item: Mapping[str, Any]) -> list[str]:
    return [item["metadata"].get("namespace", ""), item["metadata"]["name"]]


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError as error:
        raise bad_request(f"the body is no JSON: {error}") from error


def _scale(item: Item) -> Item:
    metadata = item["metadata"]
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {name: metadata[name] for name in ("name", "namespace", "uid", "resourceVersion")},
        "spec": {"replicas": item["spec"].get("replicas", 1)},
        "status": {"replicas": (item.get("status") or {}).get("replicas", 0)},
    }


def _defaulted(kind: Kind, body: Item) -> None:
    """Fill in what Kubernetes fills in."""
    from fourfold.testing.kubernetes.controllers import service_address

    spec = body.get("spec")
    if kind == k.POD and spec:
        _pod_defaults(spec)
        body["status"] = {"phase": "Pending"}
    elif kind == k.JOB and spec:
        for name, value in {"parallelism": 1, "completions": 1, "backoffLimit": 6, "suspend": False}.items():
            spec.setdefault(name, value)
        _pod_defaults(spec["template"].setdefault("spec", {}))
        body["status"] = {}
    elif kind == k.DEPLOYMENT and spec:
        spec.setdefault("replicas", 1)
        _pod_defaults(spec["template"].setdefault("spec", {}))
        body["status"] = {}
    elif kind == k.SERVICE and spec:
        spec.setdefault("type", "ClusterIP")
        spec.setdefault("clusterIP", service_address(body["metadata"].get("name", "")))
        for port in spec.get("ports") or ():
            port.setdefault("targetPort", port["port"])
            port.setdefault("protocol", "TCP")
    elif kind == k.NAMESPACE:
        body["status"] = {"phase": "Active"}


def _pod_defaults(spec: Item) -> None:
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("terminationGracePeriodSeconds", 30)
