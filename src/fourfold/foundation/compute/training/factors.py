"""Matrix factorisation by alternating least squares: ratings of items by users, quality is the error.

The error is what the mean squared distance on held-out ratings is the root of; no model gets below the noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

USERS, ITEMS, RANK, NOISE = 5_000, 2_000, 32, 0.5
RATINGS_PER_USER, TEST_PER_USER = 120, 10
PENALTY = 3.0
MOST_HALVES = 60

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Data:
    """Ratings as (user, item, value); training ones sorted by user."""

    users: Ints
    items: Ints
    values: Floats
    test_users: Ints
    test_items: Ints
    test_values: Floats


def make_data(generator: np.random.Generator) -> Data:
    """Ratings that really have `RANK` factors, and noise."""
    of_users = generator.normal(0.0, RANK**-0.25, (USERS, RANK))
    of_items = generator.normal(0.0, RANK**-0.25, (ITEMS, RANK))
    count = RATINGS_PER_USER + TEST_PER_USER
    items = np.argsort(generator.random((USERS, ITEMS)), axis=1)[:, :count]
    users = np.repeat(np.arange(USERS)[:, None], count, axis=1)
    values = np.einsum("ukr,ur->uk", of_items[items], of_users) + generator.normal(0.0, NOISE, items.shape)
    seen, held = np.s_[:, :RATINGS_PER_USER], np.s_[:, RATINGS_PER_USER:]
    return Data(
        users[seen].ravel(), items[seen].ravel(), values[seen].ravel(),
        users[held].ravel(), items[held].ravel(), values[held].ravel(),
    )  # fmt: skip


def train(data: Data, generator: np.random.Generator) -> Iterator[float]:
    """The error on held-out ratings after each half sweep: users by items, then items by users."""
    of_items = generator.normal(0.0, 0.1, (ITEMS, RANK))
    by_item = np.argsort(data.items, kind="stable")
    user_ends = np.cumsum(np.bincount(data.users, minlength=USERS))
    item_ends = np.cumsum(np.bincount(data.items, minlength=ITEMS))
    of_users = np.zeros((USERS, RANK))
    for half in range(MOST_HALVES):
        if half % 2 == 0:
            of_users = _solved(of_items, data.items, data.values, user_ends)
        else:
            of_items = _solved(of_users, data.users[by_item], data.values[by_item], item_ends)
        guessed = np.einsum("kr,kr->k", of_users[data.test_users], of_items[data.test_items])
        yield float(np.sqrt(np.mean((guessed - data.test_values) ** 2)))


def _solved(others: Floats, which: Ints, values: Floats, ends: Ints) -> Floats:
    """For each row, whose ratings end at `ends`, the factors that fit them best given the others'."""
    left, right = np.empty((len(ends), RANK, RANK)), np.empty((len(ends), RANK))
    start = 0
    for row, end in enumerate(ends):
        factors = others[which[start:end]]
        np.matmul(factors.T, factors, out=left[row])
        np.matmul(factors.T, values[start:end], out=right[row])
        start = end
    left += PENALTY * np.eye(RANK)
    solved: Floats = np.linalg.solve(left, right[:, :, None])[:, :, 0].astype(np.float64, copy=False)
    return solved
