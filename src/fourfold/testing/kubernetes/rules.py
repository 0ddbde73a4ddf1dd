"""What Kubernetes demands of a body beyond its shape: names, labels, amounts, what may change."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from typing import Any

from fourfold.testing.kubernetes.errors import ApiError, invalid
from fourfold.testing.kubernetes.kinds import DEPLOYMENT, JOB, NODE, POD, SECRET, SERVICE, Kind

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_WORD = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_QUANTITY = re.compile(r"([+-]?\d+(?:\.\d*)?|[+-]?\.\d+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?\d+)?")
_FACTORS = {
    "": 1.0, "n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50, "Ei": 2.0**60,
}  # fmt: skip
_DATA_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")
MOST_DATA_BYTES = 1 << 20
MOST_ANNOTATION_BYTES = 256 << 10

Causes = Iterator[tuple[str, str]]


def quantity(text: object) -> float:
    """An amount as Kubernetes writes it.

    >>> quantity("250m"), quantity("1Gi"), quantity(2), quantity("1e3")
    (0.25, 1073741824.0, 2.0, 1000.0)
    """
    found = _QUANTITY.fullmatch(str(text))
    if not found:
        raise ValueError(f"{text!r} is no quantity")
    unit = found[2] or ""
    return float(found[1]) * (_FACTORS[unit] if unit in _FACTORS else float(f"1{unit}"))


def check_new(kind: Kind, body: Mapping[str, Any]) -> None:
    """Refuse what may not be created."""
    _refuse(kind, body, [*_metadata(kind, body["metadata"]), *_spec(kind, body)])


def check_change(kind: Kind, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuse a change of what is settled for good."""
    _refuse(kind, new, [*_metadata(kind, new["metadata"]), *_spec(kind, new), *_immutable(kind, old, new)])


def _refuse(kind: Kind, body: Mapping[str, Any], causes: list[tuple[str, str]]) -> None:
    if causes:
        error: ApiError = invalid(kind.name, str(body["metadata"].get("name", "")), causes)
        raise error


def _metadata(kind: Kind, metadata: Mapping[str, Any]) -> Causes:
    name = str(metadata.get("name") or "")
    is_label = kind == SERVICE
    most = 63 if is_label else 253
    if not (_LABEL if is_label else _SUBDOMAIN).fullmatch(name) or len(name) > most:
        yield "metadata.name", f"Invalid value: {name!r}: must be a lower case RFC 1123 name"
    for key, value in (metadata.get("labels") or {}).items():
        yield from _key(f"metadata.labels.{key}", key)
        if value and not _WORD.fullmatch(value):
            yield "metadata.labels", f"Invalid value: {value!r}: a label has at most 63 plain characters"
    annotations = metadata.get("annotations") or {}
    for key in annotations:
        yield from _key(f"metadata.annotations.{key}", key)
    if (
        sum(len(key.encode()) + len(text.encode()) for key, text in annotations.items())
        > MOST_ANNOTATION_BYTES
    ):
        yield "metadata.annotations", f"Too long: must have at most {MOST_ANNOTATION_BYTES} bytes"


def _key(field: str, key: str) -> Causes:
    prefix, slash, name = key.rpartition("/")
    if not _WORD.fullmatch(name) or (slash and not _SUBDOMAIN.fullmatch(prefix)):
        yield field, f"Invalid value: {key!r}: name part must consist of alphanumeric characters"


def _spec(kind: Kind, body: Mapping[str, Any]) -> Causes:
    spec = body.get("spec") or {}
    if kind == POD:
        yield from _pod(spec, "spec")
    elif kind == JOB:
        template = spec["template"]
        yield from _pod(template.get("spec") or {}, "spec.template.spec")
        if (template.get("spec") or {}).get("restartPolicy", "Always") not in ("Never", "OnFailure"):
            yield "spec.template.spec.restartPolicy", 'Required value: valid values: "OnFailure", "Never"'
        for name, least in (
            ("activeDeadlineSeconds", 0),
            ("ttlSecondsAfterFinished", 0),
            ("backoffLimit", 0),
        ):
            if (spec.get(name) or 0) < least:
                yield f"spec.{name}", "must be greater than or equal to 0"
        if len(str(body["metadata"].get("name"))) > 63:
            yield "metadata.name", "must be no more than 63 characters"
    elif kind == DEPLOYMENT:
        template = spec["template"]
        yield from _pod(template.get("spec") or {}, "spec.template.spec")
        if (template.get("spec") or {}).get("restartPolicy", "Always") != "Always":
            yield "spec.template.spec.restartPolicy", 'Unsupported value: supported values: "Always"'
        wanted = (spec.get("selector") or {}).get("matchLabels") or {}
        labels = (template.get("metadata") or {}).get("labels") or {}
        if not wanted or any(labels.get(key) != value for key, value in wanted.items()):
            yield "spec.template.metadata.labels", "`selector` does not match template `labels`"
    elif kind == SECRET:
        yield from _secret(body)
    elif kind == SERVICE and not spec.get("ports") and spec.get("clusterIP") != "None":
        yield "spec.ports", "Required value"
    elif kind == NODE:
        for name, amount in ((body.get("status") or {}).get("allocatable") or {}).items():
            yield from _amount(f"status.allocatable.{name}", amount)


