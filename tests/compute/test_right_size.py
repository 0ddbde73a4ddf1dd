"""The size that recorded runs speak for."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourfold.core.compute import Account, Bound, Held, Job, JobReport, Unit
from fourfold.core.decide.right_size import FEWEST_RUNS, right_size, right_size_flow
from fourfold.core.jobs import Exit, ExitKind, Usage
from fourfold.core.times import Instant

GIB = 1 << 30
HELD = Held(4.0, 8 * GIB)
UNIT = Unit("local", cores=4, memory_bytes=16 * GIB)


def ran(
    at: int = 0,
    *,
    wall_s: float = 10.0,
    cores: float | None = 1.0,
    peak: int | None = GIB,
    kind: ExitKind = ExitKind.ok,
    held: Held = HELD,
) -> Job:
    usage = Usage(wall_s, None if cores is None else cores * wall_s, peak)
    ended = Instant((at + 100) * 1_000_000)
    report = JobReport(f"run/fit#{at}/1", "fit", "local", Instant(0), ended, Exit(kind), usage, held)
    return Job(report, Account(None, None, None, 0.36, 1.0, 0, Bound.cpu, ""))


def test_a_size_is_what_runs_took_with_headroom() -> None:
    advice = right_size("fit", [ran(i) for i in range(10)], unit=UNIT)
    assert (advice.cpu, advice.memory_bytes, advice.time_limit_s) == (1.0, round(1.25 * GIB), 20.0)
    assert (advice.run_count, advice.held) == (10, Held(4.0, 8 * GIB))
    # A whole unit costs 0.36 $ an hour, so 0.001 $ for 10 s; a quarter of it is enough.
    assert advice.saving_nanousd_per_run == 750_000
    assert "lower it to 1.2 GiB" in " ".join(advice.sentences)


def test_too_few_runs_propose_nothing_and_say_so() -> None:
    advice = right_size("fit", [ran(i) for i in range(FEWEST_RUNS - 1)], unit=UNIT)
    assert (advice.cpu, advice.memory_bytes, advice.time_limit_s) == (None, None, None)
    assert advice.saving_nanousd_per_run is None
    assert advice.sentences == ("Too few runs: 4 ended well, and 5 are needed to propose a size.",)
    assert right_size("fit", []).run_count == 0


def test_runs_that_were_ended_for_memory_or_time_raise_the_proposal() -> None:
    starved = ran(20, kind=ExitKind.out_of_memory, held=Held(4.0, 4 * GIB), peak=4 * GIB)
    late = ran(21, kind=ExitKind.over_time, wall_s=60)
    advice = right_size("fit", [*(ran(i) for i in range(9)), starved, late, ran(30, kind=ExitKind.failed)])
    assert (advice.memory_bytes, advice.time_limit_s) == (6 * GIB, 120.0)
    counts = (advice.run_count, advice.out_of_memory_count, advice.over_time_count, advice.left_out_count)
    assert counts == (9, 1, 1, 1)


def test_where_all_cores_were_busy_fewer_are_not_proposed() -> None:
    advice = right_size("fit", [ran(i, cores=3.8) for i in range(9)])
    assert advice.cpu == 4
    assert "only a try can tell" in " ".join(advice.sentences)
    over = right_size("fit", [ran(i, cores=3.8, held=Held(2.0)) for i in range(9)])
    assert over.cpu == 4


def test_what_was_not_measured_is_unknown() -> None:
    advice = right_size("fit", [ran(i, cores=None, peak=None) for i in range(9)])
    assert (advice.cpu, advice.memory_bytes) == (None, None)
    assert "Peak memory is unknown." in advice.sentences
    short = right_size("fit", [ran(i, wall_s=0.001) for i in range(9)])
    assert short.cores_busy is None


def test_what_ran_within_another_job_is_no_evidence() -> None:
    assert right_size("fit", [ran(i, held=Held(0.0)) for i in range(9)]).run_count == 0


def of_flow(step: str, run: str, at: int, *, kind: ExitKind = ExitKind.ok, cores: float = 1.0) -> Job:
    job = ran(at, kind=kind, cores=cores)
    return replace(job, report=replace(job.report, name=step, flow_run=run, key=f"{run}/{step}@{at}"))


def test_all_steps_of_a_flow_are_sized_at_once_from_its_own_runs() -> None:
    runs = [f"r{index}" for index in range(6)]
    jobs = [of_flow("fit", run, at) for at, run in enumerate(runs)]
    jobs += [of_flow("clean", run, 10 * at + n) for at, run in enumerate(runs) for n in range(3)]
    jobs += [of_flow("rare", "r0", 99), of_flow("fit", "of another flow", 98, cores=4.0)]
    jobs.append(of_flow("clean", "r1", 97, kind=ExitKind.out_of_memory))
    advice = right_size_flow("nightly", runs, jobs, lambda job: UNIT)
    sizes = {each.name: each for each in advice.steps}
    assert sorted(sizes) == ["clean", "fit", "rare"]
    assert (sizes["fit"].run_count, sizes["fit"].cpu) == (6, 1.0)
    assert sizes["rare"].cpu is None
    fit, clean = (sizes[name].saving_nanousd_per_run for name in ("fit", "clean"))
    assert fit is not None
    assert clean is not None
    assert advice.saving_nanousd_per_run == fit + 3 * clean
    assert advice.sentences[:3] == (
        "Of 6 runs: 2 of 3 steps ran often enough to propose a size.",
        "Too few runs: rare.",
        "Ended for memory: clean.",
    )
    assert "A run of the flow would cost" in advice.sentences[3]


def test_a_flow_whose_steps_left_no_record_is_told_so() -> None:
    advice = right_size_flow("nightly", ["r0"], [], lambda job: UNIT)
    assert (advice.steps, advice.saving_nanousd_per_run) == ((), None)
    assert advice.sentences == ("No step of its 1 run is on record.",)
    unknown = right_size_flow("nightly", ["r0"], [of_flow("fit", "r0", 1)], lambda job: None)
    assert unknown.sentences[-1] == "What it would save is unknown."


jobs = st.lists(
    st.builds(
        ran,
        st.integers(0, 99),
        wall_s=st.floats(0, 1e6),
        cores=st.none() | st.floats(0, 64),
        peak=st.none() | st.integers(0, 1 << 42),
        kind=st.sampled_from([*[ExitKind.ok] * 12, *ExitKind]),
        held=st.builds(Held, st.sampled_from([0.5, 1.0, 4.0, 0.0]), st.sampled_from([0, GIB, 8 * GIB])),
    ),
    min_size=4,
    max_size=12,
)


@given(jobs)
def test_no_run_that_ended_well_would_have_lacked_anything(seen: list[Job]) -> None:
    advice = right_size("fit", seen, unit=UNIT)
    good = [job for job in seen if job.report.exit.kind is ExitKind.ok and job.report.held.cpu > 0]
    assert advice.run_count == len(good)
    for job in good:
        usage = job.report.usage
        assert advice.memory_bytes is None or advice.memory_bytes >= (usage.memory_peak_bytes or 0)
        assert advice.time_limit_s is None or advice.time_limit_s > usage.wall_s
    assert all(sentence.endswith(".") for sentence in advice.sentences)


@given(jobs, st.randoms(use_true_random=False))
def test_the_order_of_the_runs_changes_nothing(seen: list[Job], chance) -> None:  # type: ignore[no-untyped-def]
    seen = list({job.report.key: job for job in seen}.values())
    mixed = list(seen)
    chance.shuffle(mixed)
    assert right_size("fit", mixed, unit=UNIT) == right_size("fit", seen, unit=UNIT)


@pytest.mark.parametrize("more", [1 << 30, 1 << 34])
def test_a_run_that_took_more_never_lowers_the_proposal(more: int) -> None:
    few = [ran(i) for i in range(9)]
    before, after = right_size("fit", few), right_size("fit", [*few, ran(50, peak=more)])
    assert (after.memory_bytes or 0) >= (before.memory_bytes or 0)
