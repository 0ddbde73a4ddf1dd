"""Batches clock themselves, keep their bounds and their order, and lose nobody."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourfold.core.decide.batch import Estimate, Request, admit, next_batch

pytestmark = pytest.mark.property

requests = st.lists(
    st.builds(Request, rows=st.integers(1, 40), deadline_s=st.floats(0, 20, allow_nan=False)), max_size=40
)
estimates = st.lists(st.tuples(st.integers(1, 100), st.floats(0, 5)), max_size=60).map(
    lambda samples: _learned(samples)
)


def _learned(samples: list[tuple[int, float]]) -> Estimate:
    estimate = Estimate()
    for rows, seconds in samples:
        estimate = estimate.learn(rows, seconds)
    return estimate


@given(requests, estimates, st.floats(0, 10), st.integers(1, 64))
def test_a_batch_is_a_prefix_within_its_bounds(
    queue: list[Request], estimate: Estimate, now_s: float, rows_max: int
) -> None:
    batch = next_batch(queue, estimate, now_s, rows_max=rows_max)
    decided = sorted(batch.take + batch.shed)
    assert decided == list(range(batch.seen))  # nobody is jumped over, nobody is decided twice
    rows = sum(queue[position].rows for position in batch.take)
    assert rows <= rows_max or len(batch.take) == 1
    assert batch.seen > 0 or not queue  # a queue always moves


@given(requests, estimates, st.floats(0, 10), st.integers(1, 64))
def test_only_who_cannot_be_answered_in_time_is_given_up(
    queue: list[Request], estimate: Estimate, now_s: float, rows_max: int
) -> None:
    batch = next_batch(queue, estimate, now_s, rows_max=rows_max)
    for position in batch.shed:
        assert now_s + estimate.seconds(queue[position].rows) > queue[position].deadline_s
    ends_s = now_s + estimate.seconds(sum(queue[position].rows for position in batch.take))
    for position in batch.take:
        assert ends_s <= queue[position].deadline_s


@given(requests, estimates, st.integers(1, 64))
def test_a_queue_drains_whatever_it_holds(queue: list[Request], estimate: Estimate, rows_max: int) -> None:
    left, answered, given_up = list(queue), 0, 0
    while left:
        batch = next_batch(left, estimate, 0.0, rows_max=rows_max)
        answered += len(batch.take)
        given_up += len(batch.shed)
        left = left[batch.seen :]
    assert answered + given_up == len(queue)


@given(st.lists(st.tuples(st.integers(1, 1000), st.floats(0, 10)), min_size=1, max_size=80))
def test_an_estimate_is_never_negative_and_forgets(samples: list[tuple[int, float]]) -> None:
    estimate = _learned(samples)
    assert estimate.row_s >= 0
    assert estimate.base_s >= -1e-9
    assert len(estimate.samples) <= 50


@given(
    st.floats(0, 0.1), st.floats(0, 1), st.lists(st.integers(1, 500), min_size=2, max_size=50, unique=True)
)
def test_an_estimate_finds_a_line(row_s: float, base_s: float, sizes: list[int]) -> None:
    estimate = _learned([(n, row_s * n + base_s) for n in sizes])
    for n in sizes:
        assert abs(estimate.seconds(n) - (row_s * n + base_s)) < 1e-6


@given(st.integers(0, 5000), st.integers(1, 500), st.integers(1, 2000), st.integers(1, 64), estimates)
def test_a_full_queue_refuses_with_a_time_to_come_back(
    queue_rows: int, rows: int, queue_rows_max: int, batch_rows_max: int, estimate: Estimate
) -> None:
    answer = admit(
        queue_rows=queue_rows,
        rows=rows,
        queue_rows_max=queue_rows_max,
        batch_rows_max=batch_rows_max,
        estimate=estimate,
    )
    assert answer.is_admitted == (queue_rows == 0 or queue_rows + rows <= queue_rows_max)
    assert answer.is_admitted or (answer.retry_after_s > 0 and answer.reason)