def _secret(body: Mapping[str, Any]) -> Causes:
    size = 0
    for key, text in (body.get("data") or {}).items():
        if not _DATA_KEY.fullmatch(key):
            yield (
                f"data[{key}]",
                "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            )
        try:
            size += len(base64.b64decode(text, validate=True))
        except (binascii.Error, ValueError):
            yield f"data[{key}]", "illegal base64 data"
    if size > MOST_DATA_BYTES:
        yield "data", f"Too long: must have at most {MOST_DATA_BYTES} bytes"


def _pod(spec: Mapping[str, Any], at: str) -> Causes:
    names = set()
    volumes = {volume["name"] for volume in spec.get("volumes") or ()}
    if not spec.get("containers"):
        yield f"{at}.containers", "Required value"
    for index, container in enumerate(spec.get("containers") or ()):
        where = f"{at}.containers[{index}]"
        name = container["name"]
        if not _LABEL.fullmatch(name) or name in names:
            yield f"{where}.name", f"Invalid value: {name!r}"
        names.add(name)
        if not container.get("image"):
            yield f"{where}.image", "Required value"
        for variable in container.get("env") or ():
            bad = not variable["name"] or "=" in variable["name"] or not variable["name"].isprintable()
            if bad or not variable["name"].isascii():
                yield (
                    f"{where}.env",
                    f"Invalid value: {variable['name']!r}: a valid environment variable name",
                )
        for mount in container.get("volumeMounts") or ():
            if mount["name"] not in volumes:
                yield f"{where}.volumeMounts", f"Not found: {mount['name']!r}"
        asked = container.get("resources") or {}
        for name, amount in (asked.get("requests") or {}).items():
            yield from _amount(f"{where}.resources.requests.{name}", amount)
            limit = (asked.get("limits") or {}).get(name)
            if limit is not None and quantity(amount) > quantity(limit):
                yield (
                    f"{where}.resources.requests",
                    f"Invalid value: {amount!r}: must be at most {name} limit",
                )
        for name, amount in (asked.get("limits") or {}).items():
            yield from _amount(f"{where}.resources.limits.{name}", amount)
            if "/" in name and quantity(amount) % 1:
                yield f"{where}.resources.limits.{name}", "must be an integer"
    if (spec.get("activeDeadlineSeconds") or 1) < 1:
        yield f"{at}.activeDeadlineSeconds", "must be greater than or equal to 1"
    if (spec.get("terminationGracePeriodSeconds") or 0) < 0:
        yield f"{at}.terminationGracePeriodSeconds", "must be greater than or equal to 0"


def _amount(field: str, amount: object) -> Causes:
    try:
        negative = quantity(amount) < 0
    except ValueError:
        yield field, f"Invalid value: {amount!r}: quantities must match the regular expression"
        return
    if negative:
        yield field, f"Invalid value: {amount!r}: must be greater than or equal to 0"


def _immutable(kind: Kind, old: Mapping[str, Any], new: Mapping[str, Any]) -> Causes:
    before, after = old.get("spec") or {}, new.get("spec") or {}
    if kind == JOB:
        for name in ("template", "selector", "completions", "completionMode", "podFailurePolicy"):
            if before.get(name) != after.get(name):
                yield f"spec.{name}", "Invalid value: field is immutable"
    elif kind == POD:
        settled = {**before, "activeDeadlineSeconds": 0, "tolerations": 0, "nodeName": 0}
        if settled != {**after, "activeDeadlineSeconds": 0, "tolerations": 0, "nodeName": 0}:
            yield "spec", "Forbidden: pod updates may not change fields other than `activeDeadlineSeconds`"
    elif kind == DEPLOYMENT and before.get("selector") != after.get("selector"):
        yield "spec.selector", "Invalid value: field is immutable"
    elif kind == SECRET and old.get("immutable"):
        for name in ("data", "type", "immutable"):
            if old.get(name) != new.get(name):
                yield name, "Forbidden: field is immutable when `immutable` is set"
