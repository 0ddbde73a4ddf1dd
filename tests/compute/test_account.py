"""Utilisation, cost and the sentence: pure, exact where money is concerned."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourfold.core.compute import (
    Bound,
    Figure,
    FigureName,
    Gpu,
    Held,
    Job,
    JobReport,
    Measurement,
    Unit,
    usd_text,
)
from fourfold.core.decide.account import ROUNDING, account, cost_nanousd, totals, unit_share
from fourfold.core.decide.match import match, refusal, shortfalls
from fourfold.core.ports.engine import Exit, ExitKind, Offer, Resources, Usage
from fourfold.core.quantities import Range
from fourfold.core.times import Instant

pytestmark = pytest.mark.property

UNIT = Unit("local", cores=4, memory_bytes=16 << 30)
SECONDS = st.floats(0, 1e6, allow_nan=False)
SHARES = st.floats(0, 1)


def job(wall_s: float, price: float, cpu_s: float | None = 1.0) -> Job:
    usage = Usage(wall_s, cpu_s)
    report = JobReport("k", "k", "local", Instant(0), Instant(1), Exit(ExitKind.ok), usage)
    return Job(report, account(usage, held=Held(), unit=UNIT, price_usd_per_hour=price))


@given(SECONDS, SHARES, st.floats(0, 100))
def test_cost_is_whole_and_never_negative_and_grows_with_each_factor(
    wall_s: float, share: float, price: float
) -> None:
    cost = cost_nanousd(wall_s, share=share, price_usd_per_hour=price)
    assert isinstance(cost, int)
    assert 0 <= cost <= cost_nanousd(wall_s * 2 + 1, share=share, price_usd_per_hour=price)
    assert cost <= cost_nanousd(wall_s, share=1, price_usd_per_hour=price)


def test_the_cost_of_many_short_steps_is_not_rounded_away() -> None:
    many = totals(job(0.001, 0.10) for _ in range(10_000))
    once = job(10.0, 0.10)
    assert many.cost_nanousd == pytest.approx(once.account.cost_nanousd, rel=0.01)


@given(st.lists(st.tuples(st.floats(0.001, 100), st.floats(0, 10)), max_size=20))
def test_totals_add_money_exactly(pairs: list[tuple[float, float]]) -> None:
    jobs = [job(wall_s, price) for wall_s, price in pairs]
    together = totals(jobs)
    assert together.cost_nanousd == sum(each.account.cost_nanousd for each in jobs)
    assert together.job_count == len(jobs)
    assert (together.utilisation is None) is (not jobs)


@given(st.floats(0, 64), st.integers(0, 1 << 40), st.floats(0, 8))
def test_the_share_is_the_largest_held_and_at_most_all(cpu: float, memory: int, gpu: float) -> None:
    unit = Unit("gpu", cores=8, memory_bytes=32 << 30, gpus=(Gpu("x", 1), Gpu("x", 1)))
    share = unit_share(Held(cpu, memory, gpu), unit)
    assert 0 <= share <= 1
    assert share >= min(1.0, cpu / 8)
    assert share >= min(1.0, gpu / 2)


@pytest.mark.parametrize(
    ("usage", "held", "bound", "words"),
    [
        (Usage(10, 9.9), Held(1), Bound.cpu, "The processor bounds it: 9.9e-01 of 1 core busy"),
        (Usage(10, 20), Held(1), Bound.cpu, "kept 2.00 cores busy but held 1 core. Ask for 2 cores."),
        (Usage(10, 11), Held(1), Bound.cpu, "It kept 1.10 cores busy but held 1 core."),
        (Usage(10, 20, memory_peak_bytes=95), Held(1, 100), Bound.cpu, "kept 2.00 cores busy but held 1"),
        (Usage(10, 9), Held(4), Bound.one_core, "Ask for 1 core"),
        (Usage(10, 0.5, read_bytes=10 << 30), Held(1), Bound.waiting, "it moved 1.0 GiB/s"),
        (Usage(10, 5, memory_peak_bytes=95), Held(1, 100), Bound.waiting, "Memory is tight: 95 B of 100 B"),
        (Usage(10, 1, disk_wait_s=7), Held(1), Bound.disk, "it stood waiting for it 70% of the time"),
        (
            Usage(10, 1, disk_wait_s=1),
            Held(1),
            Bound.waiting,
            "not for the disk: 0.1 of 1 core busy, 10%",
        ),
        (Usage(10, 9, disk_wait_s=0.9), Held(1), Bound.cpu, "The processor bounds it"),
        (Usage(0.001, 0.001), Held(1), Bound.overhead, "Too short to tell: 1 ms."),
        (Usage(10, None), Held(1), Bound.unknown, "not measured"),
        (Usage(10, 9), Held(0), Bound.unknown, "within another job"),
    ],
)
def test_the_sentence_says_what_bounds_it(usage: Usage, held: Held, bound: Bound, words: str) -> None:
    found = account(usage, held=held, unit=UNIT)
    assert found.bound is bound
    assert words.replace("9.9e-01", "0.99") in found.sentence


def test_arithmetic_is_judged_against_the_measured_peak() -> None:
    peak = Figure(FigureName.fp32_all, 200.0, "GFLOP/s", 190, 210, 5)
    measured = Measurement("b", "local", "f", Instant(0), 1.0, False, (peak,), {}, 0.0)
    usage = Usage(10, 20, flops=0.5e12)
    found = account(usage, held=Held(cpu=2), unit=UNIT, measurement=measured)
    assert found.flops_utilisation == pytest.approx(0.5)  # 50 of the 100 GFLOP/s that two of four cores give
    assert "reached 50% of the measured peak" in found.sentence
    unknown = account(usage, held=Held(cpu=2), unit=UNIT)
    assert unknown.flops_utilisation is None
    assert "the unit's peak is unknown: fourfold unit bench" in unknown.sentence
    uncounted = account(Usage(10, 20), held=Held(cpu=2), unit=UNIT, measurement=measured)
    assert uncounted.flops_utilisation is None
    assert "peak" not in uncounted.sentence


NOTHING = st.just(0.0)


@given(
    NOTHING | st.floats(1e-6, 1e6),
    st.floats(0, 1e7),
    NOTHING | st.floats(0.01, 8),
    st.floats(0, 1e15),
    st.sampled_from([0.0, 1.5]),
)
def test_no_utilisation_above_one_is_passed_over_in_silence(
    wall_s: float, cpu_s: float, cpu: float, flops: float, others_busy: float
) -> None:
    peak = Figure(FigureName.fp32_all, 200.0, "GFLOP/s", 190, 210, 5)
    measured = Measurement("b", "local", "f", Instant(0), 1.0, False, (peak,), {}, others_busy)
    found = account(Usage(wall_s, cpu_s, flops=flops), held=Held(cpu), unit=UNIT, measurement=measured)
    if found.utilisation is not None and found.utilisation > ROUNDING:
        assert "busy but held" in found.sentence or "Too short to tell" in found.sentence
    if found.flops_utilisation is not None and found.flops_utilisation > 1:
        words = "others kept the unit busy" if others_busy else "the measurement is wrong"
        assert words in found.sentence


def test_money_is_shown_with_the_digits_it_has() -> None:
    assert usd_text(12_340_000_000) == "$12.34"
    assert usd_text(3_000_000) == "$0.0030"
    assert usd_text(-41_700) == "$-0.000042"


SMALL = Offer("small", cpu=2, memory_bytes=8 << 30, price_usd_per_hour=0.1)
LARGE = Offer("large", cpu=64, memory_bytes=256 << 30, price_usd_per_hour=3.0)
GPU = Offer("gpu", cpu=8, memory_bytes=64 << 30, gpu=2, gpu_name="NVIDIA A100", price_usd_per_hour=5.0)


def test_the_cheapest_that_meets_a_request_comes_first() -> None:
    assert match(Resources(), [LARGE, GPU, SMALL]) == (SMALL, LARGE, GPU)
    assert match(Resources(cpu=Range(4)), [LARGE, GPU, SMALL]) == (LARGE, GPU)
    assert match(Resources(gpu=Range(1), gpu_name="a100"), [LARGE, GPU, SMALL]) == (GPU,)
    assert match(Resources(gpu=Range(1), gpu_name="h100"), [LARGE, GPU, SMALL]) == ()
    assert match(Resources(max_price_usd_per_hour=1), [LARGE, GPU, SMALL]) == (SMALL,)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Resources(gpu=Range(4)), "asks for 4 GPUs, but no unit can ever give more than 2"),
        (Resources(memory_bytes=Range(1 << 40)), "asks for 1.0 TiB memory, but no unit can ever give more"),
        (Resources(cpu=Range(65)), "nearest unit: large (64 cores, 256.0 GiB)"),
        (Resources(cpu=Range(64), max_price_usd_per_hour=1), "price of at most $1 per hour"),
        (Resources(gpu=Range(1), gpu_name="H100"), "a GPU named 'H100'"),
    ],
)
def test_a_refusal_names_what_is_asked_and_the_nearest_unit(request_: Resources, words: str) -> None:
    assert words in str(refusal(request_, [SMALL, LARGE, GPU], who="step 'fit'"))


def test_a_refusal_lists_the_other_units_too() -> None:
    said = str(refusal(Resources(cpu=Range(65)), [SMALL, LARGE, GPU], who="step 'fit'"))
    assert "other units: gpu (8 cores, 64.0 GiB, 2 GPUs), small (2 cores, 8.0 GiB)" in said
    many = [Offer(f"u{i}", cpu=1, memory_bytes=1 << 30) for i in range(9)]
    assert "and 4 more" in str(refusal(Resources(cpu=Range(2)), many, who="step 'fit'"))


def test_without_any_unit_the_refusal_says_so() -> None:
    assert "there is no unit at all" in str(refusal(Resources(), [], who="step 'fit'"))


@given(st.floats(0, 100), st.integers(0, 1 << 39), st.integers(0, 4))
def test_what_is_matched_lacks_nothing_and_what_is_not_lacks_something(
    cpu: float, memory: int, gpu: int
) -> None:
    request = Resources(cpu=Range(cpu), memory_bytes=Range(memory), gpu=Range(gpu))
    matched = match(request, [SMALL, LARGE, GPU])
    for offer in (SMALL, LARGE, GPU):
        assert (offer in matched) is (shortfalls(request, offer) == ())


def test_a_job_that_stood_in_line_for_a_processor_is_bound_by_it_and_not_by_waiting() -> None:
    unit = Unit("local", cores=4, memory_bytes=16 << 30)
    in_line = account(Usage(10.0, 2.5, cpu_wait_s=7.0), held=Held(1.0), unit=unit)
    assert in_line.bound is Bound.cpu
    assert in_line.sentence == (
        "The processor bounds it, and others kept it busy: 0.25 of 1 core busy, and ready for one 70% of the "
        "time. It would be faster alone."
    )
    assert account(Usage(10.0, 2.5, cpu_wait_s=0.5), held=Held(1.0), unit=unit).bound is Bound.waiting
    assert account(Usage(10.0, 9.5, cpu_wait_s=0.4), held=Held(1.0), unit=unit).bound is Bound.cpu
