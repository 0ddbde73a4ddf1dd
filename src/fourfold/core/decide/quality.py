"""When a time to quality counts, and what it is: MLPerf training's rules in small."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fourfold.core.compute import NANO_PER_USD
from fourfold.core.quality import Task, TaskResult, Training

LEAST_RUNS = 5
LUCKY = 0.8
"""A run that needs fewer than this share of the reference's fewest steps has not done the task."""


def judge(task: Task, trainings: Sequence[Training]) -> TaskResult:
    """The runs of one task as one result: fastest and slowest dropped, the mean of the rest.

    One run that did not converge may be the slowest that is dropped; more make the result void, and so does a
    run that converged in too few steps to be true.
    """
    runs = tuple(sorted(trainings, key=lambda run: run.seed))
    void = _void_because(task, runs)
    if void:
        return TaskResult(task.name, task.dimension, task.target, runs, None, None, None, void)
    kept = sorted(run.seconds if run.has_converged else math.inf for run in runs)[1:-1]
    seconds = min(max(math.fsum(kept) / len(kept), kept[0]), kept[-1])  # rounding must not leave the range
    return TaskResult(task.name, task.dimension, task.target, runs, seconds, kept[0], kept[-1])


def _void_because(task: Task, runs: Sequence[Training]) -> str:
    seeds = {run.seed for run in runs}
    if len(seeds) < LEAST_RUNS or len(seeds) < len(runs):
        return f"{len(seeds)} seeds in {len(runs)} runs; at least {LEAST_RUNS} are needed, each its own"
    for run in runs:
        if run.has_converged and run.step_count < LUCKY * task.least_steps:
            return (
                f"seed {run.seed} reached {task.target:g} in {run.step_count} steps, the reference needs at "
                f"least {task.least_steps}: it did not do the task"
            )
        if run.has_converged and (run.quality is None or not task.is_reached(run.quality)):
            return f"seed {run.seed} says that it reached {task.target:g}, its quality is {run.quality}"
    failed = [run for run in runs if not run.has_converged]
    if len(failed) > 1:
        seeds_text = ", ".join(str(run.seed) for run in failed)
        return f"seeds {seeds_text} did not reach {task.target:g}; one may be dropped"
    return ""


def together(results: Sequence[TaskResult]) -> float | None:
    """One number over the tasks: the geometric mean, so that no long task outweighs a short one."""
    seconds = [result.seconds for result in results]
    known = [each for each in seconds if each is not None and each > 0]
    if not seconds or len(known) < len(seconds):
        return None
    return math.exp(math.fsum(map(math.log, known)) / len(known))


def cost_nanousd(
    results: Sequence[TaskResult], *, price_usd_per_hour: float, core_count: float
) -> int | None:
    """What training each task once costs on this unit: one core's share of its price.

    `None` where the price or a result is not known.
    """
    seconds = [result.seconds for result in results if result.seconds is not None]
    if price_usd_per_hour <= 0 or core_count <= 0 or not results or len(seconds) < len(results):
        return None
    share = 1.0 / max(1.0, core_count)
    return round(math.fsum(seconds) * share * price_usd_per_hour * NANO_PER_USD / 3600)
