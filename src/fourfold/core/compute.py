"""What runs, on what, how fast that is, and what it used and cost.

Money is an integer count of nano-dollars (`..._nanousd`): a millisecond on a ten-cent machine costs 28 of
them, so that the cost of ten thousand short steps is not rounded away, and sums are exact.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from fourfold.core.figures import SpeedFigure
from fourfold.core.jobs import Exit, Usage
from fourfold.core.quality import TimeToQuality
from fourfold.core.times import Instant

NANO_PER_USD = 10**9


def usd_text(nanousd: int) -> str:
    """Money for people: cents where there are any, more digits where there are not.

    >>> usd_text(1_250_000_000), usd_text(41_700), usd_text(28), usd_text(0)
    ('$1.25', '$0.000042', '$0.000000028', '$0.00')
    """
    if nanousd == 0 or abs(nanousd) >= NANO_PER_USD // 100:
        return f"${nanousd / NANO_PER_USD:.2f}"
    digits = 9 - len(str(abs(nanousd))) + 2
    return f"${nanousd / NANO_PER_USD:.{min(digits, 9)}f}"


@dataclass(frozen=True, slots=True)
class Gpu:
    """One graphics processor, or an instance of a divided one (MIG)."""

    name: str
    memory_bytes: int
    uuid: str = ""
    capability: str = ""
    """CUDA's compute capability, as `9.0`."""


@dataclass(frozen=True, slots=True)
class Cache:
    """One cache as the first core sees it; those of higher levels are shared with other cores."""

    level: int
    kind: str
    """`Data`, `Instruction` or `Unified`."""
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Unit:
    """What jobs run on, as found: what this process may use of it, not what is built in."""

    name: str
    cores: float
    """Cores that may be used: the affinity mask, and no more than the cgroup's quota."""
    memory_bytes: int
    """Memory that may be used: the machine's, and no more than the cgroup's limit."""
    cpu_model: str = ""
    architecture: str = ""
    last_level_cache_bytes: int = 0
    gpus: tuple[Gpu, ...] = ()
    limited_by: tuple[str, ...] = ()
    """Why it is smaller than the machine, in words."""
    caches: tuple[Cache, ...] = ()
    """By level; empty where the kernel does not tell."""
    machine: str = ""
    """The name that the machine has for itself: what tells two of equal hardware apart."""

    @property
    def fingerprint(self) -> str:
        """Equal for equal hardware: a measurement holds for units of the same fingerprint only."""
        facts = (self.cpu_model, self.architecture, f"{self.cores:g}", str(round(self.memory_bytes / 2**30)))
        return hashlib.sha256("|".join((*facts, *(gpu.name for gpu in self.gpus))).encode()).hexdigest()[:16]


class FigureName(StrEnum):
    """What is measured of a unit."""

    triad_1 = "triad_1_thread"
    triad_all = "triad_all_threads"
    fp64_1 = "fp64_1_thread"
    fp64_all = "fp64_all_threads"
    fp32_1 = "fp32_1_thread"
    fp32_all = "fp32_all_threads"
    disk_write = "disk_write_fsync"
    disk_read = "disk_read"
    fsync_4k = "fsync_4k"
    gpu_triad = "gpu_triad"
    gpu_fp32 = "gpu_fp32"
    gpu_tf32 = "gpu_tf32"
    gpu_fp16 = "gpu_fp16"
    gpu_bf16 = "gpu_bf16"
    store_up = "store_up"
    store_down = "store_down"
    store_put_4k = "store_put_4k"
    store_get_4k = "store_get_4k"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure: the median of several repeats, and how far they lie apart."""

    name: FigureName
    value: float
    dimension: str
    """`GB/s` (10⁹ bytes), `GFLOP/s`, `MB/s` or `ms`."""
    low: float
    high: float
    repeat_count: int

    @property
    def spread(self) -> float:
        """(high − low) / median."""
        return (self.high - self.low) / self.value if self.value else 0.0


@dataclass(frozen=True, slots=True)
class Measurement:
    """A unit's figures at one time."""

    id: str
    unit: str
    fingerprint: str
    at: Instant
    duration_s: float
    is_quick: bool
    figures: tuple[Figure, ...]
    versions: Mapping[str, str]
    """Of Python, the kernel, NumPy and its BLAS: a peak is a peak of these. `store` names the store that was
    measured, `machine` the machine."""
    other_cores_busy: float
    """Cores that other processes kept busy meanwhile, on average (and time stolen by the host)."""
    notes: tuple[str, ...] = ()

    @property
    def is_confident(self) -> bool:
        """Whether the unit was nearly idle otherwise; spread within a run does not show contention."""
        return self.other_cores_busy < 0.1

    def value(self, name: FigureName) -> float | None:
        """The figure's median, or `None` where it was not measured."""
        return next((figure.value for figure in self.figures if figure.name == name), None)


@dataclass(frozen=True, slots=True)
class Standing:
    """A figure of one unit, held against the other units of its pool."""

    name: str
    """Of a `FigureName`, or `time to quality: trees`."""
    dimension: str
    value: float
    median: float
    """Of the other units, each with its own median."""
    low: float
    high: float
    """The quarters of those; of a single other unit, its own."""
    other_count: int
    is_worse: bool
    is_telling: bool
    """Whether it differs by more than a tenth, and its quarters do not overlap theirs."""

    @property
    def share(self) -> float:
        """(value − median) / median."""
        return (self.value - self.median) / self.median


