"""What changed between two measurements of one unit, why it may have, and how a unit stands in its pool."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from fourfold.core.compute import Figure, FigureName, Measurement, Standing
from fourfold.core.quality import TimeToQuality

TELLING = 0.10
"""A smaller change says nothing: quiet runs at different times lie this far apart."""

TIMES = frozenset({"ms", "s"})
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
    """What a measurement is held against: the newest before it of its kind, undisturbed if any is.

    One of the same machine goes before one of another machine of equal hardware.
    """
    before = [each for each in others if each.at < newest.at and each.is_quick == newest.is_quick]

    def nearness(each: Measurement) -> tuple[bool, bool, int, str]:
        return (machine_of(each) == machine_of(newest), each.is_confident, each.at, each.id)

    return max(before, key=nearness, default=None)


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


def machine_of(made: Measurement | TimeToQuality) -> str:
    """The machine that was measured; empty in records of before it was kept."""
    return made.versions.get("machine", "")


def standings(newest: Measurement, others: Sequence[Measurement]) -> tuple[Standing, ...]:
    """Each figure held against the median of the pool's other units, each of them by its best measurement.

    Its best is the newest of the same kind, undisturbed if any is. Ways to the store are held against ways to
    the same store only.
    """
    alike = [each for each in others if each.is_quick == newest.is_quick]
    chosen = _one_of_each_unit(newest, alike)
    found = []
    for figure in newest.figures:
        theirs = [
            (other.value, other.low, other.high)
            for each in chosen
            for other in each.figures
            if other.name == figure.name
            and (
                figure.name not in OF_THE_STORE or each.versions.get("store") == newest.versions.get("store")
            )
        ]
        mine = (figure.value, figure.low, figure.high)
        found += _standing(figure.name.value, figure.dimension, mine, theirs)
    return tuple(found)


def quality_standings(newest: TimeToQuality, others: Sequence[TimeToQuality]) -> tuple[Standing, ...]:
    """The same of the seconds to each task's target; results of another suite say nothing."""
    alike = [each for each in others if each.suite_version == newest.suite_version]
    chosen = _one_of_each_unit(newest, alike)
    found: list[Standing] = []
    for result in newest.results:
        if result.seconds is None:
            continue
        theirs = [
            (other.seconds, other.low or other.seconds, other.high or other.seconds)
            for each in chosen
            for other in each.results
            if other.task == result.task and other.seconds is not None
        ]
        mine = (result.seconds, result.low or result.seconds, result.high or result.seconds)
        found += _standing(f"time to quality: {result.task.value}", "s", mine, theirs)
    return tuple(found)


def standing_text(standing: Standing, pool: str) -> str:
    """One that is telling, in words.

    >>> slow = Standing("disk_read", "MB/s", 88.0, 100.0, 97.0, 104.0, 5, is_worse=True, is_telling=True)
    >>> standing_text(slow, "lab").partition(" (")[0]
    'disk_read: 12% slower than the median of 5 other units of pool lab'
    """
    units = "1 other unit" if standing.other_count == 1 else f"{standing.other_count} other units"
    of_whom = units if standing.other_count == 1 else f"the median of {units}"
    theirs = f"theirs {standing.median:.3g}, quarters {standing.low:.3g} to {standing.high:.3g}"
    how = f"{abs(standing.share):.0%} {'slower' if standing.is_worse else 'faster'} than"
    own = f"{standing.value:.3g} {standing.dimension}"
    return f"{standing.name}: {how} {of_whom} of pool {pool} ({own}; {theirs})"


Made = TypeVar("Made", Measurement, TimeToQuality)
Spread = tuple[float, float, float]
"""A value between its quarters: (value, low, high)."""


def _one_of_each_unit(newest: Made, others: Sequence[Made]) -> list[Made]:
    """The best of each unit but the newest's own. A unit is a machine; of older records, its hardware."""
    best: dict[tuple[str, str], Made] = {}
    own = (newest.fingerprint, machine_of(newest))
    for each in sorted(others, key=lambda each: (each.is_confident, each.at, each.id)):
        unit = (each.fingerprint, machine_of(each))
        is_perhaps_ours = each.fingerprint == newest.fingerprint and not (machine_of(each) and own[1])
        if unit != own and not is_perhaps_ours:
            best[unit] = each
    return [best[unit] for unit in sorted(best)]


def _standing(name: str, dimension: str, mine: Spread, theirs: Sequence[Spread]) -> list[Standing]:
    if not theirs:
        return []
    values = sorted(value for value, _, _ in theirs)
    median = statistics.median(values)
    if median <= 0:
        return []
    if len(values) > 1:
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    else:
        _, low, high = theirs[0]
    value, own_low, own_high = mine
    overlaps = own_low <= high and low <= own_high
    is_telling = abs(value - median) > TELLING * median and not overlaps
    is_worse = value > median if dimension in TIMES else value < median
    return [Standing(name, dimension, value, median, low, high, len(values), is_worse, is_telling)]


def _differs(now: Figure, old: Figure) -> bool:
    if old.value <= 0:
        return False
    overlaps = now.low <= old.high and old.low <= now.high
    return abs(now.value - old.value) > TELLING * old.value and not overlaps


def _is_worse(now: Figure, old: Figure) -> bool:
    """Times are better short, rates are better high."""
    return now.value > old.value if now.dimension in TIMES else now.value < old.value
