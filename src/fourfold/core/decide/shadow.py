"""A shadow beside the live version: the same requests, two answers, compared in pairs.

Pairs remove what differs between requests, so few are needed to see that two versions disagree. Which is
better needs labels: then both are measured on the same labelled pairs. Whether to promote stays with the
flow, in words of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

EDGE = 1e-15
"""Probabilities are kept this far from 0 and 1 in the logarithm, as the usual libraries do."""


@dataclass(frozen=True, slots=True)
class Differences:
    """Shadow minus live, over pairs."""

    count: int
    mean: float | None = None
    abs_mean: float | None = None
    abs_max: float | None = None


def differences(live: Sequence[float], shadow: Sequence[float]) -> Differences:
    """The paired differences; pairs in which either answer is not a finite number do not count.

    >>> differences([0.25, 0.5], [0.5, 0.25])
    Differences(count=2, mean=0.0, abs_mean=0.25, abs_max=0.25)
    """
    found = [s - v for v, s in zip(live, shadow, strict=True) if math.isfinite(v) and math.isfinite(s)]
    if not found:
        return Differences(0)
    sizes = [abs(each) for each in found]
    return Differences(len(found), math.fsum(found) / len(found), math.fsum(sizes) / len(sizes), max(sizes))


def metrics(answers: Sequence[float], labels: Sequence[float], *, is_binary: bool) -> dict[str, float]:
    """How good answers were. Binary labels take answers as probabilities; a metric without meaning is absent.

    >>> metrics([0.0, 3.0], [1.0, 3.0], is_binary=False)
    {'mae': 0.5, 'rmse': 0.7071067811865476}
    """
    pairs = [(a, y) for a, y in zip(answers, labels, strict=True) if math.isfinite(a) and math.isfinite(y)]
    if not pairs:
        return {}
    count = len(pairs)
    if not is_binary:
        return {
            "mae": math.fsum(abs(a - y) for a, y in pairs) / count,
            "rmse": math.sqrt(math.fsum((a - y) ** 2 for a, y in pairs) / count),
        }
    found = {"accuracy": sum((a >= 0.5) == (y > 0.5) for a, y in pairs) / count}
    if all(0.0 <= a <= 1.0 for a, _ in pairs):
        found["brier"] = math.fsum((a - y) ** 2 for a, y in pairs) / count
        found["log_loss"] = (
            -math.fsum(math.log(min(max(a if y > 0.5 else 1.0 - a, EDGE), 1.0 - EDGE)) for a, y in pairs)
            / count
        )
    area = auc(pairs)
    if area is not None:
        found["auc"] = area
    return dict(sorted(found.items()))


def auc(pairs: Sequence[tuple[float, float]]) -> float | None:
    """The chance that a positive is ranked above a negative, ties counting half; `None` without both.

    >>> auc([(0.1, 0.0), (0.4, 0.0), (0.35, 1.0), (0.8, 1.0)])
    0.75
    """
    ordered = sorted(pairs)
    positive_count = sum(y > 0.5 for _, y in ordered)
    negative_count = len(ordered) - positive_count
    if not positive_count or not negative_count:
        return None
    rank_sum = 0.0
    start = 0
    while start < len(ordered):
        end = start
        while end < len(ordered) and ordered[end][0] == ordered[start][0]:
            end += 1
        middle = (start + 1 + end) / 2  # the mean of the ranks start+1 … end
        rank_sum += middle * sum(y > 0.5 for _, y in ordered[start:end])
        start = end
    return (rank_sum - positive_count * (positive_count + 1) / 2) / (positive_count * negative_count)