@dataclass(frozen=True, slots=True)
class UnitInfo:
    """A unit with its price now, its newest measurement and its newest time to quality."""

    unit: Unit
    price_usd_per_hour: float = 0.0
    measurement: Measurement | None = None
    quality: TimeToQuality | None = None
    standings: tuple[Standing, ...] = ()
    """Both held against the other units of its pool; empty where none was measured likewise."""
    speeds: tuple[SpeedFigure, ...] = ()
    """The figures that jobs may ask for, each with where it comes from."""


@dataclass(frozen=True, slots=True)
class Held:
    """What a job held of its unit while it ran, whether it used it or not."""

    cpu: float = 1.0
    memory_bytes: int = 0
    gpu: float = 0.0


@dataclass(frozen=True, slots=True)
class JobReport:
    """A job that ended: what the rooms hand to compute. `key` is unique for ever."""

    key: str
    name: str
    """For people: the step's, notebook's or service's name."""
    unit: str
    started_at: Instant
    ended_at: Instant
    exit: Exit
    usage: Usage
    held: Held = Held()
    kind: str = "step"
    """`step`, `notebook`, `service` or `command`."""
    flow_run: str = ""
    environment: str = ""
    user: str = ""
    whole: Held | None = None
    """What the unit had in all, where it is not this machine; of several, all of them together."""
    unit_share: float | None = None
    """Of several units, the shares that it held of each, added up."""


class Bound(StrEnum):
    """What kept a job from being faster."""

    cpu = "cpu"
    disk = "disk"
    """It stood waiting for the disk."""
    waiting = "waiting"
    """Network, locks or sleep (and disk, where that cannot be told): the processors it held stood idle."""
    one_core = "one_core"
    """It held several cores and kept about one busy."""
    memory = "memory"
    """Of earlier records only: it used nearly all of its memory, which is now said beside what bounds it."""
    overhead = "overhead"
    """Too short to tell."""
    unknown = "unknown"


@dataclass(frozen=True, slots=True)
class Account:
    """What a job's use amounts to."""

    utilisation: float | None
    """CPU seconds / (wall seconds × cores held); `None` where CPU time is unknown."""
    flops_utilisation: float | None
    """Operations counted / (wall seconds × the unit's measured peak × share of cores held)."""
    memory_utilisation: float | None
    """Peak memory / memory held; `None` where none was asked for."""
    price_usd_per_hour: float
    """The unit's price when the job ran."""
    unit_share: float
    """The largest share of the unit that it held: of its cores, memory or GPUs. Those of several add up."""
    cost_nanousd: int
    bound: Bound
    sentence: str
    """What bounds it, in words."""


@dataclass(frozen=True, slots=True)
class Job:
    """A recorded job: what it reported, and the account made of it at that time."""

    report: JobReport
    account: Account


@dataclass(frozen=True, slots=True)
class JobTotals:
    """Many jobs together."""

    job_count: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    memory_peak_bytes: int = 0
    cost_nanousd: int = 0
    utilisation: float | None = None
    """Of all cores held over all wall seconds."""


@dataclass(frozen=True, slots=True)
class Spread:
    """How a figure was spread over runs, by nearest rank: each is one that a run really had."""

    count: int
    p50: float
    p95: float
    most: float


@dataclass(frozen=True, slots=True)
class SizeAdvice:
    """What a step should ask for, and the runs that speak for it. `None` where they do not tell."""

    name: str
    run_count: int
    """Runs that ended well: they are the evidence."""
    out_of_memory_count: int
    over_time_count: int
    left_out_count: int
    """Runs that ended otherwise: what they used says nothing of what they need."""
    inexact_peak_count: int
    """Of the good runs, those whose peak memory may be another's or fell between two looks."""
    held: Held
    """What the newest run held."""
    memory_peak_bytes: Spread | None
    cores_busy: Spread | None
    wall_s: Spread | None
    cpu: float | None
    memory_bytes: int | None
    time_limit_s: float | None
    saving_nanousd_per_run: int | None
    """At the price of the newest run; below zero when the proposal costs more."""
    sentences: tuple[str, ...]
    """All of it in words."""


@dataclass(frozen=True, slots=True)
class FlowAdvice:
    """What all steps of a flow should ask for, from its own runs."""

    flow: str
    run_count: int
    """Its newest runs that were looked at, however they ended."""
    steps: tuple[SizeAdvice, ...]
    """By name."""
    saving_nanousd_per_run: int | None
    """Of a run of the flow, each step as often as it ran in the middle of its runs; `None` where no step
    tells."""
    sentences: tuple[str, ...]
    """All of it in words."""


@dataclass(frozen=True, slots=True)
class EnvironmentRecord:
    """An environment that something ran in or was built for; `lock` is the text that rebuilds it."""

    identity: str
    python: str
    platform: str
    package_count: int
    origin: str
    """Where it came from: `lock`, `requirements` or `captured`."""
    first_seen_at: Instant
    lock: str = ""
