"""A comparison in pairs, against the slow and obvious."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourfold.core.decide.shadow import auc, differences, metrics

pytestmark = pytest.mark.property

scores = st.floats(0, 1).map(lambda x: round(x, 2))


@given(st.lists(st.tuples(scores, st.sampled_from([0.0, 1.0])), max_size=60))
def test_auc_is_the_share_of_pairs_in_the_right_order(pairs: list[tuple[float, float]]) -> None:
    positives = [a for a, y in pairs if y == 1.0]
    negatives = [a for a, y in pairs if y == 0.0]
    found = auc(pairs)
    if not positives or not negatives:
        assert found is None
        return
    wins = sum((p > n) + (p == n) / 2 for p in positives for n in negatives)
    assert found is not None
    assert math.isclose(found, wins / (len(positives) * len(negatives)))


def test_answers_that_are_not_numbers_do_not_count() -> None:
    found = differences([0.5, math.nan, math.inf], [0.75, 0.5, 0.5])
    assert (found.count, found.mean) == (1, 0.25)
    assert differences([], []).mean is None


def test_probabilities_are_measured_as_such() -> None:
    found = metrics([0.9, 0.2, 1.0], [1.0, 0.0, 1.0], is_binary=True)
    assert found["accuracy"] == 1.0
    assert found["auc"] == 1.0
    assert math.isclose(found["brier"], (0.01 + 0.04) / 3)
    assert math.isclose(found["log_loss"], -(math.log(0.9) + math.log(0.8)) / 3, rel_tol=1e-9)
    assert "brier" not in metrics([3.0], [1.0], is_binary=True)  # not a probability
