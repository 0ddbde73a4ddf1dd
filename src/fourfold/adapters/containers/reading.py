"""What podman says of a container, in the words of the port."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fourfold.adapters.containers.groups import Reading
from fourfold.core.ports.engine import Exit, ExitKind
from fourfold.core.times import Instant, instant

NOT_STARTED = frozenset({"created", "configured", "initialized"})
ENDED = frozenset({"exited", "stopped"})
TIMED_OUT = (-1, 255)
"""What podman keeps of a container that its `--timeout` has ended."""
CLOCK_S = 0.5
"""podman notes a start some milliseconds late, so its time seems shorter than it was."""
NEARLY = 0.9
"""A peak so near the limit is taken for the limit."""
NO_COMMAND = b"ERROR (catatonit:"
"""The first process's word when the command cannot be started; it exits with 1."""
SIGNALS = {137: "SIGKILL", 143: "SIGTERM"}


@dataclass(frozen=True, slots=True)
class Asked:
    """What we have to remember of a job to tell how it ended."""

    key: str
    command: str = ""
    memory_bytes: int | None = None
    time_limit_s: float | None = None
    boot: str = ""
    """The machine's boot in which it was started; "" before."""
    network: str = ""
    """podman's word for its network; "" of jobs of before it was kept."""


@dataclass(frozen=True, slots=True)
class Marks:
    """What we did to it."""

    is_stopped: bool = False
    is_flooding: bool = False


def exit_of(code: int, wall_s: float, asked: Asked, marks: Marks, used: Reading, first_words: bytes) -> Exit:
    """How a job ended, by its exit status and what else is known.

    podman's own `OOMKilled` is not asked: it says false of jobs that the kernel ended for memory.
    """
    limit_s, limit_bytes = asked.time_limit_s, asked.memory_bytes
    if marks.is_flooding:
        return Exit(ExitKind.failed, "it printed more than its pool keeps (most_output_bytes)", code)
    if marks.is_stopped:
        return Exit(ExitKind.cancelled, "stopped", code)
    if code == 0:
        return Exit(ExitKind.ok, "", 0)
    if limit_s is not None and wall_s >= limit_s - CLOCK_S and code in (*TIMED_OUT, 137):
        return Exit(ExitKind.over_time, f"ran longer than {limit_s:g} s", code)
    peak = used.memory_peak_bytes
    was_full = limit_bytes is not None and (peak is None or peak >= NEARLY * limit_bytes)
    if used.oom_kills or (code == 137 and was_full and used.oom_kills is None):
        return Exit(ExitKind.out_of_memory, f"over its memory limit of {limit_bytes or 0} bytes", code)
    if code == 1 and first_words.startswith(NO_COMMAND):
        said = first_words.decode(errors="replace").rpartition(": ")[2].strip()
        no = 126 if "ermission" in said else 127
        return Exit(ExitKind.failed, f"'{asked.command}' could not be started in its image: {said}", no)
    if code in SIGNALS:
        return Exit(ExitKind.worker_lost, f"ended from outside by {SIGNALS[code]}", code)
    if code in TIMED_OUT and code < 0:
        return Exit(ExitKind.worker_lost, "podman does not know how it ended", None)
    return Exit(ExitKind.failed, f"exit status {code}", code)


def state_of(container: Mapping[str, Any]) -> dict[str, Any]:
    """An end as `ps` lists it, in the shape of `inspect`; times are to the second."""
    began, ended = (datetime.fromtimestamp(int(container[each]), UTC) for each in ("StartedAt", "ExitedAt"))
    return {
        "ExitCode": container["ExitCode"],
        "StartedAt": began.isoformat(),
        "FinishedAt": max(began, ended).isoformat(),
    }


def times(state: Mapping[str, Any]) -> tuple[Instant, Instant]:
    """When a container that ended began and ended, to the microsecond."""
    began = instant(datetime.fromisoformat(state["StartedAt"]))
    return began, max(began, instant(datetime.fromisoformat(state["FinishedAt"])))


def address(container: Mapping[str, Any]) -> str:
    """Where what it publishes is reached."""
    for port in container.get("Ports") or ():
        return f"{port.get('host_ip') or '127.0.0.1'}:{port['host_port']}"
    return ""
