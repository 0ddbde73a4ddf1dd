"""What a table's columns hold, in figures: exact where counting is enough, with a stated bound elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

from fourfold.core.storage import Scalar
from fourfold.core.wire import Number

QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
"""The shares of rows at which `ColumnStatistics.quantiles` gives values."""


@dataclass(frozen=True, slots=True)
class Distinct:
    """How many different values there are: likely, and the range it is in, in 19 cases of 20."""

    likely: int
    at_least: int
    at_most: int


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many finite values lie between each two edges; the last bucket holds its upper edge too."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Frequent:
    """A value that occurs often, and between which bounds its count is (equal bounds: counted exactly)."""

    value: str
    at_least: int
    at_most: int


@dataclass(frozen=True, slots=True)
class Lengths:
    """Characters of texts, bytes of binaries, elements of lists."""

    least: int
    most: int
    mean: float


@dataclass(frozen=True, slots=True)
class ColumnStatistics:
    """One column of a version. What does not apply to its type is `None` or empty.

    `nulls`, `nans`, `infinities`, `trues`, `least`, `greatest` and `lengths` are exact. Mean, deviation and
    quantiles are those of the finite values.
    """

    name: str
    type: str
    nulls: int
    nans: int = 0
    infinities: int = 0
    trues: int | None = None
    least: Scalar = None
    """The smallest value, NaN apart; times as ISO 8601, decimals as text, infinities as `Infinity`, of a
    text its first 256 characters."""
    greatest: Scalar = None
    mean: Number | None = None
    deviation: Number | None = None
    distinct: Distinct | None = None
    quantiles: tuple[Number, ...] = ()
    """Values at the shares `QUANTILES`; those of times in microseconds, days in days, since 1970."""
    histogram: Histogram | None = None
    frequent: tuple[Frequent, ...] = ()
    """The most frequent first."""
    lengths: Lengths | None = None


@dataclass(frozen=True, slots=True)
class TableStatistics:
    """A table at a version, column by column."""

    table: str
    version: int
    rows: int
    columns: tuple[ColumnStatistics, ...]
    rank_error: float
    """A quantile's true rank is off by at most this share of the rows, in 99 cases of 100."""
    digest: str
    """Names the exact figures: equal data have equal digests, however their statistics came to be."""

    def column(self, name: str) -> ColumnStatistics:
        """The statistics of one column."""
        return next(column for column in self.columns if column.name == name)
