"""What keeps a cluster as it is described: jobs, deployments, the scheduler, owners and their dependants."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from fourfold.testing.kubernetes.errors import ApiError
from fourfold.testing.kubernetes.kinds import DEPLOYMENT, EVENT, JOB, KINDS, NODE, POD, REPLICA_SET, Kind
from fourfold.testing.kubernetes.rules import quantity
from fourfold.testing.kubernetes.selectors import labels_match
from fourfold.testing.kubernetes.store import FOREGROUND, ORPHAN, Item, Store, now_text

TRACKED = "batch.kubernetes.io/job-tracking"
JOB_NAME = "batch.kubernetes.io/job-name"
TEMPLATE_HASH = "pod-template-hash"


class Controllers:
    """Each call of `tend` brings the cluster one step nearer to what it is to be."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def tend(self) -> None:
        for job in self._store.list(JOB):
            self._job(job)
        for deployment in self._store.list(DEPLOYMENT):
            self._deployment(deployment)
        for replicas in self._store.list(REPLICA_SET):
            self._replica_set(replicas)
        self._orphans()
        self._schedule()

    # Jobs.

    def _job(self, job: Item) -> None:
        metadata, spec = job["metadata"], job["spec"]
        status = dict(job.get("status") or {})
        pods = self._owned(POD, job)
        if _is_true(status, "Complete") or _is_true(status, "Failed"):
            for pod in pods:
                self._let_go(pod)
            kept_s = spec.get("ttlSecondsAfterFinished")
            if kept_s is not None and _age_s(_finished(status)) >= kept_s:
                self._store.delete(JOB, metadata["namespace"], metadata["name"], policy="Background")
            return
        if metadata.get("deletionTimestamp"):
            return
        for pod in pods:
            if pod["status"].get("phase") in ("Succeeded", "Failed"):
                name = "succeeded" if pod["status"]["phase"] == "Succeeded" else "failed"
                known = status.setdefault("uncountedTerminatedPods", {}).setdefault(name, [])
                if pod["metadata"]["uid"] not in known:
                    known.append(pod["metadata"]["uid"])
        counted = status.get("uncountedTerminatedPods", {})
        done, failed = len(counted.get("succeeded", ())), len(counted.get("failed", ()))
        live = [pod for pod in pods if pod["status"].get("phase") in ("Pending", "Running")]
        lost = [pod for pod in live if pod["metadata"].get("deletionTimestamp") and _is_disrupted(pod)]
        wanted = spec.get("completions", 1)
        status |= {"succeeded": done, "failed": failed + len(lost), "active": len(live) - len(lost)}
        if spec.get("suspend"):
            for pod in live:
                if not pod["metadata"].get("deletionTimestamp"):
                    self._store.delete(POD, metadata["namespace"], pod["metadata"]["name"])
            status.pop("startTime", None)
            _condition(status, "Suspended", "JobSuspended", "Job suspended")
            for pod in pods:
                self._let_go(pod)
        elif done >= wanted:
            _condition(status, "Complete", "CompletionsReached", "Reached expected number of succeeded pods")
            status["completionTime"] = now_text()
        elif failed + len(lost) > spec.get("backoffLimit", 6):
            why = "Job has reached the specified backoff limit"
            _condition(status, "Failed", "BackoffLimitExceeded", why)
        elif _is_late(spec, status):
            for pod in live:
                self._store.delete(POD, metadata["namespace"], pod["metadata"]["name"])
            why = "Job was active longer than specified deadline"
            _condition(status, "Failed", "DeadlineExceeded", why)
        else:
            status.setdefault("startTime", now_text())
            for _ in range(min(spec.get("parallelism", 1), wanted - done) - len(live)):
                self._make_pod(JOB, job, spec["template"], finalizers=[TRACKED])
        self._tell_status(JOB, job, status)

    def _let_go(self, pod: Item) -> None:
        """The pod is counted: only who deletes it holds it now."""
        phase = pod["status"].get("phase")
        is_over = phase in ("Succeeded", "Failed")
        if TRACKED in (pod["metadata"].get("finalizers") or ()) and is_over:
            metadata = pod["metadata"]

            def act(item: Item) -> None:
                item["metadata"]["finalizers"] = [e for e in item["metadata"]["finalizers"] if e != TRACKED]

            self._store.change(POD, metadata["namespace"], metadata["name"], act)
            if metadata.get("deletionTimestamp"):
                self._store.remove(POD, metadata["namespace"], metadata["name"])

    # Deployments.

    def _deployment(self, deployment: Item) -> None:
        metadata, spec = deployment["metadata"], deployment["spec"]
        if metadata.get("deletionTimestamp"):
            return
        digest = hashlib.sha256(json.dumps(spec["template"], sort_keys=True).encode()).hexdigest()[:10]
        name, wanted = f"{metadata['name']}-{digest}", spec.get("replicas", 1)
        owned = {each["metadata"]["name"]: each for each in self._owned(REPLICA_SET, deployment)}
        old_pods = 0
        for other, replicas in owned.items():
            if other != name:
                old_pods += (replicas.get("status") or {}).get("replicas", 0)
                self._scale(replicas, 0)
        recreates = (spec.get("strategy") or {}).get("type") == "Recreate"
        if name not in owned and not (recreates and old_pods):
            template = json.loads(json.dumps(spec["template"]))
            template.setdefault("metadata", {}).setdefault("labels", {})[TEMPLATE_HASH] = digest
            self._create(
                REPLICA_SET,
                {
                    "apiVersion": "apps/v1",
                    "kind": "ReplicaSet",
                    "metadata": {
                        "name": name,
                        "namespace": metadata["namespace"],
                        "labels": template["metadata"]["labels"],
                        "ownerReferences": [_owner(DEPLOYMENT, deployment)],
                    },
                    "spec": {
                        "replicas": wanted,
                        "selector": {"matchLabels": template["metadata"]["labels"]},
                        "template": template,
                    },
                },
            )
        elif name in owned:
            self._scale(owned[name], wanted)
        current = (owned.get(name) or {}).get("status") or {}
        ready = current.get("readyReplicas", 0)
        status = {
            "observedGeneration": metadata.get("generation", 1),
            "replicas": current.get("replicas", 0) + old_pods,
            "updatedReplicas": current.get("replicas", 0),
            "readyReplicas": ready,
            "availableReplicas": ready,
            "unavailableReplicas": max(0, wanted - ready),
            "conditions": [
                {
                    "type": "Available",
                    "status": "True" if ready >= wanted else "False",
                    "reason": "MinimumReplicasAvailable" if ready >= wanted else "MinimumReplicasUnavailable",
                }
            ],
        }
        self._tell_status(DEPLOYMENT, deployment, status)

    def _scale(self, replicas: Item, count: int) -> None:
        if replicas["spec"].get("replicas") != count:
            metadata = replicas["metadata"]
            self._store.change(
                REPLICA_SET, metadata["namespace"], metadata["name"],
                lambda item: item["spec"].__setitem__("replicas", count),
            )  # fmt: skip

    def _replica_set(self, replicas: Item) -> None:
        metadata, spec = replicas["metadata"], replicas["spec"]
        if metadata.get("deletionTimestamp"):
            return
        pods = self._owned(POD, replicas)
        live = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
        for pod in live[spec.get("replicas", 1) :]:
            self._store.delete(POD, metadata["namespace"], pod["metadata"]["name"])
        for _ in range(spec.get("replicas", 1) - len(live)):
            self._make_pod(REPLICA_SET, replicas, spec["template"])
        ready = sum(_is_true(pod["status"], "Ready") for pod in live)
        self._tell_status(REPLICA_SET, replicas, {"replicas": len(pods), "readyReplicas": ready})

    # Pods.

    def _make_pod(
        self, kind: Kind, owner: Item, template: Item, finalizers: tuple[str, ...] | list[str] = ()
    ) -> None:
        metadata = json.loads(json.dumps(template.get("metadata") or {}))
        labels = metadata.get("labels") or {}
        if kind == JOB:
            labels |= {JOB_NAME: owner["metadata"]["name"], "job-name": owner["metadata"]["name"]}
        metadata |= {
            "name": f"{owner['metadata']['name'][:57]}-{secrets.token_hex(3)[:5]}",
            "namespace": owner["metadata"]["namespace"],
            "labels": labels,
            "ownerReferences": [_owner(kind, owner)],
        }
        if finalizers:
            metadata["finalizers"] = list(finalizers)
        self._create(POD, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"],
                           "status": {"phase": "Pending"}})  # fmt: skip

    def _schedule(self) -> None:
        nodes = [node for node in self._store.list(NODE) if _is_open(node)]
        pods = self._store.list(POD)
        for pod in pods:
            if pod["spec"].get("nodeName") or pod["status"].get("phase") != "Pending":
                continue
            fitting = [node for node in nodes if _fits(pod, node, pods)]
            if not fitting:
                self._say_unschedulable(pod, len(nodes))
                continue
            name = fitting[0]["metadata"]["name"]
            pod["spec"]["nodeName"] = name
            metadata = pod["metadata"]

            def bind(item: Item, name: str = name) -> None:
                item["spec"]["nodeName"] = name
                _condition(item["status"], "PodScheduled", "", "")

            self._store.change(POD, metadata["namespace"], metadata["name"], bind)
            self.event(pod, "Scheduled", f"Successfully assigned {metadata['name']} to {name}")

    def _say_unschedulable(self, pod: Item, count: int) -> None:
        def say(item: Item) -> None:
            rows = [each for each in item["status"].get("conditions") or () if each["type"] != "PodScheduled"]
            why = f"0/{count} nodes are available: insufficient room, or none that is asked for."
            row = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why}
            item["status"]["conditions"] = [*rows, row]

        self._store.change(POD, pod["metadata"]["namespace"], pod["metadata"]["name"], say)

    def event(self, pod: Item, reason: str, message: str, kind: str = "Normal") -> None:
        metadata, now = pod["metadata"], now_text()
        about = {"kind": "Pod", "apiVersion": "v1", "name": metadata["name"], "uid": metadata["uid"]}
        self._create(
            EVENT,
            {
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {
                    "name": f"{metadata['name'][:40]}.{secrets.token_hex(6)}",
                    "namespace": metadata["namespace"],
                },
                "involvedObject": {**about, "namespace": metadata["namespace"]},
                "reason": reason,
                "message": message,
                "type": kind,
                "source": {"component": "fake"},
                "firstTimestamp": now,
                "lastTimestamp": now,
                "count": 1,
            },
        )

    def lose(self, node: str) -> None:
        """What a cluster does once it has noticed that a node is gone."""
        for pod in self._store.list(POD):
            if pod["spec"].get("nodeName") != node:
                continue
            metadata = pod["metadata"]

            def mark(item: Item) -> None:
                why = "Taint manager: deleting due to NoExecute taint"
                _condition(item["status"], "DisruptionTarget", "DeletionByTaintManager", why)

            self._store.change(POD, metadata["namespace"], metadata["name"], mark)
            self._store.delete(POD, metadata["namespace"], metadata["name"])

    # Owners.

    def _orphans(self) -> None:
        """Delete what lost its owner, and end foreground and orphaning deletions."""
        everything = [(kind, item) for kind in KINDS for item in self._store.list(kind)]
        alive = {item["metadata"]["uid"] for _, item in everything}
        for kind, item in everything:
            metadata = item["metadata"]
            namespace = metadata.get("namespace", "")
            owners = metadata.get("ownerReferences") or []
            if owners and not any(owner["uid"] in alive for owner in owners):
                if not metadata.get("deletionTimestamp") and kind != NODE:
                    self._drop(kind, item)
                elif kind == POD:
                    self._let_go(item)
            if not metadata.get("deletionTimestamp"):
                continue
            finalizers = metadata.get("finalizers") or []
            below = [(k, i) for k, i in everything if _is_below(i, metadata["uid"])]
            if ORPHAN in finalizers:
                for k, i in below:
                    self._store.change(
                        k, i["metadata"].get("namespace", ""), i["metadata"]["name"], _let_free
                    )
                self._finish(kind, namespace, metadata["name"], ORPHAN)
            elif FOREGROUND in finalizers:
                for k, i in below:
                    if not i["metadata"].get("deletionTimestamp"):
                        self._drop(k, i)
                    elif k == POD:
                        self._let_go(i)
                if not below:
                    self._finish(kind, namespace, metadata["name"], FOREGROUND)

    def _drop(self, kind: Kind, item: Item) -> None:
        metadata = item["metadata"]
        if kind == POD and item["status"].get("phase") in ("Succeeded", "Failed"):
            self._let_go(item)
        try:
            self._store.delete(kind, metadata.get("namespace", ""), metadata["name"])
        except ApiError:
            return  # gone meanwhile

    def _finish(self, kind: Kind, namespace: str, name: str, finalizer: str) -> None:
        def act(item: Item) -> None:
            item["metadata"]["finalizers"] = [e for e in item["metadata"]["finalizers"] if e != finalizer]

        self._store.change(kind, namespace, name, act)

    # How.

    def _owned(self, kind: Kind, owner: Item) -> list[Item]:
        uid = owner["metadata"]["uid"]
        return [
            each for each in self._store.list(kind, owner["metadata"]["namespace"]) if _is_below(each, uid)
        ]

    def _create(self, kind: Kind, body: Item) -> None:
        self._store.create(kind, body)

    def _tell_status(self, kind: Kind, item: Item, status: Mapping[str, Any]) -> None:
        if status != (item.get("status") or {}):
            metadata = item["metadata"]
            put: Callable[[Item], None] = lambda found: found.__setitem__("status", dict(status))  # noqa: E731
            self._store.change(kind, metadata["namespace"], metadata["name"], put)


