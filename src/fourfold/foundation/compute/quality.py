"""Time to quality of a unit: trains each task of the suite once per seed, each run a process of its own."""

from __future__ import annotations

from collections.abc import Callable

from fourfold.catalog.ids import new_id
from fourfold.core import wire
from fourfold.core.compute import Unit
from fourfold.core.decide.quality import cost_nanousd, judge, together
from fourfold.core.errors import TimedOut, Unavailable
from fourfold.core.ports.clock import Clock
from fourfold.core.quality import SEEDS, SUITE, SUITE_VERSION, Task, TaskName, TimeToQuality, Training
from fourfold.foundation.compute.apart import Bystanders, lines_of, versions_here

RUN_S = 30.0
"""A run that has not converged by then is given up; on a quiet core of 2023 each takes two or three."""
START_S = 30.0
"""What a run may take besides: imports, and the making of its data."""
SUITE_S = 300.0
"""The whole suite. Runs that would begin later did not converge."""

Progress = Callable[[Task, Training], None]


def measure_quality(
    unit: Unit, *, clock: Clock, price_usd_per_hour: float = 0.0, progress: Progress | None = None
) -> TimeToQuality:
    """Run the whole suite here: about a minute on a quiet core, five at most."""
    at, bystanders = clock.now(), Bystanders()
    trained: dict[TaskName, list[Training]] = {task.name: [] for task in SUITE}
    # Seed by seed, so that a burst of other work falls on one run of each task, and is dropped.
    for seed in SEEDS:
        for task in SUITE:
            left_s = SUITE_S - bystanders.duration_s
            made = train_once(task, seed, min(RUN_S, left_s)) if left_s > 0 else _too_late(seed)
            trained[task.name].append(made)
            if progress is not None:
                progress(task, made)
    results = tuple(judge(task, trained[task.name]) for task in SUITE)
    return TimeToQuality(
        id=new_id("quality"),
        unit=unit.name,
        fingerprint=unit.fingerprint,
        at=at,
        duration_s=bystanders.duration_s,
        suite_version=SUITE_VERSION,
        results=results,
        versions=versions_here(unit.machine),
        other_cores_busy=bystanders.cores_busy(),
        core_count=unit.cores,
        price_usd_per_hour=price_usd_per_hour,
        seconds=together(results),
        cost_nanousd=cost_nanousd(results, price_usd_per_hour=price_usd_per_hour, core_count=unit.cores),
    )


def train_once(task: Task, seed: int, budget_s: float) -> Training:
    """One run on one core; whatever happens to its process, there is an answer."""
    request: dict[str, object] = {"task": task.name.value, "seed": seed, "budget_s": budget_s}
    try:
        lines = list(lines_of("training.main", request, threads=1, patience_s=budget_s + START_S))
    except (TimedOut, Unavailable) as error:
        return Training(seed, budget_s, 0, None, has_converged=False, why=str(error).splitlines()[0][:200])
    return wire.decode(lines[-1] if lines else "", Training, what="a training run")


def _too_late(seed: int) -> Training:
    return Training(seed, 0.0, 0, None, has_converged=False, why=f"the suite had used up its {SUITE_S:g} s")
