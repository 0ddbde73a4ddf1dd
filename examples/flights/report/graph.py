"""The flow as a graph: one box per step, from top to bottom, with what each took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from examples.flights.report.words import seconds

Call = Mapping[str, Any]

BOX_PX, HIGH_PX = 164, 44
GAP_X_PX, GAP_Y_PX = 18, 34


def graph(calls: Sequence[Call]) -> str:
    """The calls as SVG: an arrow from each call to those that waited for it."""
    after = {call["key"]: list(call["after"]) for call in calls}
    rows = layers(after)
    places = _places(rows)
    width = max(len(row) for row in rows) * (BOX_PX + GAP_X_PX) - GAP_X_PX + 4
    height = len(rows) * (HIGH_PX + GAP_Y_PX) - GAP_Y_PX + 4
    longest = max((call["wall_s"] for call in calls), default=0.0) or 1.0
    parts = [
        (
            f'<svg class="graph" viewBox="0 0 {width} {height}" role="img" style="max-width:{width}px" '
            'aria-label="the flow: each box a step, with its time">'
        )
    ]
    for key, before in direct(after).items():
        parts += [_edge(places[one], places[key], width) for one in before]
    parts += [_box(call, places[call["key"]], width, longest) for call in calls]
    parts.append("</svg>")
    return "".join(parts)


def direct(after: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """What each call waited for, less what it waited for through another anyway.

    >>> direct({"a": [], "b": ["a"], "c": ["a", "b"]})
    {'a': [], 'b': ['a'], 'c': ['b']}
    """
    depth = _depths(after)
    above: dict[str, set[str]] = {}
    for key in sorted(after, key=lambda key: depth[key]):
        above[key] = set(after[key]).union(*(above[one] for one in after[key]))
    return {
        key: [one for one in before if not any(one in above[other] for other in before if other != one)]
        for key, before in after.items()
    }


def layers(after: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Calls in rows: each below all that it waits for, near to the middle of them.

    A call that more wait for than it waits for itself stands low, near to those.

    >>> layers({"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"]})
    [['a'], ['b', 'c'], ['d']]
    """
    arrows = direct(after)
    depth = _depths(after)
    for key in sorted(arrows, key=lambda key: -depth[key]):
        below = [depth[one] for one, before in arrows.items() if key in before]
        if len(below) > len(arrows[key]):
            depth[key] = min(below) - 1
    rows: list[list[str]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for key in after:
        rows[depth[key]].append(key)
    place: dict[str, float] = {}
    for row in rows:
        middle = {
            key: sum(place[one] for one in arrows[key]) / len(arrows[key]) if arrows[key] else 0.0
            for key in row
        }
        row.sort(key=lambda key: middle[key])
        for index, key in enumerate(row):
            place[key] = index - (len(row) - 1) / 2
    return rows


def _depths(after: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """How many calls each waits for, one after the other."""
    depth: dict[str, int] = {}
    left = dict(after)
    while left:
        ready = [key for key, before in left.items() if all(one in depth for one in before)]
        assert ready, "a flow has no cycles"
        for key in ready:
            depth[key] = 1 + max((depth[one] for one in left.pop(key)), default=-1)
    return depth


def _places(rows: Sequence[Sequence[str]]) -> dict[str, tuple[float, float]]:
    """The middle of each box's top edge, measured from the middle of the picture."""
    return {
        key: ((index - (len(row) - 1) / 2) * (BOX_PX + GAP_X_PX), y * (HIGH_PX + GAP_Y_PX) + 2)
        for y, row in enumerate(rows)
        for index, key in enumerate(row)
    }


def _edge(start: tuple[float, float], end: tuple[float, float], width: float) -> str:
    x1, y1 = start[0] + width / 2, start[1] + HIGH_PX
    x2, y2 = end[0] + width / 2, end[1]
    bend = min((y2 - y1) / 2, 40)
    return (
        f'<path class="edge" d="M{x1:.1f} {y1:.1f} C{x1:.1f} {y1 + bend:.1f} '
        f'{x2:.1f} {y2 - bend:.1f} {x2:.1f} {y2:.1f}"/>'
    )


def _box(call: Call, place: tuple[float, float], width: float, longest: float) -> str:
    x, y = place[0] + width / 2 - BOX_PX / 2, place[1]
    share = call["wall_s"] / longest
    is_cached = call["is_cached"]
    told = "from the cache" if is_cached else seconds(call["wall_s"])
    middle = x + BOX_PX / 2
    return (
        f'<g class="{"box cached" if is_cached else "box"}">'
        f"<title>{escape(call['key'])}: {escape(call['words'])}</title>"
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{BOX_PX}" height="{HIGH_PX}" rx="8"/>'
        f'<rect class="share" x="{x + 8:.1f}" y="{y + HIGH_PX - 6:.1f}" '
        f'width="{(BOX_PX - 16) * share:.1f}" height="3" rx="1.5"/>'
        f'<text x="{middle:.1f}" y="{y + 18:.1f}" class="name">{escape(call["name"])}</text>'
        f'<text x="{middle:.1f}" y="{y + 33:.1f}" class="took">{escape(told)}</text></g>'
    )
