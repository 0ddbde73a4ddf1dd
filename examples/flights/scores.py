"""How good probabilities are. Plain functions of two arrays: what was said, and what happened."""

from __future__ import annotations

from typing import TypedDict

import numpy as np


class Score(TypedDict):
    """The same five figures wherever a model is judged."""

    rows: int
    late_share: float
    auc: float
    log_loss: float
    brier: float


class Bin(TypedDict):
    """Flights that were given about the same probability."""

    predicted: float
    observed: float
    rows: int


class Hour(TypedDict):
    """Flights scheduled in one hour of the day."""

    hour: int
    rows: int
    predicted: float
    observed: float


EDGE = 1e-15


def named(found: Score, prefix: str) -> dict[str, float]:
    """The figures as metrics of a run."""
    return {
        f"{prefix}_auc": found["auc"],
        f"{prefix}_log_loss": found["log_loss"],
        f"{prefix}_brier": found["brier"],
        f"{prefix}_rows": found["rows"],
    }


def score(said: np.ndarray, late: np.ndarray) -> Score:
    """All figures at once."""
    happened = late.astype(np.float64)
    return Score(
        rows=len(said),
        late_share=float(happened.mean()),
        auc=auc(said, happened),
        log_loss=float(losses(said, happened).mean()),
        brier=float(((said - happened) ** 2).mean()),
    )


def losses(said: np.ndarray, late: np.ndarray) -> np.ndarray:
    """The logarithmic loss of each answer."""
    held = np.clip(said, EDGE, 1 - EDGE)
    found: np.ndarray = -np.where(late.astype(bool), np.log(held), np.log1p(-held))
    return found


def auc(said: np.ndarray, late: np.ndarray) -> float:
    """The chance that a late flight was given more than one on time; ties count half.

    >>> auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]))
    0.75
    """
    order, counts = np.unique(said, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2)[np.searchsorted(order, said)]
    positive = late.astype(bool)
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        return float("nan")
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def calibration(said: np.ndarray, late: np.ndarray, *, bins: int = 12) -> list[Bin]:
    """Answers in groups of equal size, from the least to the most likely: what was said, what happened."""
    order = np.argsort(said, kind="stable")
    groups = [group for group in np.array_split(order, bins) if len(group)]
    return [
        Bin(predicted=float(said[group].mean()), observed=float(late[group].mean()), rows=len(group))
        for group in groups
    ]


def by_hour(hours: np.ndarray, said: np.ndarray, late: np.ndarray) -> list[Hour]:
    """What was said and what happened in each hour of the day."""
    return [
        Hour(
            hour=int(hour),
            rows=int((hours == hour).sum()),
            predicted=float(said[hours == hour].mean()),
            observed=float(late[hours == hour].mean()),
        )
        for hour in np.unique(hours)
    ]


def paired(first: np.ndarray, second: np.ndarray, late: np.ndarray) -> tuple[float, float]:
    """The mean difference in loss, second minus first, over the same flights, and its standard error."""
    difference = losses(second, late) - losses(first, late)
    return float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(len(difference)))
