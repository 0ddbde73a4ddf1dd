"""Reads what Slurm tells as JSON: the same shapes from `--json` and from slurmrestd, over their versions.

From v0.0.39 on a number may be `{"set": true, "infinite": false, "number": 5}` and a state a list of words
(`["RUNNING", "COMPLETING"]`); before, they were plain. Both are read, and what is missing has a default.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fourfold.adapters.slurm.cluster import Node, Partition, SlurmJob
from fourfold.core.jobs import Usage
from fourfold.core.times import SECOND_US, Instant

MIB = 1 << 20
_FLAGS = frozenset({"COMPLETING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "STAGE_OUT"})
_CLOSED = ("DOWN", "DRAIN", "DRAINED", "DRAINING", "ERROR", "FAIL", "FAILING", "FUTURE", "INVAL", "INVALID",
           "NOT_RESPONDING", "NO_RESPOND", "POWER_FAIL", "UNKNOWN")  # fmt: skip


def number(value: object) -> int | None:
    """A number, in whichever shape.

    >>> number(5), number({"set": True, "infinite": False, "number": 5}), number({"set": False, "number": 0})
    (5, 5, None)
    """
    if isinstance(value, Mapping):
        if value.get("infinite") or not value.get("set", True):
            return None
        value = value.get("number")
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def words(value: object) -> list[str]:
    """Words of a state: one, or a list of them.

    >>> words("idle"), words(["RUNNING", "COMPLETING"]), words(None)
    (['IDLE'], ['RUNNING', 'COMPLETING'], [])
    """
    if isinstance(value, str):
        return [value.upper()] if value else []
    return [str(each).upper() for each in value] if isinstance(value, list) else []


def state_of(value: object) -> str:
    """The state of a job in one word: one that says it is not over yet goes before the others.

    >>> state_of(["COMPLETED", "COMPLETING"]), state_of("FAILED"), state_of(["OUT_OF_MEMORY"])
    ('COMPLETING', 'FAILED', 'OUT_OF_MEMORY')
    """
    found = words(value)
    return next((word for word in found if word in _FLAGS), found[0] if found else "UNKNOWN")


def gpus_of(gres: str) -> tuple[int, str]:
    """How many GPUs a node's generic resources name, and their type (of several types, the first).

    >>> gpus_of("gpu:a100:2(S:0-1)"), gpus_of("gpu:4"), gpus_of("nic:1,gpu:toy:1"), gpus_of("")
    ((2, 'a100'), (4, ''), (1, 'toy'), (0, ''))
    """
    for each in re.sub(r"\([^)]*\)", "", gres).split(","):
        kind, _, rest = each.partition(":")
        if kind == "gpu":
            name, _, count = rest.rpartition(":")
            if not count.isdigit():
                return 1, rest
            return int(count), name
    return 0, ""


def queued_job(told: Mapping[str, Any]) -> SlurmJob:
    """A job as the controller tells it."""
    code, signal = exit_of(told.get("exit_code"))
    state = state_of(told.get("job_state"))
    return SlurmJob(
        int(told["job_id"]),
        str(told.get("name") or ""),
        state,
        str(told.get("state_reason") or ""),
        str(told.get("batch_host") or told.get("nodes") or ""),
        _instant(told.get("start_time")),
        _instant(told.get("end_time")),
        code,
        signal,
    )


def accounted_job(told: Mapping[str, Any]) -> SlurmJob:
    """A job as accounting tells it, with what it used."""
    state, time = told.get("state") or {}, told.get("time") or {}
    exit_code = told.get("exit_code")
    code, signal = exit_of(exit_code)
    steps = [step for step in told.get("steps") or [] if isinstance(step, Mapping)]
    if code == 0 and signal is None:  # of a batch job the truth is with its batch step
        batch = [exit_of(step.get("exit_code")) for step in steps if _is_batch(step)]
        code, signal = batch[0] if batch else (code, signal)
    peaks = [peak for step in steps if (peak := _measured(step, "max", "mem")) is not None]
    usage = Usage(
        float(number(time.get("elapsed")) or 0),
        max(_cpu_s(time), sum(_step_cpu_s(step) for step in steps)),
        max(peaks, default=None),
        memory_peak_is_exact=False,  # Slurm looks from time to time
    )
    return SlurmJob(
        int(told["job_id"]),
        str(told.get("name") or ""),
        state_of(state.get("current")),
        str(state.get("reason") or ""),
        str(told.get("nodes") or ""),
        _instant(time.get("start")),
        _instant(time.get("end")),
        code,
        signal,
        usage,
    )


def exit_of(told: object) -> tuple[int | None, int | None]:
    """The exit status and the signal: Slurm's controller packs both into one number, accounting names them.

    >>> exit_of(768), exit_of(9), exit_of({"status": "ERROR", "return_code": 3}), exit_of(None)
    ((3, None), (None, 9), (3, None), (None, None))
    >>> exit_of({"return_code": {"set": True, "number": 0}, "signal": {"id": {"set": True, "number": 9}}})
    (None, 9)
    """
    if isinstance(told, Mapping) and "return_code" in told:
        signal = told.get("signal") or {}
        caught = number(signal.get("signal_id", signal.get("id")))
        return (None, caught) if caught else (number(told.get("return_code")), None)
    packed = number(told)
    if packed is None:
        return None, None
    caught = packed & 0x7F
    return (None, caught) if caught else (packed >> 8, None)


def node(told: Mapping[str, Any]) -> Node:
    """A node, with the reason why nothing may start on it if so."""
    states = [*words(told.get("state")), *words(told.get("state_flags"))]
    gpus, gpu_name = gpus_of(str(told.get("gres") or ""))
    bad = [word for word in states if word.rstrip("*") in _CLOSED]
    reason = str(told.get("reason") or "")
    return Node(
        str(told["name"]),
        number(told.get("cpus")) or 0,
        (number(told.get("real_memory")) or 0) * MIB,
        gpus,
        gpu_name,
        tuple(str(each) for each in told.get("partitions") or ()),
        f"{' and '.join(word.lower() for word in bad)}{f': {reason}' if reason else ''}" if bad else "",
    )


def partition(told: Mapping[str, Any]) -> Partition:
    """A partition, as slurmrestd tells it."""
    state = words(told.get("state") or (told.get("partition") or {}).get("state"))
    limit = told.get("max_time_limit", (told.get("maximums") or {}).get("time"))
    minutes = number(limit)
    flags = words(told.get("flags"))
    return Partition(
        str(told["name"]),
        None if minutes is None or minutes < 0 else minutes * 60.0,
        "DEFAULT" in flags,
        "" if {"UP", "DOWN"} & set(state) or not state else "/".join(state).lower(),
    )


def _instant(value: object) -> Instant | None:
    seconds = number(value)
    return Instant(seconds * SECOND_US) if seconds else None


def _is_batch(step: Mapping[str, Any]) -> bool:
    told = step.get("step") or {}
    return "batch" in str(told.get("id") or "").lower() or told.get("name") == "batch"


def _cpu_s(time: Mapping[str, Any]) -> float:
    total = time.get("total") or {}
    return (number(total.get("seconds")) or 0) + (number(total.get("microseconds")) or 0) / 1e6


def _step_cpu_s(step: Mapping[str, Any]) -> float:
    """What was waited for, or what Slurm saw while it looked, whichever is more: of a job that was killed the
    first is nearly nothing. Release 22.05 tells a job's own total as 0."""
    return max(_cpu_s(step.get("time") or {}), (_measured(step, "total", "cpu") or 0) / 1e3)


def _measured(step: Mapping[str, Any], how: str, what: str) -> int | None:
    told = ((step.get("tres") or {}).get("requested") or {}).get(how) or []
    found = [number(each.get("count")) for each in told if each.get("type") == what]
    return found[0] if found else None
