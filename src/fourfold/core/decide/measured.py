"""What changed between two measurements of one unit, and what may have caused it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from fourfold.core.compute import Figure, FigureName, Measurement

TELLING = 0.10
"""A smaller change says nothing: quiet runs at different times lie this far apart."""

OF_THE_STORE = frozenset(name for name in FigureName if name.startswith("store_"))
OF_A_GPU = frozenset(name for name in FigureName if name.startswith("gpu_"))


@dataclass(frozen=True, slots=True)
class Change:
    """A figure that differs by more than its spread explains."""

    name: FigureName
    before: float
    now: float
    is_worse: bool

    @property
    def share(self) -> float:
        """(now − before) / before."""
        return (self.now - self.before) / self.before


def summed(name: FigureName, dimension: str, values: Sequence[float]) -> Figure:
    """One figure of several readings: the median, and the quarters around it.

    The quarters and not the ends: a single hiccup should not set the spread.

    >>> summed(FigureName.disk_read, "MB/s", [5.0, 1.0, 2.0, 3.0, 900.0])
    Figure(name=<FigureName.disk_read: 'disk_read'>, value=3.0, dimension='MB/s', low=1.5, high=452.5, repeat_count=5)
    """  # noqa: E501 - one line of output
    ordered = sorted(values)
    quarters = statistics.quantiles(ordered, n=4) if len(ordered) > 1 else [ordered[0]] * 3
    low, high = max(ordered[0], quarters[0]), min(ordered[-1], quarters[2])
    return Figure(name, statistics.median(ordered), dimension, low, high, len(ordered))


def earlier(newest: Measurement, others: Sequence[Measurement]) -> Measurement | None:
    """What a measurement is held against: the newest before it of its kind, undisturbed if any is."""
    before = [each for each in others if each.at < newest.at and each.is_quick == newest.is_quick]
    return max(before, key=lambda each: (each.is_confident, each.at, each.id), default=None)


def changes(newest: Measurement, before: Measurement) -> tuple[Change, ...]:
    """Figures of both that differ by more than a tenth, and whose quarters do not overlap.

    Figures of two different stores are not held against each other.
    """
    is_same_store = newest.versions.get("store") == before.versions.get("store")
    old = {
        figure.name: figure for figure in before.figures if is_same_store or figure.name not in OF_THE_STORE
    }
    return tuple(
        Change(now.name, old[now.name].value, now.value, _is_worse(now, old[now.name]))
        for now in newest.figures
        if now.name in old and _differs(now, old[now.name])
    )


def causes(newest: Measurement, before: Measurement) -> tuple[str, ...]:
    """What else was different, in words."""
    said = [
        f"{name} {before.versions.get(name, 'absent')} → {newest.versions.get(name, 'absent')}"
        for name in sorted({*newest.versions, *before.versions})
        if newest.versions.get(name) != before.versions.get(name)
    ]
    if not newest.is_confident or not before.is_confident:
        said.append(
            f"others kept {newest.other_cores_busy:.1f} cores busy, {before.other_cores_busy:.1f} before"
        )
    return tuple(said)


def _differs(now: Figure, old: Figure) -> bool:
    if old.value <= 0:
        return False
    overlaps = now.low <= old.high and old.low <= now.high
    return abs(now.value - old.value) > TELLING * old.value and not overlaps


def _is_worse(now: Figure, old: Figure) -> bool:
    """Times are better short, rates are better high."""
    return now.value > old.value if now.dimension == "ms" else now.value < old.value
