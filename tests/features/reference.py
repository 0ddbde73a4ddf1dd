"""The slow, obvious reference: features of one (key, time) straight from the list of events.

It is written from the definition of the semantics alone and shares nothing with what it checks, save the
values that describe a view.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fourfold.core.features import View, Window

Event = dict[str, Any]


@dataclass(frozen=True)
class Expected:
    """A value, and Σ|x| (over n for a mean): what a float sum's tolerance is measured by."""

    value: Any
    scale: float = 0.0


def latest(events: Sequence[Event], column: str, at: int, *, ttl_us: int) -> Any:
    past = [event for event in events if event["time"] <= at]
    if not past:
        return None
    newest = max(past, key=lambda event: (event["time"], event["known"], event["id"]))
    if ttl_us and at - newest["time"] > ttl_us:
        return None
    return newest[column]


def window(
    events: Sequence[Event], window: Window, at: int, where: Callable[[Event], Any] | None
) -> Expected:
    start = at - window.length_us
    if window.hop_us:
        start = math.floor(start / window.hop_us) * window.hop_us
    inside = [event for event in events if start <= event["time"] < at]
    if where is not None:
        inside = [event for event in inside if where(event) is True]
    if window.function == "count" and not window.column:
        return Expected(len(inside))
    values = [event[window.column] for event in inside if event[window.column] is not None]
    if window.function == "count":
        return Expected(len(values))
    if not values:
        return Expected(None)
    scale = sum(abs(v) for v in values)
    match window.function:
        case "sum":
            return Expected(sum(values), scale)
        case "mean":
            return Expected(sum(values) / len(values), scale / len(values))
        case "max":  # NaN is the greatest
            return Expected(next((v for v in values if v != v), None) or max(values))
        case "min":
            return Expected(min((v for v in values if v == v), default=math.nan))
    raise AssertionError(window.function)


def features(
    view: View,
    events: Sequence[Event],
    key: tuple[Any, ...],
    at: int | None,
    visible: Callable[[Event], bool],
    filters: dict[str, Callable[[Event], Any]],
) -> dict[str, Expected]:
    """The view's latest values and windows for one key at one time."""
    names = [*(f.name for f in view.latest), *(w.name for w in view.windows)]
    if at is None or None in key:
        return {name: Expected(None) for name in names}
    first: dict[Any, Event] = {}
    for event in sorted(events, key=lambda e: (e["known"], e["time"])):
        first.setdefault(event["id"], event)
    mine = [e for e in first.values() if tuple(e[k] for k in view.entity.keys) == key and visible(e)]
    found = {f.name: Expected(latest(mine, f.column, at, ttl_us=view.ttl_us)) for f in view.latest}
    for w in view.windows:
        found[w.name] = window(mine, w, at, filters.get(w.where))
    return found


def agrees(got: Any, expected: Expected) -> bool:
    """Integers, texts and extremes exactly; float sums within 1e-9 of Σ|x|; NaN is NaN, null is null."""
    want = expected.value
    if got is None or want is None:
        return got is None and want is None
    if isinstance(want, float) and math.isnan(want):
        return isinstance(got, float) and math.isnan(got)
    if not expected.scale or isinstance(want, int):
        return bool(got == want)
    if math.isinf(want):
        return bool(got == want)
    return bool(abs(got - want) <= 1e-9 * expected.scale)
