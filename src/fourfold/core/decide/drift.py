"""What differs between two versions of a dataset, and how far columns moved, from their figures alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from fourfold.core.datasets import DatasetDiff, DatasetVersion, Drift, Member, MemberChange
from fourfold.core.statistics import QUANTILES, ColumnStatistics, TableStatistics
from fourfold.core.wire import number


def changes(before: DatasetVersion, after: DatasetVersion) -> tuple[MemberChange, ...]:
    """Members that are not the same in both, sorted by name."""
    old, new = ({member.name: member for member in each.members} for each in (before, after))
    found = []
    for name in sorted(old.keys() | new.keys()):
        was, now = old.get(name), new.get(name)
        if was != now:
            found.append(_change(name, was, now))
    return tuple(found)


def drift(member: str, before: TableStatistics, after: TableStatistics) -> tuple[Drift, ...]:
    """How far the columns that both versions have moved; those that did not are left out."""
    old = {column.name: column for column in before.columns}
    moved = [
        _drift(member, old[column.name], column, before.rows, after.rows)
        for column in after.columns
        if column.name in old
    ]
    return tuple(each for each in moved if each is not None)


def diff(
    before: DatasetVersion,
    after: DatasetVersion,
    figures: Mapping[str, tuple[TableStatistics, TableStatistics]],
) -> DatasetDiff:
    """All of it; `figures` are those of changed tables, by member."""
    moved = [each for name, (old, new) in sorted(figures.items()) for each in drift(name, old, new)]
    moved.sort(key=lambda each: (-_far(each), each.member, each.column))
    return DatasetDiff(after.name, before.version, after.version, changes(before, after), tuple(moved))


def distance(before: ColumnStatistics, after: ColumnStatistics) -> float | None:
    """The most by which the shares of rows below a value differ (Kolmogorov and Smirnov's distance), as
    far as quantiles tell; nothing where one of them has none."""
    old, new = ([number(value) for value in column.quantiles] for column in (before, after))
    if not old or not new:
        return None
    ends = sorted({*old, *new})
    return max(abs(_share_below(value, old) - _share_below(value, new)) for value in ends)


def _share_below(value: float, quantiles: Sequence[float]) -> float:
    """The share of rows at or below a value, on straight lines between quantiles."""
    if value < quantiles[0]:
        return 0.0
    if value >= quantiles[-1]:
        return 1.0
    upper = next(index for index, each in enumerate(quantiles) if each > value)
    low, high = quantiles[upper - 1], quantiles[upper]
    part = (value - low) / (high - low) if math.isfinite(high - low) else 0.0
    return QUANTILES[upper - 1] + part * (QUANTILES[upper] - QUANTILES[upper - 1])


def _drift(
    member: str, old: ColumnStatistics, new: ColumnStatistics, rows_before: int, rows_after: int
) -> Drift | None:
    found = Drift(
        member=member,
        column=new.name,
        nulls_before=old.nulls / rows_before if rows_before else 0.0,
        nulls_after=new.nulls / rows_after if rows_after else 0.0,
        distance=distance(old, new),
        distinct_before=None if old.distinct is None else old.distinct.likely,
        distinct_after=None if new.distinct is None else new.distinct.likely,
    )
    return found if _far(found) or found.distinct_before != found.distinct_after else None


def _far(each: Drift) -> float:
    return max(each.distance or 0.0, abs(each.nulls_after - each.nulls_before))


def _change(name: str, was: Member | None, now: Member | None) -> MemberChange:
    if was is None or now is None:
        return MemberChange(name, was, now)
    return MemberChange(
        name,
        was,
        now,
        columns_added=tuple(column for column in now.columns if column not in was.columns),
        columns_removed=tuple(column for column in was.columns if column not in now.columns),
    )
