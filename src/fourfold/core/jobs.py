"""What a job asks for, how it ended and what it used: the words of every engine, and of those who ask one."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from fourfold.core.figures import SpeedDemand, SpeedFigure
from fourfold.core.quantities import Range


class Spot(StrEnum):
    """What a job says of units that may be taken away from it at any time."""

    unsaid = ""
    """Only where the pool's settings open its spot units to all."""
    never = "never"
    allowed = "allowed"
    only = "only"


class SpotUnit(StrEnum):
    """Whether a unit may be taken away, and who may run on it then."""

    no = ""
    asked = "asked"
    """It may be; only jobs that say so run on it."""
    open = "open"
    """It may be; also jobs run on it that say nothing of spot."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What a job asks for. Ranges: the low end must be met; the high end is as much as it can use.

    A high end of memory is a limit: an engine that can, ends a job that goes past it.
    """

    cpu: Range = Range(1)
    memory_bytes: Range = Range(0)
    gpu: Range = Range(0)
    gpu_name: str = ""
    time_limit_s: float | None = None
    max_price_usd_per_hour: float | None = None
    """Of a whole unit."""
    gpu_memory_bytes: Range = Range(0)
    """Of each GPU."""
    arch: str = ""
    """As Linux calls it: `x86_64`, `aarch64`; "" is any."""
    disk_bytes: Range = Range(0)
    """Free room where the job's files are."""
    speeds: tuple[SpeedDemand, ...] = ()
    """Figures that the unit must reach, each once."""
    locations: tuple[str, ...] = ()
    """The unit must be in one of these; none is anywhere."""
    spot: Spot = Spot.unsaid


class ExitKind(StrEnum):
    """How a job ended; retry policy differs by kind."""

    ok = "ok"
    failed = "failed"
    out_of_memory = "out_of_memory"
    over_time = "over_time"
    worker_lost = "worker_lost"
    preempted = "preempted"
    cancelled = "cancelled"


@dataclass(frozen=True, slots=True)
class Exit:
    """How a job ended, and why in words. `code` is the exit status where there was one."""

    kind: ExitKind
    reason: str = ""
    code: int | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What a job used, measured. `None` where the engine cannot tell."""

    wall_s: float = 0.0
    cpu_s: float | None = None
    memory_peak_bytes: int | None = None
    read_bytes: int | None = None
    written_bytes: int | None = None
    memory_peak_is_exact: bool = True
    """False where the peak may belong to earlier work of the same process, or fell between two looks."""
    flops: float | None = None
    """Floating point operations, where they can be counted."""
    memory_mean_bytes: int | None = None
    """Over time, as it was met by looks."""
    disk_wait_s: float | None = None
    """How long it stood waiting for the disk, as the kernel counts or as looks have met it."""
    network_bytes: int | None = None
    """Sent and received, as the last look saw it. No kernel counts this by process; only a job with a network
    of its own can tell."""
    gpu_s: float | None = None
    """Seconds of work of all GPUs together, as NVML counts it (a kernel was running, however small)."""
    gpu_memory_peak_bytes: int | None = None
    cpu_wait_s: float | None = None
    """How long it stood ready for a processor that others kept busy. It goes into the account's sentence, and
    is not kept beside it."""
    trace: tuple[tuple[int, ...], ...] = ()
    """Readings over time, few and bounded: (at_ms, cpu_ms, memory_bytes, read_bytes, written_bytes), and
    where there are GPUs (…, gpu_ms, gpu_memory_bytes)."""


@dataclass(frozen=True, slots=True)
class UnitCapacity:
    """What a unit has in all."""

    name: str
    cpu: float
    memory_bytes: int
    gpu: int = 0
    gpu_name: str = ""
    gpu_memory_bytes: int = 0
    """Of the smallest of its GPUs; 0 where that is not known."""
    arch: str = ""
    """"" where that is not known."""
    price_usd_per_hour: float = 0.0
    most_nodes: int = 1
    """So many nodes of one job it may take: 0 where its engine starts no job on several."""
    disk_bytes: int = 0
    """Free room where jobs write, when it was last looked at; 0 where that is not known."""
    figures: tuple[SpeedFigure, ...] = ()
    """How fast it is, one figure for each speed that is known."""
    locations: tuple[str, ...] = ()
    """Where it is: labels such as `eu-central-1`."""
    spot: SpotUnit = SpotUnit.no
