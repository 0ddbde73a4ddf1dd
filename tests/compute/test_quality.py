"""A time to quality follows MLPerf's rules: ends dropped, failures told, luck not believed."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourfold.catalog.database import Catalog
from fourfold.core import wire
from fourfold.core.compute import Unit
from fourfold.core.decide.quality import cost_nanousd, judge, together
from fourfold.core.errors import NotFound, Unavailable
from fourfold.core.quality import SEEDS, SUITE, Task, TaskResult, TimeToQuality, Training
from fourfold.foundation.compute import quality
from fourfold.foundation.compute.environments import Environments
from fourfold.foundation.compute.service import Compute
from fourfold.foundation.compute.training import digits, factors, main, trees
from fourfold.testing.clock import MovableClock

TASK = SUITE[0]
UNIT = Unit("local", cores=4, memory_bytes=16 << 30, cpu_model="Chip")

times = st.floats(0.01, 1e4)
runs_of_five = st.lists(times, min_size=5, max_size=9)


def run(seed: int, seconds: float, *, steps: int | None = None, task: Task = TASK) -> Training:
    return Training(seed, seconds, task.reference_steps if steps is None else steps, task.target, True)


def failed(seed: int, seconds: float = 30.0) -> Training:
    return Training(seed, seconds, 9, 0.5, has_converged=False, why="took longer than 30 s")


def judged(seconds: list[float]) -> TaskResult:
    return judge(TASK, [run(seed, each) for seed, each in enumerate(seconds)])


@pytest.mark.property
@given(runs_of_five)
def test_the_result_lies_between_the_runs_that_count_and_no_single_run_sets_it(seconds: list[float]) -> None:
    result = judged(seconds)
    kept = sorted(seconds)[1:-1]
    assert result.seconds is not None
    assert (result.low, result.high) == (kept[0], kept[-1])
    assert kept[0] <= result.seconds <= kept[-1]
    assert result.seconds == pytest.approx(math.fsum(kept) / len(kept))


@pytest.mark.property
@given(runs_of_five, st.randoms())
def test_the_order_of_the_runs_changes_nothing(seconds: list[float], chance: Any) -> None:
    runs = [run(seed, each) for seed, each in enumerate(seconds)]
    shuffled = list(runs)
    chance.shuffle(shuffled)
    assert judge(TASK, shuffled) == judge(TASK, runs)


@pytest.mark.property
@given(runs_of_five, st.integers(0, 4), st.floats(0, 100))
def test_a_run_that_is_slower_never_makes_the_unit_faster(
    seconds: list[float], which: int, more: float
) -> None:
    slower = [each + more * (at == which) for at, each in enumerate(seconds)]
    before, after = judged(seconds).seconds, judged(slower).seconds
    assert before is not None
    assert after is not None
    assert after >= before * (1 - 1e-12)


@pytest.mark.property
@given(runs_of_five, st.integers(0, 4), st.floats(0.0, 1e6))
def test_one_run_that_did_not_converge_counts_as_the_slowest_however_soon_it_gave_up(
    seconds: list[float], which: int, gave_up_after: float
) -> None:
    runs = [run(seed, each) for seed, each in enumerate(seconds)]
    runs[which] = failed(which, gave_up_after)
    result = judge(TASK, runs)
    others = sorted(each for at, each in enumerate(seconds) if at != which)
    assert result.seconds == pytest.approx(math.fsum(others[1:]) / len(others[1:]))
    assert result.failed_count == 1


def test_two_runs_that_did_not_converge_void_the_result() -> None:
    result = judge(TASK, [run(1, 1.0), run(2, 1.0), run(3, 1.0), failed(4), failed(5)])
    assert (result.seconds, result.low, result.failed_count) == (None, None, 2)
    assert result.void_because == "seeds 4, 5 did not reach 0.952; one may be dropped"


def test_a_run_that_began_at_the_answer_voids_the_result() -> None:
    result = judge(TASK, [*(run(seed, 1.0) for seed in (1, 2, 4, 5)), run(3, 0.01, steps=1)])
    assert result.seconds is None
    assert result.void_because.startswith("seed 3 reached 0.952 in 1 steps, the reference needs at least")


@pytest.mark.parametrize("seeds", [(1, 2, 3, 4), (1, 2, 3, 4, 4), (1, 2, 3, 4, 5, 5), ()])
def test_too_few_seeds_or_one_twice_void_the_result(seeds: tuple[int, ...]) -> None:
    assert "seeds in" in judge(TASK, [run(seed, 1.0) for seed in seeds]).void_because


@pytest.mark.parametrize("seen", [0.5, math.nan, None])
def test_a_run_that_only_says_that_it_converged_voids_the_result(seen: float | None) -> None:
    runs = [*(run(seed, 1.0) for seed in (1, 2, 3, 4)), replace(run(5, 1.0), quality=seen)]
    assert "seed 5 says that it reached" in judge(TASK, runs).void_because


def test_one_number_for_all_tasks_and_its_cost_need_every_task() -> None:
    results = [judged([each] * 5) for each in (1.0, 2.0, 4.0)]
    void = replace(results[0], seconds=None)
    assert together(results) == pytest.approx(2.0)
    assert together([*results, void]) is together([]) is None
    # Seven seconds of one of four cores, at $3.60 an hour.
    assert cost_nanousd(results, price_usd_per_hour=3.6, core_count=4) == 1_750_000
    assert cost_nanousd(results, price_usd_per_hour=3.6, core_count=0.5) == 7_000_000
    assert cost_nanousd([*results, void], price_usd_per_hour=3.6, core_count=4) is None
    assert cost_nanousd(results, price_usd_per_hour=0.0, core_count=4) is None


def test_no_seed_of_a_run_meets_the_stream_that_made_the_data() -> None:
    firsts = {
        (kind, task.name, seed): main.generator(kind, task, seed).integers(1 << 62)
        for task in SUITE
        for kind, seeds in ((main.DATA, (0,)), (main.RUN, range(200)))
        for seed in seeds
    }
    assert len(set(firsts.values())) == len(firsts)


def test_a_run_ends_at_the_target_by_its_steps_by_time_or_where_numbers_end() -> None:
    def after(*qualities: float, budget_s: float = 60.0) -> Training:
        return main.run(TASK, 7, iter(qualities), budget_s)

    assert (after(0.5, 0.96, 0.99).step_count, after(0.5, 0.96).has_converged) == (2, True)
    assert (after(0.5, 0.6).has_converged, after(0.5, 0.6).why) == (False, "used up its steps")
    assert (after(0.5, math.nan, 0.99).quality, after(math.nan).why) == (None, "left the numbers")
    assert after(0.5, 0.99, budget_s=-1.0).why == "took longer than -1 s"
    assert after().quality is None
    assert wire.decode(wire.encode(after(math.nan)), Training).quality is None


def test_the_auc_is_that_of_all_pairs() -> None:
    chance = np.random.default_rng(0)
    scores, is_positive = np.round(chance.normal(size=80), 1), chance.random(80) < 0.4
    pairs = [
        1.0 if high > low else 0.5 if high == low else 0.0
        for high in scores[is_positive]
        for low in scores[~is_positive]
    ]
    assert trees.auc(scores, is_positive) == pytest.approx(sum(pairs) / len(pairs))


def test_the_networks_slopes_are_those_of_its_loss() -> None:
    chance = np.random.default_rng(1)
    pictures = chance.random((6, 5)).astype(np.float32)
    labels = np.array([0, 1, 2, 3, 4, 9])
    weights = [chance.normal(size=(5, 8)).astype(np.float32), chance.normal(size=(8, 10)).astype(np.float32)]
    shifts = [np.zeros(8, np.float32), np.zeros(10, np.float32)]

    def loss() -> float:
        raw = digits._layers(pictures, weights, shifts)[-1].astype(np.float64)
        odds = np.exp(raw) / np.exp(raw).sum(axis=1, keepdims=True)
        return float(-np.log(odds[np.arange(6), labels]).mean())

    slopes = digits._slopes(pictures, labels, weights, shifts)
    for each, slope in zip((*weights, *shifts), slopes, strict=True):
        at = (0,) * each.ndim
        each[at] += 0.01
        above = loss()
        each[at] -= 0.02
        below = loss()
        each[at] += 0.01
        assert slope[at] == pytest.approx((above - below) / 0.02, abs=2e-3)


def test_alternating_least_squares_finds_factors_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"USERS": 60, "ITEMS": 40, "RANK": 2, "RATINGS_PER_USER": 30, "PENALTY": 0.1}.items():
        monkeypatch.setattr(factors, name, value)
    monkeypatch.setattr(factors, "NOISE", 0.0)
    data = factors.make_data(np.random.default_rng(2))
    last = list(factors.train(data, np.random.default_rng(3)))[-1]
    assert last < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("task", SUITE, ids=lambda task: task.name.value)
def test_each_task_reaches_its_target_in_about_the_steps_of_the_reference(task: Task) -> None:
    made = quality.train_once(task, SEEDS[0], 120.0)
    assert made.has_converged, made
    assert 0.8 * task.least_steps <= made.step_count <= 1.6 * task.reference_steps


def test_a_run_whose_process_fails_did_not_converge(monkeypatch: pytest.MonkeyPatch) -> None:
    def lines_of(*_: object, **__: object) -> list[str]:
        raise Unavailable("measuring failed: MemoryError")

    monkeypatch.setattr(quality, "lines_of", lines_of)
    made = quality.train_once(TASK, 1, 30.0)
    assert (made.has_converged, made.why) == (False, "measuring failed: MemoryError")


@pytest.fixture
def compute(catalog: Catalog, home: Path, clock: MovableClock) -> Compute:
    return Compute(
        catalog,
        clock,
        home=home,
        environments=Environments(home),
        prices_usd_per_hour={"local": 3.6},
        find=lambda name: replace(UNIT, name=name),
    )


def test_a_result_is_kept_with_its_price_and_shown_with_the_unit(
    compute: Compute, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality, "train_once", lambda task, seed, _: run(seed, 1.0 + seed, task=task))
    heard: list[tuple[Task, Training]] = []
    assert compute.unit_info("local").quality is None
    made = compute.measure_quality("local", progress=lambda *each: heard.append(each))
    assert len(heard) == len(SUITE) * len(SEEDS)
    assert made.seconds == pytest.approx(4.0)
    assert (
        made.cost_nanousd == 3_000_000
    )  # three tasks of 4 s on one of four cores at a tenth of a cent a second
    assert {"python", "numpy"} <= set(made.versions)
    assert compute.unit_info("local").quality == made
    assert compute.qualities("local") == (made,)
    assert wire.decode(wire.encode(made), TimeToQuality) == made
    with pytest.raises(NotFound, match="did you mean 'local'"):
        compute.measure_quality("locl")


def test_a_suite_that_ran_out_of_time_says_so_and_counts_for_nothing(
    compute: Compute, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality, "SUITE_S", 0.0)
    made = compute.measure_quality("local")
    assert (made.seconds, made.cost_nanousd) == (None, None)
    assert {run.why for result in made.results for run in result.trainings} == {
        "the suite had used up its 0 s"
    }
