"""The figures of the flights example, against slow and obvious ones."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest
from examples.flights import labels, scores
from examples.flights.report.graph import direct, layers
from hypothesis import given
from hypothesis import strategies as st

pytestmark = [pytest.mark.slow, pytest.mark.property]

cases = st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.4, 0.5, 0.9, 1.0]), st.booleans()), min_size=1)


@pytest.mark.slow
@given(cases)
def test_auc_is_the_share_of_pairs_in_the_right_order(pairs: list[tuple[float, bool]]) -> None:
    said, late = np.array([p for p, _ in pairs]), np.array([y for _, y in pairs])
    wins = [
        1.0 if a > b else 0.5 if a == b else 0.0
        for a in said[late]
        for b in said[~late]
    ]  # fmt: skip
    found = scores.auc(said, late)
    assert np.isnan(found) if not wins else found == pytest.approx(np.mean(wins))


@pytest.mark.slow
@given(cases, st.integers(1, 15))
def test_calibration_loses_no_row(pairs: list[tuple[float, bool]], bins: int) -> None:
    said, late = np.array([p for p, _ in pairs]), np.array([float(y) for _, y in pairs])
    found = scores.calibration(said, late, bins=bins)
    assert sum(one["rows"] for one in found) == len(pairs)
    assert sum(one["observed"] * one["rows"] for one in found) == pytest.approx(late.sum())
    given_ = [one["predicted"] for one in found]
    assert given_ == sorted(given_)


def test_a_better_answer_has_a_lower_loss() -> None:
    late = np.array([1, 0, 1, 0])
    better, worse = np.array([0.9, 0.1, 0.8, 0.2]), np.array([0.6, 0.4, 0.6, 0.4])
    difference, error = scores.paired(worse, better, late)
    assert difference < 0
    assert error > 0
    assert scores.score(better, late)["log_loss"] < scores.score(worse, late)["log_loss"]


def test_days_never_overlap() -> None:
    days = labels.Days.before(date(2013, 12, 2))
    assert days.learn.before == days.validate.since
    assert days.validate.before == days.test.since
    assert days.test.before == days.live == days.all_past.before


@st.composite
def graphs(draw: st.DrawFn) -> list[list[int]]:
    """What each call waited for: only calls before it."""
    return [sorted(draw(st.sets(st.integers(0, n - 1)))) if n else [] for n in range(draw(st.integers(1, 8)))]


@pytest.mark.slow
@given(graphs())
def test_arrows_that_are_left_out_are_still_paths(edges: list[list[int]]) -> None:
    after = {str(n): [str(one) for one in before] for n, before in enumerate(edges)}
    drawn = direct(after)

    def above(arrows: dict[str, list[str]], key: str) -> set[str]:
        return set(arrows[key]).union(*(above(arrows, one) for one in arrows[key]))

    for key in after:
        assert above(drawn, key) == above(after, key)
    rows = layers(after)
    assert sorted(key for row in rows for key in row) == sorted(after)
