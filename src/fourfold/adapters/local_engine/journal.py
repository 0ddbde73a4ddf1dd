"""What the folder of a job holds: how it was launched, where it runs, how it ended."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from fourfold.adapters.local_engine.processes import (
    cpu_s,
    descendants,
    resident_bytes,
    started_ticks,
    stat,
)
from fourfold.core.errors import OutOfSpace, Refused
from fourfold.core.ports.engine import Exit, ExitKind, JobStatus, Phase, Usage
from fourfold.core.times import Instant


def age_s(folder: Path) -> float:
    """How long ago the folder changed."""
    try:
        return time.time() - folder.stat().st_mtime
    except OSError:  # somebody else has removed it
        return 0.0


def is_alive(launch: Mapping[str, object]) -> bool:
    """Whether the control process of a launch is still that process (numbers are used again)."""
    return started_ticks(int(str(launch["control_pid"]))) == launch["control_started"]


def ended_status(record: Mapping[str, object], unit: str) -> JobStatus:
    """The status that the journal of a job's end tells."""
    exit_ = record["exit"]
    started, ended = record.get("started_at"), record.get("ended_at")
    assert isinstance(exit_, dict)
    return JobStatus(
        str(record["key"]),
        Phase.ended,
        unit,
        None if started is None else Instant(int(str(started))),
        None if ended is None else Instant(int(str(ended))),
        Exit(ExitKind(exit_["kind"]), exit_["reason"], exit_["code"]),
    )


def usage_of(record: Mapping[str, object]) -> Usage:
    """The use that the journal of a job's end tells."""
    usage = record.get("usage") or {}
    assert isinstance(usage, dict)
    points = tuple(tuple(point) for point in usage.get("trace", ()))
    return Usage(**{**usage, "trace": points})


def usage_so_far(folder: Path, keeper: int, started_at: Instant | None) -> Usage:
    """The use so far of a running job: all below its keeper, and what they and it have waited for."""
    told = read_json(folder / "usage.json") or {}
    cpu, memory, pids = 0.0, 0, [keeper, *descendants(keeper)]
    for pid in pids:
        if (fields := stat(pid)) is not None:
            cpu += cpu_s(fields)
            memory += resident_bytes(fields) if pid != keeper else 0
    wall_s = 0.0 if started_at is None else max(0.0, time.time() - started_at / 1e6)
    before = usage_of({"usage": told})
    return replace(
        before,
        wall_s=wall_s,
        cpu_s=max(cpu, before.cpu_s or 0.0),
        memory_peak_bytes=max(memory, before.memory_peak_bytes or 0),
        memory_peak_is_exact=False,
    )


def lost(key: str, reason: str) -> dict[str, object]:
    """The journal of an end that nobody saw."""
    exit_ = {"kind": "worker_lost", "reason": reason, "code": None}
    return {"format": 1, "key": key, "started_at": None, "ended_at": None, "exit": exit_}


def read_json(path: Path) -> dict[str, object] | None:
    """A file of the journal; `None` where it is not there, or only half."""
    try:
        record = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None
    return record if isinstance(record, dict) else None


def write_json(path: Path, record: Mapping[str, object]) -> None:
    """Write a file of the journal whole or not at all."""
    new = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}.new")
    new.write_text(json.dumps(record))
    new.replace(path)


def disk_error(error: OSError, what: str) -> Exception:
    """Our error for one of the disk."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutOfSpace(f"{what}: the disk is full", ways_on=["free some space, then try again"])
    return Refused(f"{what}: {error.strerror}: {error.filename}")
