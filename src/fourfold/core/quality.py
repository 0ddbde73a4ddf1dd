"""Time to quality: how long a unit trains until a fixed quality is reached, as MLPerf training has it.

The suite is frozen. Its hyper-parameters stand in `foundation/compute/training/`; here stand the targets, and
how many steps the reference took, so that luck or a mistake shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from fourfold.core.times import Instant

SUITE_VERSION = 1
"""Raised with every change of data, hyper-parameters or targets: results of two versions are not compared."""

SEEDS = (1, 2, 3, 4, 5)
"""Of the runs. The data has a stream of its own, which no seed of a run can meet."""


class TaskName(StrEnum):
    """What is trained."""

    trees = "trees"
    digits = "digits"
    factors = "factors"


@dataclass(frozen=True, slots=True)
class Task:
    """One task of the suite, frozen."""

    name: TaskName
    about: str
    dimension: str
    """What the quality is: `AUC`, `accuracy` or `RMSE`."""
    target: float
    is_lower_better: bool
    reference_steps: int
    """The median of twenty seeds."""
    least_steps: int
    """The fastest of them. A run that needs far fewer has not done the task."""

    def is_reached(self, quality: float) -> bool:
        """Whether this quality is the target's or better (not a number is not)."""
        return quality <= self.target if self.is_lower_better else quality >= self.target


SUITE = (
    Task(TaskName.trees, "gradient-boosted trees on a table", "AUC", 0.952, False, 142, 113),
    Task(TaskName.digits, "a small neural network on drawn digits", "accuracy", 0.95, False, 31, 23),
    Task(TaskName.factors, "matrix factorisation by least squares", "RMSE", 0.64, True, 16, 15),
)


@dataclass(frozen=True, slots=True)
class Training:
    """One run of a task, from the first initialisation to the target or to giving up."""

    seed: int
    seconds: float
    step_count: int
    quality: float | None
    """The last that was seen; `None` where the run gave none."""
    has_converged: bool
    why: str = ""
    """Why it did not, in words."""


@dataclass(frozen=True, slots=True)
class TaskResult:
    """What the runs of one task amount to."""

    task: TaskName
    dimension: str
    target: float
    trainings: tuple[Training, ...]
    seconds: float | None
    """The mean without the fastest and the slowest; `None` where the result is void."""
    low: float | None
    high: float | None
    """The fastest and the slowest of those that count."""
    void_because: str = ""

    @property
    def failed_count(self) -> int:
        """Runs that did not reach the target."""
        return sum(not training.has_converged for training in self.trainings)


@dataclass(frozen=True, slots=True)
class TimeToQuality:
    """A unit's results at one time. Each run uses one core, so units differ by how fast their cores are."""

    id: str
    unit: str
    fingerprint: str
    at: Instant
    duration_s: float
    suite_version: int
    results: tuple[TaskResult, ...]
    versions: Mapping[str, str]
    other_cores_busy: float
    """Cores that other processes kept busy meanwhile, on average."""
    core_count: float
    price_usd_per_hour: float = 0.0
    """The unit's price then."""
    seconds: float | None = None
    """The geometric mean over the tasks; `None` where one is void."""
    cost_nanousd: int | None = None
    """What training each task once costs: one core's share of the price then; `None` without a price."""

    @property
    def is_confident(self) -> bool:
        """Whether the unit was nearly idle otherwise."""
        return self.other_cores_busy < 0.1
