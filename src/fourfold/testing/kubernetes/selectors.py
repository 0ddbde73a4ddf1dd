"""Label and field selectors, as requests write them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fourfold.testing.kubernetes.errors import bad_request

_SET = re.compile(r"(?P<key>[^\s!=,()]+)\s+(?P<how>in|notin)\s*\((?P<values>[^)]*)\)")
_SPLIT = re.compile(r",(?![^(]*\))")
FIELDS = (
    "metadata.name", "metadata.namespace", "spec.nodeName", "status.phase", "reason", "type",
    "involvedObject.name", "involvedObject.namespace", "involvedObject.uid", "involvedObject.kind",
)  # fmt: skip


def labels_match(selector: str, labels: Mapping[str, str]) -> bool:
    """Whether labels meet a selector.

    >>> labels_match("app=a,tier in (x, y),!old", {"app": "a", "tier": "y"})
    True
    >>> labels_match("app!=a", {"app": "a"})
    False
    """
    return all(_label(part.strip(), labels) for part in _SPLIT.split(selector) if part.strip())


def _label(part: str, labels: Mapping[str, str]) -> bool:
    if found := _SET.fullmatch(part):
        values = [each.strip() for each in found["values"].split(",")]
        return (labels.get(found["key"]) in values) == (found["how"] == "in")
    if "!=" in part:
        key, _, value = part.partition("!=")
        return labels.get(key.strip()) != value.strip()
    if "=" in part:
        key, _, value = part.partition("=")
        return labels.get(key.strip()) == value.removeprefix("=").strip()
    if part.startswith("!"):
        return part[1:].strip() not in labels
    if re.search(r"\s", part):
        raise bad_request(f"unable to parse requirement: {part!r}")
    return part in labels


def fields_match(selector: str, item: Mapping[str, Any]) -> bool:
    for part in filter(None, selector.split(",")):
        path, _, value = part.partition("=")
        differs = path.endswith("!")
        path, value = path.removesuffix("!"), value.removeprefix("=")
        if path not in FIELDS:
            raise bad_request(f"field label not supported: {path}")
        at: Any = item
        for name in path.split("."):
            at = (at or {}).get(name)
        if (str(at or "") == value) == differs:
            return False
    return True
