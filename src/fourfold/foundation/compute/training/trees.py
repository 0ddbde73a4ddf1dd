"""Gradient-boosted trees on a table: 20 columns in 64 bins, two classes, quality is the AUC."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

ROWS, TEST_ROWS, COLUMNS, BINS = 80_000, 10_000, 20, 64
DEPTH, RATE, PENALTY = 5, 0.1, 1.0
ROW_SHARE, COLUMNS_PER_TREE = 0.5, 12
MOST_TREES = 400

Bits = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Data:
    """Columns first: each is read alone."""

    train: Bits
    train_is_positive: npt.NDArray[np.bool_]
    test: Bits
    test_is_positive: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Tree:
    """A complete tree: the split of each inner node, level by level, and the value of each leaf."""

    columns: Ints
    bins: Ints
    values: Floats


def make_data(generator: np.random.Generator) -> Data:
    """Steps, products and a few waves of some columns, with noise; most columns say nothing."""
    x = generator.random((COLUMNS, ROWS + TEST_ROWS))
    score = (
        3.0 * (x[0] > 0.6) * (x[1] > 0.3)
        + 4.0 * (x[2] - 0.5) * (x[3] - 0.5) * 2
        + 1.5 * np.sin(9.0 * x[4])
        + 2.0 * np.abs(x[5] - 0.5)
        - 1.5 * (x[6] > 0.8)
        + x[7] * x[8] * 2.0
    )
    noisy = score + generator.logistic(0.0, 0.35, score.shape)
    is_positive = noisy > np.median(score)
    binned = (x * BINS).astype(np.uint8)
    return Data(
        np.ascontiguousarray(binned[:, :ROWS]),
        is_positive[:ROWS],
        np.ascontiguousarray(binned[:, ROWS:]),
        is_positive[ROWS:],
    )


def train(data: Data, generator: np.random.Generator) -> Iterator[float]:
    """The AUC on held-out rows after each tree."""
    scores, test_scores = np.zeros(ROWS), np.zeros(TEST_ROWS)
    for _ in range(MOST_TREES):
        chance = 1.0 / (1.0 + np.exp(-scores))
        gradient, hessian = chance - data.train_is_positive, chance * (1.0 - chance)
        rows = np.flatnonzero(generator.random(ROWS) < ROW_SHARE)
        columns = np.sort(generator.choice(COLUMNS, COLUMNS_PER_TREE, replace=False))
        tree = _grow(data.train[:, rows], gradient[rows], hessian[rows], columns)
        scores += tree.values[_leaves(tree, data.train)]
        test_scores += tree.values[_leaves(tree, data.test)]
        yield auc(test_scores, data.test_is_positive)


def auc(scores: Floats, is_positive: npt.NDArray[np.bool_]) -> float:
    """The chance that a positive row scores above a negative one; equal scores count half.

    >>> auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]))
    0.75
    """
    _, group, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[group]
    positives = int(is_positive.sum())
    above = float(ranks[is_positive].sum()) - positives * (positives + 1) / 2
    return above / (positives * (len(scores) - positives))


def _grow(binned: Bits, gradient: Floats, hessian: Floats, columns: Ints) -> Tree:
    """One tree by histograms: each level's best split of each node, by gain."""
    split_columns, split_bins = np.zeros(2**DEPTH - 1, np.int64), np.full(2**DEPTH - 1, BINS)
    node = np.zeros(len(gradient), np.int64)
    for level in range(DEPTH):
        width = 2**level
        best = np.full(width, 1e-9)
        at = slice(width - 1, 2 * width - 1)
        for column in columns:
            cell = node * BINS + binned[column]
            g = _sums(cell, gradient, width)
            h = _sums(cell, hessian, width)
            gain = _gains(g, h)
            bins = np.argmax(gain, axis=1)
            gains = gain[np.arange(width), bins]
            better = gains > best
            best = np.where(better, gains, best)
            split_columns[at] = np.where(better, column, split_columns[at])
            split_bins[at] = np.where(better, bins, split_bins[at])
        node = _below(node, width, split_columns, split_bins, binned)
    totals = np.bincount(node, gradient, 2**DEPTH), np.bincount(node, hessian, 2**DEPTH)
    return Tree(split_columns, split_bins, -RATE * totals[0] / (totals[1] + PENALTY))


def _sums(cell: Ints, weights: Floats, width: int) -> Floats:
    """The running sum over bins of each node."""
    sums: Floats = np.bincount(cell, weights, width * BINS).reshape(width, BINS).cumsum(axis=1)
    return sums


def _gains(g: Floats, h: Floats) -> Floats:
    """What each split (rows of this bin or a lower one go left) gains."""
    all_g, all_h = g[:, -1:], h[:, -1:]
    gains: Floats = (
        g**2 / (h + PENALTY) + (all_g - g) ** 2 / (all_h - h + PENALTY) - all_g**2 / (all_h + PENALTY)
    )
    return gains


def _below(node: Ints, width: int, columns: Ints, bins: Ints, binned: Bits) -> Ints:
    at = node + width - 1
    goes_right: Any = binned[columns[at], np.arange(len(node))] > bins[at]
    below: Ints = node * 2 + goes_right
    return below


def _leaves(tree: Tree, binned: Bits) -> Ints:
    node = np.zeros(binned.shape[1], np.int64)
    for level in range(DEPTH):
        node = _below(node, 2**level, tree.columns, tree.bins, binned)
    return node