def _owner(kind: Kind, item: Item) -> Item:
    metadata = item["metadata"]
    return {
        "apiVersion": kind.api_version,
        "kind": kind.name,
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def _let_free(item: Item) -> None:
    """What its owner leaves behind belongs to nobody, and nobody counts it."""
    item["metadata"].pop("ownerReferences", None)
    item["metadata"]["finalizers"] = [e for e in item["metadata"].get("finalizers") or () if e != TRACKED]


def _is_below(item: Item, uid: str) -> bool:
    return any(owner["uid"] == uid for owner in item["metadata"].get("ownerReferences") or ())


def _condition(status: Item, type_: str, reason: str, message: str) -> None:
    rows = [each for each in status.get("conditions") or () if each["type"] != type_]
    row = {"type": type_, "status": "True", "lastTransitionTime": now_text()}
    known = next((each for each in status.get("conditions") or () if each["type"] == type_), None)
    if known is not None and known["status"] == "True":
        return
    status["conditions"] = [*rows, row | {name: text for name, text in
                                          (("reason", reason), ("message", message)) if text}]  # fmt: skip


def _is_true(status: Mapping[str, Any], type_: str) -> bool:
    return any(e["type"] == type_ and e["status"] == "True" for e in status.get("conditions") or ())


def _is_disrupted(pod: Item) -> bool:
    return _is_true(pod["status"], "DisruptionTarget")


def _finished(status: Mapping[str, Any]) -> str:
    return next(
        (e["lastTransitionTime"] for e in status["conditions"] if e["type"] in ("Complete", "Failed")),
        now_text(),
    )


def _age_s(text: str) -> float:
    return time.time() - datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()


def _is_late(spec: Mapping[str, Any], status: Mapping[str, Any]) -> bool:
    limit_s = spec.get("activeDeadlineSeconds")
    return limit_s is not None and "startTime" in status and _age_s(status["startTime"]) >= limit_s


def _is_open(node: Item) -> bool:
    return not node["spec"].get("unschedulable") and _is_true(node["status"], "Ready")


def _fits(pod: Item, node: Item, pods: list[Item]) -> bool:
    labels = node["metadata"].get("labels") or {}
    spec = pod["spec"]
    if any(labels.get(name) != value for name, value in (spec.get("nodeSelector") or {}).items()):
        return False
    affinity = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    )
    if affinity and not any(_term(term, labels) for term in affinity["nodeSelectorTerms"]):
        return False
    for name, amount in (node["status"].get("allocatable") or {}).items():
        used = sum(
            _asks(other, name)
            for other in pods
            if other["spec"].get("nodeName") == node["metadata"]["name"]
            and other["status"].get("phase") in ("Pending", "Running")
        )
        if used + _asks(pod, name) > quantity(amount) + 1e-9:
            return False
    known = node["status"].get("allocatable") or {}
    return all(
        name in known or not quantity(amount)
        for container in spec["containers"]
        for name, amount in ((container.get("resources") or {}).get("limits") or {}).items()
        if "/" in name
    )


def _asks(pod: Item, name: str) -> float:
    total = 0.0
    for container in pod["spec"]["containers"]:
        resources = container.get("resources") or {}
        asked = (resources.get("requests") or {}).get(name, (resources.get("limits") or {}).get(name, 0))
        total += quantity(asked)
    return total


def _term(term: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    for each in term.get("matchExpressions") or ():
        key, values = each["key"], each.get("values") or []
        match each["operator"]:
            case "In":
                holds = labels.get(key) in values
            case "NotIn":
                holds = labels.get(key) not in values
            case "Exists":
                holds = key in labels
            case "DoesNotExist":
                holds = key not in labels
            case "Gt":
                holds = labels.get(key, "").isdigit() and int(labels[key]) > int(values[0])
            case "Lt":
                holds = labels.get(key, "").isdigit() and int(labels[key]) < int(values[0])
            case _:
                holds = labels_match(f"{key}={values[0]}", labels)
        if not holds:
            return False
    return True


def service_address(name: str) -> str:
    """A service's address in the cluster: made of its name, never one that anybody listens at."""
    digest = hashlib.sha256(name.encode()).digest()
    return f"10.96.{digest[0]}.{1 + digest[1] % 250}"
