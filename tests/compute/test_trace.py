"""A job's use over time: bounded points, no peak lost, the mean exact."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourfold.cli.sparks import BARS, over_time, spark
from fourfold.core.decide.over_time import together
from fourfold.core.trace import MOST_POINTS, Trace

pytestmark = pytest.mark.property

LOOKS = st.lists(st.tuples(st.floats(0.001, 100), st.integers(0, 1 << 40)), min_size=1, max_size=500)


@given(LOOKS)
def test_a_trace_is_bounded_and_loses_neither_its_end_nor_its_peak(looks: list[tuple[float, int]]) -> None:
    trace, at_s = Trace(), 0.0
    for wait_s, memory in looks:
        at_s += wait_s
        trace.add(at_s, cpu_s=at_s / 2, memory_bytes=memory, read_bytes=memory, written_bytes=1)
    assert len(trace.points) <= MOST_POINTS
    assert max(point[2] for point in trace.points) == max(memory for _, memory in looks)
    assert trace.points[-1][:2] == (round(at_s * 1000), round(at_s / 2 * 1000))
    assert all(one[0] <= two[0] for one, two in pairwise(trace.points))


@given(LOOKS)
def test_the_mean_is_over_time_not_over_looks(looks: list[tuple[float, int]]) -> None:
    trace, at_s = Trace(), 0.0
    for wait_s, memory in looks:
        at_s += wait_s
        trace.add(at_s, cpu_s=0, memory_bytes=memory)
    exact = sum(wait_s * memory for wait_s, memory in looks) / at_s
    assert trace.memory_mean_bytes == pytest.approx(exact, rel=1e-6, abs=1)


@given(st.lists(st.floats(0, 1e12), max_size=80))
def test_a_spark_has_a_bar_for_each_value(values: list[float]) -> None:
    assert len(spark(values)) == len(values)
    assert set(spark(values)) <= set(BARS)


def test_what_is_shown_of_a_trace_are_rates_and_levels() -> None:
    shown = dict(over_time(((1000, 500, 1 << 20, 0, 0), (3000, 4500, 4 << 20, 3 << 20, 1 << 20))))
    assert shown["cores over time"] == "▃█ up to 2 over 3 s"
    assert shown["memory over time"] == "▃█ up to 4.0 MiB"
    assert shown["moved over time"] == "▁█ up to 2.0 MiB/s"


POINTS = st.lists(
    st.tuples(st.integers(1, 10_000), st.integers(0, 10_000), st.integers(0, 1 << 40)), max_size=20
).map(
    lambda steps: [
        (sum(step[0] for step in steps[: n + 1]), sum(step[1] for step in steps[: n + 1]), steps[n][2], 0, n)
        for n in range(len(steps))
    ]
)


@given(st.lists(st.tuples(st.integers(0, 50_000), POINTS), max_size=5), st.integers(1, 60))
def test_traces_together_lose_nothing_and_order_does_not_matter(
    traces: list[tuple[int, list[tuple[int, int, int, int, int]]]], count: int
) -> None:
    whole = together(traces, count)
    assert whole == together(list(reversed(traces)), count)
    begun = [(start, points) for start, points in traces if points]
    assert len(whole) == (count if begun else 0)
    if begun:
        assert whole[-1][1] == pytest.approx(sum(points[-1][1] for _, points in begun), abs=1)
        assert whole[-1][4] == pytest.approx(sum(points[-1][4] for _, points in begun), abs=1)
        assert max(point[2] for point in whole) >= max(point[2] for _, points in begun for point in points)
        assert all(one[1] <= two[1] for one, two in pairwise(whole))


def test_jobs_side_by_side_keep_more_cores_busy_than_one_after_the_other() -> None:
    job = [(1000, 1000, 4, 0, 0)]
    assert [point[1:3] for point in together([(0, job), (0, job)], 2)] == [(1000, 8), (2000, 8)]
    assert [point[1:3] for point in together([(0, job), (1000, job)], 2)] == [(1000, 4), (2000, 4)]
