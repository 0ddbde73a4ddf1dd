"""What Kubernetes says of jobs, pods and nodes, in the words of the port; pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fourfold.core.jobs import Exit, ExitKind
from fourfold.core.ports.engine import JobStatus, Offer, Phase
from fourfold.core.times import Instant, instant

PROJECT, NAME, MANAGED = "fourfold/project", "fourfold/name", "app.kubernetes.io/managed-by"
"""Labels. The project's is a digest: labels are short."""
KEY, LABEL, STOPPED, WHY = "fourfold/key", "fourfold/label", "fourfold/stopped", "fourfold/why"
"""Annotations."""
CANNOT_BEGIN = {
    "ImagePullBackOff": "its image cannot be fetched",
    "InvalidImageName": "its image's name is none",
    "ErrImageNeverPull": "its image is not on the node, and may not be fetched",
    "CreateContainerConfigError": "its container cannot be made",
    "CreateContainerError": "its container cannot be made",
}
"""Waits that end only when somebody changes something."""
NODE_WENT = frozenset(
    {
        "Evicted",
        "NodeLost",
        "NodeShutdown",
        "Shutdown",
        "Terminated",
        "NodeAffinity",
        "UnexpectedAdmissionError",
    }
)
ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64", "386": "i686"}
SIGNALS = {
    129: "SIGHUP",
    130: "SIGINT",
    134: "SIGABRT",
    136: "SIGFPE",
    137: "SIGKILL",
    139: "SIGSEGV",
    143: "SIGTERM",
}
FROM_OUTSIDE = frozenset({129, 130, 137, 143})
MOST_REASON = 600
_QUANTITY = re.compile(r"(\d+(?:\.\d*)?|\.\d+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?\d+)?")
_FACTORS = {
    "": 1.0, "n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50, "Ei": 2.0**60,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Record:
    """A job or a deployment of ours, as far as we read it."""

    name: str
    key: str
    uid: str
    version: str
    is_service: bool
    is_stopped: bool
    stopped_at: Instant | None
    is_held: bool
    """Nothing of it starts any more: suspended, or scaled to none."""
    why: str
    """Why we ended it, where nobody asked for that."""
    end: str
    """`Complete` or `Failed`, once it has ended."""
    reason: str
    message: str
    ended_at: Instant | None


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of ours, as far as we read it."""

    name: str
    of: str
    """The record's name."""
    version: str
    made_at: Instant
    phase: str
    node: str
    ip: str
    port: int
    started_at: Instant | None
    ended_at: Instant | None
    code: int | None
    reason: str
    message: str
    waiting: str
    waiting_message: str
    is_going: bool
    disruption: str
    restarts: int
    limit_s: float | None

    @property
    def has_ended(self) -> bool:
        return self.phase in ("Succeeded", "Failed")

    @property
    def is_live(self) -> bool:
        return not self.has_ended


def record_of(item: Mapping[str, Any]) -> Record:
    metadata, spec, status = item["metadata"], item.get("spec") or {}, item.get("status") or {}
    notes = metadata.get("annotations") or {}
    ends = [each for each in status.get("conditions") or () if each["type"] in ("Complete", "Failed")]
    end: Mapping[str, Any] = next((each for each in ends if each.get("status") == "True"), {})
    is_service = "backoffLimit" not in spec
    return Record(
        metadata["name"],
        str(notes.get(KEY, "")),
        str(metadata.get("uid", "")),
        str(metadata.get("resourceVersion", "")),
        is_service,
        STOPPED in notes,
        _at(notes.get(STOPPED)),
        spec.get("replicas") == 0 if is_service else bool(spec.get("suspend")),
        str(notes.get(WHY, "")),
        "" if is_service else str(end.get("type", "")),
        str(end.get("reason", "")),
        str(end.get("message", "")),
        _at(status.get("completionTime") or end.get("lastTransitionTime")),
    )


def pod_of(item: Mapping[str, Any]) -> Pod:
    metadata, spec, status = item["metadata"], item.get("spec") or {}, item.get("status") or {}
    container: Mapping[str, Any] = next(iter(status.get("containerStatuses") or ()), {})
    state = container.get("state") or {}
    running, over, waiting = (state.get(each) or {} for each in ("running", "terminated", "waiting"))
    main: Mapping[str, Any] = next(iter(spec.get("containers") or ()), {})
    limit_s = spec.get("activeDeadlineSeconds")
    disruptions = [e for e in status.get("conditions") or () if e["type"] == "DisruptionTarget"]
    return Pod(
        metadata["name"],
        str((metadata.get("labels") or {}).get(NAME, "")),
        str(metadata.get("resourceVersion", "")),
        made_at(item),
        str(status.get("phase", "Pending")),
        str(spec.get("nodeName", "")),
        str(status.get("podIP", "")),
        next((int(each["containerPort"]) for each in main.get("ports") or ()), 0),
        _at(running.get("startedAt") or over.get("startedAt")),
        _at(over.get("finishedAt")),
        over.get("exitCode"),
        str(status.get("reason") or over.get("reason") or ""),
        str(status.get("message") or over.get("message") or ""),
        str(waiting.get("reason", "")),
        str(waiting.get("message", "")),
        "deletionTimestamp" in metadata,
        next((str(each.get("reason")) for each in disruptions if each.get("status") == "True"), ""),
        int(container.get("restartCount", 0)),
        None if limit_s is None else float(limit_s),
    )


def job_status(key: str, record: Record | None, pod: Pod | None) -> JobStatus:
    """The status of a key, by its record and its newest pod."""
    if record is None:
        return JobStatus(key, Phase.unknown)
    node = pod.node if pod else ""
    began, over = (pod.started_at, pod.ended_at) if pod else (None, None)
    exit_ = _exit(record, pod)
    if exit_ is not None:
        if began is not None:
            over = max(began, over or record.ended_at or record.stopped_at or began)
        else:
            over = over or record.ended_at or record.stopped_at
        return JobStatus(key, Phase.ended, node, began, over, exit_)
    if pod is not None and pod.phase == "Running" and not pod.waiting and began is not None:
        address = f"{pod.ip}:{pod.port}" if pod.port and pod.ip else ""
        return JobStatus(key, Phase.running, node, began, address=address)
    return JobStatus(key, Phase.starting, node)


def cannot_begin(record: Record | None, pod: Pod | None) -> str:
    """Why a pod waits for ever, if it does; what we then end."""
    if record is None or record.is_stopped or pod is None or pod.waiting not in CANNOT_BEGIN:
        return ""
    return _brief(f"{CANNOT_BEGIN[pod.waiting]} ({pod.waiting}): {pod.waiting_message}")


def _exit(record: Record, pod: Pod | None) -> Exit | None:
    """How it ended, or None while it has not."""
    if record.why and (pod is None or pod.is_live):
        return Exit(ExitKind.failed, record.why)
    if record.is_stopped and record.end != "Complete":
        if pod is not None and pod.is_live:
            return None
        return Exit(ExitKind.cancelled, "stopped", pod.code if pod else None)
    if record.is_service:
        return None  # its cluster starts it again
    if pod is not None and pod.has_ended:
        return _exit_of_pod(pod)
    if pod is not None and pod.is_going and pod.disruption:
        return _disrupted(pod)
    if pod is not None:
        return None  # a record is told before its pod now and then
    if record.end == "Complete":
        return Exit(ExitKind.ok, "", 0)
    if record.end == "Failed":
        if record.reason == "DeadlineExceeded":
            return Exit(ExitKind.over_time, _brief(record.message))
        return Exit(ExitKind.worker_lost, _brief(f"its pod is gone ({record.reason}): {record.message}"))
    return None


def _exit_of_pod(pod: Pod) -> Exit:
    code = pod.code
    if pod.disruption:
        return _disrupted(pod)
    if pod.reason == "DeadlineExceeded":
        limit = f"ran longer than {pod.limit_s:g} s" if pod.limit_s else "ran longer than it may"
        return Exit(ExitKind.over_time, limit, code)
    if pod.reason == "Preempting":
        return Exit(ExitKind.preempted, _brief(pod.message), code)
    if pod.reason in NODE_WENT or pod.reason.startswith("OutOf"):
        return Exit(ExitKind.worker_lost, _brief(f"its node let it go ({pod.reason}): {pod.message}"), code)
    if pod.reason == "OOMKilled":
        return Exit(ExitKind.out_of_memory, "the kernel ended it: over its memory limit", code)
    if pod.reason in ("StartError", "ContainerCannotRun"):
        no = 126 if "permission denied" in pod.message.lower() else 127
        return Exit(ExitKind.failed, _brief(f"its command could not be started: {pod.message}"), no)
    if code == 0:
        return Exit(ExitKind.ok, "", 0)
    if code is None:
        return Exit(
            ExitKind.worker_lost, _brief(f"its node did not tell how it ended: {pod.reason} {pod.message}")
        )
    if code in FROM_OUTSIDE:
        return Exit(ExitKind.worker_lost, f"ended from outside by {SIGNALS[code]}", code)
    what = f"crashed with {SIGNALS[code]}" if code in SIGNALS else f"exit status {code}"
    return Exit(ExitKind.failed, what, code)


def _disrupted(pod: Pod) -> Exit:
    kind = ExitKind.preempted if pod.disruption == "PreemptionByScheduler" else ExitKind.worker_lost
    return Exit(kind, f"the cluster took it off its node ({pod.disruption})", pod.code)


def offers(
    nodes: Iterable[Mapping[str, Any]],
    *,
    labels: Iterable[tuple[str, str]] = (),
    gpu_resource: str = "nvidia.com/gpu",
    price_usd_per_hour: float = 0.0,
) -> list[Offer]:
    """What nodes that take work have for pods in all (allocatable)."""
    found = []
    for node in nodes:
        tags = node["metadata"].get("labels") or {}
        if not _takes_work(node) or any(tags.get(name) != value for name, value in labels):
            continue
        room = (node.get("status") or {}).get("allocatable") or {}
        gpu = int(quantity(room.get(gpu_resource, 0)))
        architecture = str(tags.get("kubernetes.io/arch", ""))
        each = str(tags.get("nvidia.com/gpu.memory", ""))
        found.append(
            Offer(
                node["metadata"]["name"],
                quantity(room.get("cpu", 0)),
                int(quantity(room.get("memory", 0))),
                gpu,
                str(tags.get("nvidia.com/gpu.product", "")) if gpu else "",
                price_usd_per_hour,
                int(each) << 20 if gpu and each.isdigit() else 0,
                ARCHITECTURES.get(architecture, architecture),
            )
        )
    return sorted(found, key=lambda offer: offer.unit)


def _takes_work(node: Mapping[str, Any]) -> bool:
    spec, status = node.get("spec") or {}, node.get("status") or {}
    is_ready = any(e["type"] == "Ready" and e["status"] == "True" for e in status.get("conditions") or ())
    taints = [each for each in spec.get("taints") or () if each.get("effect") in ("NoSchedule", "NoExecute")]
    return is_ready and not spec.get("unschedulable") and not taints


def quantity(text: object) -> float:
    """An amount as Kubernetes writes it; what cannot be read is none.

    >>> quantity("250m"), quantity("16Gi"), quantity("1e3"), quantity("much")
    (0.25, 17179869184.0, 1000.0, 0.0)
    """
    found = _QUANTITY.fullmatch(str(text))
    if not found:
        return 0.0
    unit = found[2] or ""
    return float(found[1]) * (_FACTORS[unit] if unit in _FACTORS else float(f"1{unit}"))


def made_at(item: Mapping[str, Any]) -> Instant:
    return _at(item["metadata"].get("creationTimestamp")) or Instant(0)


def _at(text: object) -> Instant | None:
    try:
        return instant(datetime.fromisoformat(str(text))) if text else None
    except ValueError:
        return None


def _brief(text: str) -> str:
    return " ".join(text.split())[:MOST_REASON]
