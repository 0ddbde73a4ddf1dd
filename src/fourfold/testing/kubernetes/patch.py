"""The three ways to change an object in part: merge, strategic merge by key, and JSON patch."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from fourfold.testing.kubernetes.errors import ApiError, bad_request

MERGE_KEYS: Mapping[str, tuple[str, ...]] = {
    # lists that Kubernetes' schemas mark `x-kubernetes-patch-strategy: merge`, and the keys of their elements
    "containers": ("name",),
    "initContainers": ("name",),
    "env": ("name",),
    "volumes": ("name",),
    "volumeMounts": ("mountPath",),
    "imagePullSecrets": ("name",),
    "ports": ("containerPort", "port"),
    "conditions": ("type",),
    "ownerReferences": ("uid",),
    "addresses": ("type",),
}
SETS = ("finalizers",)
TYPES = {
    "application/merge-patch+json": "merge",
    "application/strategic-merge-patch+json": "strategic",
    "application/json-patch+json": "json",
}


def patched(content_type: str, old: Mapping[str, Any], patch: Any) -> dict[str, Any]:
    """The object after a patch; server-side apply is refused."""
    way = TYPES.get(content_type.partition(";")[0].strip())
    if way is None:
        raise ApiError(
            415,
            "UnsupportedMediaType",
            "the body of the request was in an unknown format - accepted media types include: "
            + ", ".join(TYPES),
        )
    result: Any
    if way == "json":
        result = _json_patch(old, patch)
    elif not isinstance(patch, dict):
        raise bad_request("a patch of this type is an object")
    else:
        result = _merged(copy.deepcopy(dict(old)), patch, is_strategic=way == "strategic")
    if not isinstance(result, dict):
        raise bad_request("what the patch leaves is no object")
    return result


def _merged(old: Any, patch: Any, *, is_strategic: bool) -> Any:
    if not isinstance(patch, dict):
        return patch
    if is_strategic and patch.get("$patch") == "replace":
        return {name: value for name, value in patch.items() if name != "$patch"}
    result = dict(old) if isinstance(old, dict) else {}
    for name, value in patch.items():
        if is_strategic and name.startswith(("$setElementOrder/", "$retainKeys")):
            continue
        if is_strategic and name.startswith("$deleteFromPrimitiveList/"):
            of = name.partition("/")[2]
            result[of] = [each for each in result.get(of) or [] if each not in value]
        elif value is None:
            result.pop(name, None)
        elif is_strategic and isinstance(value, list) and name in SETS:
            result[name] = [
                *(result.get(name) or []),
                *(e for e in value if e not in (result.get(name) or [])),
            ]
        elif is_strategic and isinstance(value, list) and name in MERGE_KEYS:
            result[name] = _merged_list(result.get(name) or [], value, MERGE_KEYS[name])
        else:
            result[name] = _merged(result.get(name), value, is_strategic=is_strategic)
    return result


def _merged_list(old: list[Any], patch: list[Any], keys: tuple[str, ...]) -> list[Any]:
    key = next((each for each in keys if any(each in item for item in patch)), keys[0])
    result = list(old)
    for item in patch:
        at = next((i for i, each in enumerate(result) if each.get(key) == item.get(key)), None)
        if item.get("$patch") == "delete":
            result = [each for each in result if each.get(key) != item.get(key)]
        elif at is None:
            result.append(item)
        else:
            result[at] = _merged(result[at], item, is_strategic=True)
    return result


def _json_patch(old: Mapping[str, Any], patch: Any) -> Any:
    if not isinstance(patch, list):
        raise bad_request("a JSON patch is a list")
    holder: dict[str, Any] = {"": copy.deepcopy(dict(old))}
    for step in patch:
        parts = [each.replace("~1", "/").replace("~0", "~") for each in str(step["path"]).split("/")]
        try:
            where: Any = holder
            for part in parts[:-1]:
                where = where[int(part)] if isinstance(where, list) else where[part]
            _step(where, parts[-1], step)
        except (KeyError, IndexError, ValueError, TypeError) as error:
            message = f"the server rejected our request due to an error in our request: {step!r}"
            raise ApiError(422, "Invalid", message) from error
    return holder[""]


def _step(where: Any, last: str, step: Mapping[str, Any]) -> None:
    at: Any = (len(where) if last == "-" else int(last)) if isinstance(where, list) else last
    match step["op"]:
        case "add" if isinstance(where, list):
            where.insert(at, step["value"])
        case "add":
            where[at] = step["value"]
        case "replace":
            where[at]  # it has to be there
            where[at] = step["value"]
        case "remove":
            del where[at]
        case "test":
            if where[at] != step["value"]:
                raise ValueError("a test of the patch does not hold")
        case other:
            raise ValueError(f"{other!r} is no step of ours")
