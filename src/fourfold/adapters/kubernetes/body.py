"""What is asked of a cluster for one launch: a secret, and a job or a deployment."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from fourfold.adapters.kubernetes.reading import ARCHITECTURES, KEY, LABEL, MANAGED, NAME, PROJECT
from fourfold.adapters.kubernetes.settings import KubernetesSettings, check_image
from fourfold.core.errors import Refused
from fourfold.core.ports.engine import Launch, Offer

CONTAINER = "main"
LEAST_MEMORY_BYTES = 8 << 20
MOST_LAUNCH_BYTES = 256 << 10
"""Of a key and a command together: the cluster keeps an object of 1.5 MB at most, and a key in it twice."""
MOST_ENVIRONMENT_BYTES = 900 << 10
"""A secret holds one mebibyte."""
FIRST_PORT, PORTS = 20_000, 10_000
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
Body = dict[str, Any]


def name_of(label: str, key: str) -> str:
    """The name of all that a key has on the cluster, made so that it is taken once."""
    both = b"\0".join((label.encode(), key.encode("utf-8", "surrogatepass")))
    return f"fourfold-{hashlib.sha256(both).hexdigest()[:32]}"


def project_of(label: str) -> str:
    return hashlib.sha256(label.encode()).hexdigest()[:32]


def check(launch: Launch, who: str) -> None:
    """Refuse what a cluster could not keep as it is."""
    words = (*launch.argv, launch.cwd, launch.key)
    pairs = [text for pair in launch.env.items() for text in pair]
    try:
        size = sum(len(text.encode()) for text in words)
        env_size = sum(len(text.encode()) for text in pairs)
    except UnicodeEncodeError as error:
        raise Refused(f"{who} has a word that is no text, which Kubernetes cannot keep") from error
    if any("\0" in text for text in (*words, *pairs)):
        raise Refused(f"{who} has a zero byte in its command or environment")
    for what, amount, most in (
        ("command", size, MOST_LAUNCH_BYTES),
        ("environment", env_size, MOST_ENVIRONMENT_BYTES),
    ):
        if amount > most:
            raise Refused(
                f"{who} has {'a command' if what == 'command' else 'an environment'} of {amount} bytes",
                ways_on=[f"a cluster keeps {most} of it", "put what is large into a file or a blob"],
            )
    for name in launch.env:
        if not name or "=" in name or not (name.isascii() and name.isprintable()):
            raise Refused(f"{who} sets a variable {name!r}, which Kubernetes does not take")
    if launch.cwd and not launch.cwd.startswith("/"):
        raise Refused(f"{who} starts in '{launch.cwd}', which is no whole path")


def secret(launch: Launch, name: str, label: str) -> Body:
    """The environment: who may see pods does not see it."""
    data = {
        f"v{index}": base64.b64encode(text.encode()).decode()
        for index, (_, text) in enumerate(sorted(launch.env.items()))
    }
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": _metadata(launch, name, label),
        "type": "Opaque",
        "immutable": True,
        "data": data,
    }


def job(launch: Launch, name: str, label: str, settings: KubernetesSettings, met: Sequence[Offer]) -> Body:
    """A job that starts one pod, once."""
    limit_s = launch.resources.time_limit_s
    pod = _pod(launch, name, settings, met)
    pod |= {"restartPolicy": "Never"}
    if limit_s is not None:
        pod["activeDeadlineSeconds"] = max(1, math.ceil(limit_s))
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(launch, name, label),
        "spec": {
            "backoffLimit": 0,
            "completions": 1,
            "parallelism": 1,
            "podReplacementPolicy": "Failed",
            "ttlSecondsAfterFinished": math.ceil(settings.ended_kept_s),
            "template": {"metadata": {"labels": _labels(name, label)}, "spec": pod},
        },
    }


def deployment(
    launch: Launch, name: str, label: str, settings: KubernetesSettings, met: Sequence[Offer]
) -> Body:
    """A deployment of one pod, which the cluster starts again whenever it ends."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(launch, name, label),
        "spec": {
            "replicas": 1,
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": {NAME: name}},
            "template": {
                "metadata": {"labels": _labels(name, label)},
                "spec": _pod(launch, name, settings, met),
            },
        },
    }


def service(launch: Launch, name: str, label: str, settings: KubernetesSettings) -> Body:
    """A steady name and address within the cluster for what listens."""
    port = port_of(name, settings)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(launch, name, label),
        "spec": {"selector": {NAME: name}, "ports": [{"name": CONTAINER, "port": port, "targetPort": port}]},
    }


def owned(body: Mapping[str, Any]) -> Body:
    """The change that lets an object go with the one that needs it."""
    metadata = body["metadata"]
    owner = {
        "apiVersion": body["apiVersion"],
        "kind": body["kind"],
        "name": metadata["name"],
        "uid": metadata["uid"],
    }
    return {"metadata": {"ownerReferences": [owner]}}


def port_of(name: str, settings: KubernetesSettings) -> int:
    """Made of the key, so that pods on a network of the nodes' own seldom meet."""
    return settings.port or FIRST_PORT + int(name[-8:], 16) % PORTS


def _metadata(launch: Launch, name: str, label: str) -> Body:
    return {"name": name, "labels": _labels(name, label), "annotations": {KEY: launch.key, LABEL: label}}


