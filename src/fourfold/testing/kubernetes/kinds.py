"""The kinds of object that the small Kubernetes knows, as discovery tells them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True, slots=True)
class Kind:
    group: str
    version: str
    name: str
    plural: str
    short: tuple[str, ...] = ()
    is_namespaced: bool = True
    subresources: tuple[str, ...] = ()

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def base(self) -> str:
        """Where its group and version are served."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"


POD = Kind("", "v1", "Pod", "pods", ("po",), subresources=("log", "status"))
SERVICE = Kind("", "v1", "Service", "services", ("svc",))
SECRET = Kind("", "v1", "Secret", "secrets")
CONFIG_MAP = Kind("", "v1", "ConfigMap", "configmaps", ("cm",))
EVENT = Kind("", "v1", "Event", "events", ("ev",))
NAMESPACE = Kind("", "v1", "Namespace", "namespaces", ("ns",), is_namespaced=False)
NODE = Kind("", "v1", "Node", "nodes", ("no",), is_namespaced=False, subresources=("status",))
JOB = Kind("batch", "v1", "Job", "jobs", subresources=("status",))
DEPLOYMENT = Kind("apps", "v1", "Deployment", "deployments", ("deploy",), subresources=("scale", "status"))
REPLICA_SET = Kind("apps", "v1", "ReplicaSet", "replicasets", ("rs",), subresources=("status",))

KINDS = (
    CONFIG_MAP, DEPLOYMENT, EVENT, JOB, NAMESPACE, NODE, POD, REPLICA_SET, SECRET, SERVICE,
)  # fmt: skip
SHOWN = (DEPLOYMENT, JOB, POD, REPLICA_SET, SERVICE)
"""What `kubectl get all` shows."""


def groups() -> dict[str, str]:
    """Each named group and its version."""
    return {kind.group: kind.version for kind in KINDS if kind.group}


def served_at(base: str) -> list[Kind]:
    """The kinds of one group and version: `/api/v1`, `/apis/batch/v1`."""
    return [kind for kind in KINDS if kind.base == base]


def resource_list(base: str) -> dict[str, Any] | None:
    """What discovery says of a group and version."""
    kinds = served_at(base)
    if not kinds:
        return None
    rows: list[Mapping[str, Any]] = []
    for kind in kinds:
        common = {"singularName": kind.name.lower(), "namespaced": kind.is_namespaced, "kind": kind.name}
        categories = ("all",) if kind in SHOWN else ()
        found = {"verbs": VERBS, "shortNames": kind.short, "categories": categories}
        rows.append({"name": kind.plural, **common, **found})
        for sub in kind.subresources:
            verbs = ("get",) if sub == "log" else ("get", "patch", "update")
            row = {"name": f"{kind.plural}/{sub}", **common, "singularName": "", "verbs": verbs}
            if sub == "scale":
                row |= {"kind": "Scale", "group": "autoscaling", "version": "v1"}
            rows.append(row)
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": kinds[0].api_version,
        "resources": rows,
    }


def group_list() -> dict[str, Any]:
    return {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [
            {
                "name": group,
                "versions": [{"groupVersion": f"{group}/{version}", "version": version}],
                "preferredVersion": {"groupVersion": f"{group}/{version}", "version": version},
            }
            for group, version in sorted(groups().items())
        ],
    }
