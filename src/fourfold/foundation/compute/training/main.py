"""One run of one task, as a process of its own: `python -m … '{"task": "trees", "seed": 1, "budget_s": 20}'`.

Writes one line of JSON. The data is made before the clock starts; the model's initialisation counts.
"""

from __future__ import annotations

import importlib
import json
import math
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from fourfold.core import wire
from fourfold.core.quality import SUITE, SUITE_VERSION, Task, Training

DATA, RUN = 0, 1
"""The two kinds of streams: whatever a run's seed is, its numbers are never those that made the data."""


def generator(kind: int, task: Task, seed: int) -> np.random.Generator:
    """A stream of its own for this task, kind and seed."""
    number = [each.name for each in SUITE].index(task.name)
    return np.random.default_rng(np.random.SeedSequence(SUITE_VERSION, spawn_key=(kind, number, seed)))


def run(task: Task, seed: int, qualities: Iterator[float], budget_s: float) -> Training:
    """Train until the target is reached, the steps are used up, or the time is."""
    began = time.perf_counter()
    step_count, quality = 0, math.nan
    why = "used up its steps"
    for quality in qualities:
        step_count += 1
        elapsed = time.perf_counter() - began
        if task.is_reached(quality):
            return Training(seed, elapsed, step_count, quality, has_converged=True)
        if not math.isfinite(quality):
            why = "left the numbers"
            break
        if elapsed > budget_s:
            why = f"took longer than {budget_s:g} s"
            break
    seen = quality if math.isfinite(quality) else None
    return Training(seed, time.perf_counter() - began, step_count, seen, has_converged=False, why=why)


def main() -> None:
    request = json.loads(sys.argv[1])
    task = next(each for each in SUITE if each.name == request["task"])
    seed = int(request["seed"])
    module: Any = importlib.import_module(f"fourfold.foundation.compute.training.{task.name}")
    data = module.make_data(generator(DATA, task, 0))
    made = run(task, seed, module.train(data, generator(RUN, task, seed)), float(request["budget_s"]))
    sys.stdout.write(wire.encode(made).decode() + "\n")


if __name__ == "__main__":
    main()