def _labels(name: str, label: str) -> dict[str, str]:
    return {NAME: name, PROJECT: project_of(label), MANAGED: "fourfold"}


def _pod(launch: Launch, name: str, settings: KubernetesSettings, met: Sequence[Offer]) -> Body:
    who = f"job '{launch.key}'"
    image = launch.image or settings.image
    if not image:
        raise Refused(
            f"{who} names no image, and its pool has none",
            ways_on=["add image=name:tag to the pool's address"],
        )
    check_image(image, who)
    container: Body = {
        "name": CONTAINER,
        "image": image,
        "command": [word.replace("$", "$$") for word in launch.argv],  # a cluster replaces $(NAME) in it
        "env": _environment(launch, name, settings),
        "resources": _resources(launch, settings),
        "securityContext": _security(settings),
    }
    if launch.listens:
        container["ports"] = [{"containerPort": port_of(name, settings)}]
    if launch.cwd:
        container["workingDir"] = launch.cwd
    volumes, places = _volumes(settings)
    if volumes:
        container["volumeMounts"] = places
    pod: Body = {
        "containers": [container],
        "enableServiceLinks": False,
        "automountServiceAccountToken": bool(settings.service_account),
        "terminationGracePeriodSeconds": math.ceil(settings.grace_s),
        "tolerations": [
            {
                "key": f"node.kubernetes.io/{what}",
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": settings.lost_after_s,
            }
            for what in ("not-ready", "unreachable")
        ],
        **({"volumes": volumes} if volumes else {}),
        **({"affinity": affinity} if (affinity := _affinity(launch, met)) else {}),
        **({"nodeSelector": dict(settings.labels)} if settings.labels else {}),
        **({"serviceAccountName": settings.service_account} if settings.service_account else {}),
        **({"priorityClassName": settings.priority_class} if settings.priority_class else {}),
        **({"imagePullSecrets": [{"name": settings.pull_secret}]} if settings.pull_secret else {}),
    }
    return pod


def _environment(launch: Launch, name: str, settings: KubernetesSettings) -> list[Body]:
    threads = str(max(1, int(launch.resources.cpu.low)))
    rows: list[Body] = [{"name": each, "value": threads} for each in THREADS if each not in launch.env]
    if launch.listens:
        rows.append({"name": "FOURFOLD_PORT", "value": str(port_of(name, settings))})
    for index, each in enumerate(sorted(launch.env)):
        if each == "FOURFOLD_PORT" and launch.listens:
            continue
        source = {"secretKeyRef": {"name": name, "key": f"v{index}"}}
        rows.append({"name": each, "valueFrom": source})
    return rows


def _resources(launch: Launch, settings: KubernetesSettings) -> Body:
    asks = launch.resources
    requests, limits = {"cpu": _cores(asks.cpu.low)}, {}
    memory = math.ceil(asks.memory_bytes.low)
    if asks.memory_bytes.high is not None:
        limits["memory"] = str(max(LEAST_MEMORY_BYTES, math.floor(asks.memory_bytes.high), memory))
    if memory or "memory" in limits:
        requests["memory"] = str(memory)
    if asks.cpu.high:
        limits["cpu"] = _cores(max(asks.cpu.high, asks.cpu.low))
    if asks.gpu.low:
        limits[settings.gpu_resource] = str(math.ceil(asks.gpu.low))
    return {"requests": requests, **({"limits": limits} if limits else {})}


def _cores(count: float) -> str:
    return f"{math.ceil(count * 1000)}m"


def _security(settings: KubernetesSettings) -> Body:
    runs: Body = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    return runs | ({"runAsUser": settings.run_as, "runAsNonRoot": True} if settings.run_as else {})


def _volumes(settings: KubernetesSettings) -> tuple[list[Body], list[Body]]:
    volumes: list[Body] = []
    places: list[Body] = []
    for index, (name, path, is_read_only) in enumerate(settings.claims):
        source = {"claimName": name, "readOnly": is_read_only}
        volumes.append({"name": f"claim-{index}", "persistentVolumeClaim": source})
        places.append({"name": f"claim-{index}", "mountPath": path, "readOnly": is_read_only})
    for index, (path, may_write) in enumerate(settings.mounts):
        volumes.append({"name": f"host-{index}", "hostPath": {"path": path}})
        places.append({"name": f"host-{index}", "mountPath": path, "readOnly": not may_write})
    return volumes, places


def _affinity(launch: Launch, met: Sequence[Offer]) -> Body:
    """What is asked of a node beyond amounts, by the labels that tell it."""
    asks = launch.resources
    rows: list[Body] = []
    if asks.arch:
        names = [name for name, ours in ARCHITECTURES.items() if ours == asks.arch] or [asks.arch]
        rows.append({"key": "kubernetes.io/arch", "operator": "In", "values": names})
    if asks.gpu.low and asks.gpu_name:
        names = sorted({offer.gpu_name for offer in met if offer.gpu_name})
        rows.append({"key": "nvidia.com/gpu.product", "operator": "In", "values": names})
    if asks.gpu.low and asks.gpu_memory_bytes.low:
        least = math.ceil(asks.gpu_memory_bytes.low / (1 << 20)) - 1
        rows.append({"key": "nvidia.com/gpu.memory", "operator": "Gt", "values": [str(least)]})
    if not rows:
        return {}
    terms = {"nodeSelectorTerms": [{"matchExpressions": rows}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}
