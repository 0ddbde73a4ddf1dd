"""A column's figures in words and bars, as lines and pages show them."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from fourfold.cli.output import percent

if TYPE_CHECKING:
    from fourfold.core.statistics import ColumnStatistics, Distinct, Histogram, TableStatistics

BARS = "▁▂▃▄▅▆▇█"


def nulls(column: ColumnStatistics, table: TableStatistics) -> str:
    """The share of nulls, NaN beside them; never rounded to none or to all."""
    if not column.nulls and not column.nans:
        return ""
    told = _share(column.nulls, table.rows)
    return told + (f" +{_share(column.nans, table.rows)} NaN" if column.nans else "")


def distinct(found: Distinct | None) -> str:
    """The number of distinct values, with ~ where it is an estimate.

    >>> from fourfold.core.statistics import Distinct
    >>> distinct(Distinct(105, 105, 105)), distinct(Distinct(4012, 3960, 4066))
    ('105', '~4,012')
    """
    if found is None:
        return ""
    return f"{found.likely:,}" if found.at_least == found.at_most else f"~{found.likely:,}"


def ends(column: ColumnStatistics) -> tuple[str, str]:
    """The smallest and the greatest value, short."""
    if column.trues is not None:
        return "", ""
    return short(column.least), short(column.greatest)


def median(column: ColumnStatistics) -> str:
    """The value in the middle, in the column's own words."""
    from fourfold.core.statistics import QUANTILES

    return in_words(column, column.quantiles[QUANTILES.index(0.5)]) if column.quantiles else ""


def in_words(column: ColumnStatistics, value: float | str) -> str:
    """A number of a sketch in the column's own words: a time, a day, a whole number."""
    if isinstance(value, str):
        return value
    try:
        if column.type.startswith("date32"):
            return (date(1970, 1, 1) + timedelta(days=round(value))).isoformat()
        if column.type.startswith("timestamp"):
            at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=round(value))
            return at.strftime("%Y-%m-%d %H:%M:%S")
        if column.type.startswith("time"):
            return str(timedelta(microseconds=round(value)))
    except OverflowError:
        return f"{value:.6g}"
    return f"{value:.0f}" if column.type.startswith("int") and abs(value) < 1e15 else f"{value:.6g}"


def shape(column: ColumnStatistics, rows: int) -> str:
    """A histogram as bars, or the most frequent values with their shares."""
    if column.trues is not None:
        values = rows - column.nulls
        return f"true {_share(column.trues, values)}" if values else ""
    few = column.distinct is not None and column.distinct.likely <= 3
    if column.histogram is not None and not (few and column.frequent):
        return bars(column.histogram)
    most = [f"{short(f.value)} {_share(f.at_least, rows)}" for f in column.frequent[:3]]
    return ", ".join(most)


def bars(histogram: Histogram) -> str:
    """A histogram in one line; what is there shows, however little of it.

    >>> from fourfold.core.statistics import Histogram
    >>> bars(Histogram((0.0, 1.0, 2.0, 3.0), (80, 0, 1)))
    '█ ▁'
    """
    most = max(histogram.counts)
    top = len(BARS) - 1
    return "".join(" " if not n else BARS[round(top * n / most)] for n in histogram.counts)


def short(value: object) -> str:
    """A value in at most 24 characters."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value).removesuffix("T00:00:00.000000Z").replace(".000000Z", "Z").replace(".000000", "")
    return text if len(text) <= 24 else text[:23] + "…"


def _share(part: int, whole: int) -> str:
    if 0 < part < 0.005 * whole:
        return "<1%"
    if 0.995 * whole < part < whole:
        return ">99%"
    return percent(part / whole)
