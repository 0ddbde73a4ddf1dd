"""What Ray says of a job and of a node, in the words of the port."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fourfold.core.ports.engine import Exit, ExitKind, JobStatus, Offer, Phase, Usage
from fourfold.core.times import Instant

END_LINE = "fourfold: "
"""As `keeper.py` writes it."""
ACCELERATOR = "accelerator_type:"
ENDED = frozenset({"SUCCEEDED", "STOPPED", "FAILED"})
MOST_REASON = 600
NOT_STARTED = {
    "JOB_SUPERVISOR_ACTOR_START_TIMEOUT": "it did not get what it asks for within the cluster's start time",
    "JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE": "no node can take it any more",
    "JOB_SUPERVISOR_ACTOR_START_FAILURE": "Ray could not start it",
    "RUNTIME_ENV_SETUP_FAILURE": "its node could not fetch what starts it",
}


def job_status(key: str, job: Mapping[str, Any], units: Mapping[str, str]) -> JobStatus:
    """The status of a job as Ray lists it; `units` names nodes by their id.

    `started_at` is when Ray took the job, unless its end tells when the command began.
    """
    unit = units.get(str(job.get("driver_node_id") or ""), "")
    at = _instant(job.get("start_time"))
    match job["status"]:
        case "PENDING":
            return JobStatus(key, Phase.starting)
        case "RUNNING":
            return JobStatus(key, Phase.running, unit, at)
        case "SUCCEEDED":
            return JobStatus(
                key, Phase.ended, unit, at, _instant(job.get("end_time")), Exit(ExitKind.ok, "", 0)
            )
        case "STOPPED":
            exit_ = Exit(ExitKind.cancelled, "stopped")
            return JobStatus(key, Phase.ended, unit, at, _instant(job.get("end_time")), exit_)
        case "FAILED":
            state = end_state(job)
            ended_at = _instant(job.get("end_time"))
            if state is None:
                return JobStatus(key, Phase.ended, unit, at, ended_at, _exit_without_word(job))
            began = state.get("started_at")
            return JobStatus(
                key, Phase.ended, unit, Instant(int(began)) if began else at, ended_at, exit_of(state)
            )
        case _:  # a state of a later Ray: it is neither known nor lost
            return JobStatus(key, Phase.unknown)


def end_state(job: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the keeper wrote last: Ray gives the last lines of a failed job's log with its state."""
    lines = str(job.get("message") or "").rstrip().splitlines()
    if not lines or not lines[-1].startswith(END_LINE):
        return None
    try:
        state = json.loads(lines[-1].removeprefix(END_LINE))
        exit_of(state)
    except (ValueError, KeyError, TypeError):  # a job may print such a line itself, if its keeper does not
        return None
    return dict(state)


def exit_of(state: Mapping[str, Any]) -> Exit:
    exit_ = state["exit"]
    code = exit_["code"]
    return Exit(
        ExitKind(exit_["kind"]), str(exit_["reason"])[:MOST_REASON], None if code is None else int(code)
    )


def usage_of(state: Mapping[str, Any]) -> Usage:
    """The use that a keeper wrote, as far as it goes."""
    used = state.get("usage") or {}
    return Usage(
        float(used.get("wall_s", 0.0)),
        used.get("cpu_s"),
        used.get("memory_peak_bytes"),
        used.get("read_bytes"),
        used.get("written_bytes"),
        bool(used.get("memory_peak_is_exact", True)),
        memory_mean_bytes=used.get("memory_mean_bytes"),
        trace=tuple(tuple(point) for point in used.get("trace", ())),
    )


def _exit_without_word(job: Mapping[str, Any]) -> Exit:
    """Of a job whose keeper wrote no end: it was killed, or never began."""
    error, message = str(job.get("error_type") or ""), str(job.get("message") or "")
    code = job.get("driver_exit_code")
    if error in NOT_STARTED:
        return Exit(ExitKind.worker_lost, f"{NOT_STARTED[error]}: {_brief(message)}")
    if error == "JOB_ENTRYPOINT_COMMAND_ERROR" and code is not None and code >= 0:
        return Exit(ExitKind.failed, f"its keeper did not run: {_brief(message)}", int(code))
    if "memory" in message and ("OOM" in message or "memory monitor" in message):
        return Exit(ExitKind.out_of_memory, _brief(message))
    if code is not None:
        return Exit(
            ExitKind.worker_lost, f"its driver was ended from outside by signal {-int(code)}", int(code)
        )
    return Exit(ExitKind.worker_lost, f"its node or its process was lost: {_brief(message)}")


def _brief(message: str) -> str:
    return " ".join(message.split())[:MOST_REASON]


def _instant(milliseconds: object) -> Instant | None:
    return Instant(int(milliseconds) * 1000) if isinstance(milliseconds, int) and milliseconds else None


def alive(nodes: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [node for node in nodes if node.get("state") == "ALIVE"]


def unit_names(nodes: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """A name for each node by its id: its own, and with a piece of its id where several share that.

    >>> unit_names([{"node_id": "abcdef12", "node_name": "n1"}, {"node_id": "99", "node_name": "n2"}])
    {'abcdef12': 'n1', '99': 'n2'}
    """
    names = [str(node.get("node_name") or node.get("node_ip")) for node in nodes]
    return {
        str(node["node_id"]): name if names.count(name) == 1 else f"{name}/{str(node['node_id'])[:8]}"
        for node, name in zip(nodes, names, strict=True)
    }


def offers(nodes: Sequence[Mapping[str, Any]], *, price_usd_per_hour: float) -> list[Offer]:
    """What the live nodes have in all, as Ray counts it."""
    names = unit_names(nodes)
    found = []
    for node in alive(nodes):
        total = node.get("resources_total") or {}
        accelerators = sorted(
            name.removeprefix(ACCELERATOR) for name in total if name.startswith(ACCELERATOR)
        )
        found.append(
            Offer(
                names[str(node["node_id"])],
                float(total.get("CPU", 0.0)),
                int(total.get("memory", 0)),
                int(total.get("GPU", 0)),
                accelerators[0] if accelerators and total.get("GPU") else "",
                price_usd_per_hour,
            )
        )
    return sorted(found, key=lambda offer: offer.unit)
