"""Where commands run: local processes, a cluster, a cloud.

Whatever the engine, it only has to start a command and say how it ended. The command is always the
runner (`python -m fourfold.runner`, or a service's own), which fetches its work from the control
socket; so an engine knows nothing of flows, models or notebooks.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, Protocol, runtime_checkable

from fourfold.core.figures import SpeedFigure
from fourfold.core.jobs import Exit, ExitKind, Resources, SpotUnit, Usage
from fourfold.core.times import Instant

__all__ = [
    "Capabilities",
    "Engine",
    "Exit",
    "ExitKind",
    "JobStatus",
    "Launch",
    "LogChunk",
    "MapsBatches",
    "Offer",
    "Phase",
    "Resources",
    "Usage",
]


@dataclass(frozen=True, slots=True)
class Launch:
    """A command to start. `key` names it for ever: submitting the same key twice starts one process."""

    key: str
    argv: tuple[str, ...]
    kind: Literal["job", "service"] = "job"
    env: Mapping[str, str] = field(default_factory=dict)
    """Added to a small clean environment; never the whole environment of the control process.

    An engine that chooses among several units by itself adds `FOURFOLD_UNIT`, where it can: the name of the
    one that the process is on, as its offers have it.
    """
    cwd: str = ""
    resources: Resources = Resources()
    image: str = ""
    """The OCI image to start it in; "" is the engine's own machine as it is (or its default image)."""
    nodes: int = 1
    """Started once on each of so many nodes, all of them or none; `resources` are those of one node.

    Each process finds `RANK` (0 first), `WORLD_SIZE`, `LOCAL_RANK` (0), `MASTER_ADDR` and `MASTER_PORT` in
    its environment, as `torchrun` gives them. The job ends with its last process; when one fails the
    others are ended, and the job's exit is that of the one that failed first.
    """
    listens: bool = False
    """Whether it serves: it finds a free port in `FOURFOLD_PORT`; `JobStatus.address` says where that is."""


class Phase(StrEnum):
    starting = "starting"
    running = "running"
    ended = "ended"
    unknown = "unknown"
    """The engine has no record of this key (for example after its own restart)."""


@dataclass(frozen=True, slots=True)
class JobStatus:
    key: str
    phase: Phase
    unit: str = ""
    """Name of the unit it runs on."""
    started_at: Instant | None = None
    ended_at: Instant | None = None
    exit: Exit | None = None
    pid: int | None = None
    address: str = ""
    """`host:port` where a launch that `listens` is reached, once that is known; rank 0's of several nodes."""


@dataclass(frozen=True, slots=True)
class LogChunk:
    """A piece of a job's output (bytes as written, stdout and stderr together) from `offset`."""

    data: bytes
    next_offset: int
    is_end: bool


@dataclass(frozen=True, slots=True)
class Offer:
    """A unit on which a request could run, now or later, with its price."""

    unit: str
    cpu: float
    memory_bytes: int
    gpu: int = 0
    gpu_name: str = ""
    price_usd_per_hour: float = 0.0
    gpu_memory_bytes: int = 0
    """Of the smallest of its GPUs; 0 where that is not known."""
    arch: str = ""
    """As Linux calls it; "" where that is not known."""
    disk_bytes: int = 0
    """Free room where jobs write, in whole GiB; 0 where that is not known."""
    figures: tuple[SpeedFigure, ...] = ()
    """How fast it is, where the engine knows more than the name of its GPUs tells."""
    locations: tuple[str, ...] = ()
    """Where it is, where the engine knows: labels such as a region and a zone."""
    spot: SpotUnit = SpotUnit.no
    """`asked` where the engine knows that it may be taken away."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do; what it cannot, it refuses with the reason."""

    services: bool
    memory_limit: Literal["enforced", "polled", "none"]
    time_limit: bool
    gpus: bool
    survives_control_restart: bool
    """Whether jobs go on when the process that submitted them dies."""
    listens: bool = False
    """Whether a launch may listen on a port that others reach."""
    nodes: bool = False
    """Whether a launch may run on several nodes at once."""
    nodes_share_units: bool = False
    """Whether several nodes of one launch may be on one unit, as they are where an engine is one machine."""
    images: bool = False
    """Whether a launch may name an image."""
    shares_files: bool = True
    """Whether its jobs see this machine's files under the same paths."""


class Engine(Protocol):
    """Starts commands and says how they ended."""

    def capabilities(self) -> Capabilities: ...

    def offers(self, request: Resources) -> tuple[Offer, ...]:
        """Units that meet the request, cheapest first; empty when none ever can."""
        ...

    def submit(self, launch: Launch) -> None:
        """Start the command. Idempotent by `launch.key`.

        Raises `Refused` when no unit can ever meet it, or when it asks for what `capabilities` deny. Such
        a key is not used up.
        """
        ...

    def status(self, keys: Collection[str]) -> Mapping[str, JobStatus]:
        """The state of many jobs in one call; every key asked for is in the answer."""
        ...

    def wait(self, keys: Collection[str], timeout_s: float) -> Mapping[str, JobStatus]:
        """Return as soon as one of the jobs has ended (at once if one had), or after `timeout_s`.

        The answer is that of `status`. Engines that are told of an end do not poll.
        """
        ...

    def logs(self, key: str, offset: int = 0, limit_bytes: int = 1 << 20) -> LogChunk:
        """Output from `offset`, at most `limit_bytes`."""
        ...

    def stop(self, key: str, grace_s: float = 5.0) -> None:
        """End the job and every process it started: politely, then after `grace_s` by force. Repeatable."""
        ...

    def usage(self, key: str) -> Usage:
        """What the job used so far, or in all once it ended."""
        ...

    def reap(self, keep: Collection[str]) -> tuple[str, ...]:
        """End everything this engine started (in this life or an earlier one) that is not in `keep`.

        What another control process started that is still alive is left to it. The keys ended are returned.
        """
        ...

    def close(self) -> None:
        """Release what this object holds. Jobs of an engine that does not survive its control end too."""
        ...


@runtime_checkable
class MapsBatches(Engine, Protocol):
    """An engine that maps a function over batches with a library of its own."""

    def batches_launch(self, key: str, folder: str, count: int) -> Launch:
        """A launch that maps the `function` (a pickle) of a folder over its files `in.00000000` and so on.

        Files are Arrow streams. Each result is `out.` with the same number, there whole or not at all; what
        the function raised for a batch is text in `failed.` with its number.
        """
        ...
