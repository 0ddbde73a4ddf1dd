"""Boxes in layers from left to right: where each stands and how the links between them run.

Layers by the longest path, order within a layer by the mean place of the neighbours (a few sweeps, the one
with the fewest crossings kept), heights by least squares towards the neighbours. The same boxes and links
always give the same picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

SWEEPS = 6


@dataclass(frozen=True, slots=True)
class Box:
    """What is to be placed."""

    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Link:
    """From the right side of one box to the left side of another, at heights below their tops."""

    source: int
    target: int
    leaves: float
    arrives: float


@dataclass(frozen=True, slots=True)
class Point:
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Layout:
    """Each box's upper left corner, each link's course, and the room that they take."""

    corners: tuple[Point, ...]
    courses: tuple[tuple[Point, ...], ...]
    """Points in pairs: a course is straight within a pair, and bends between one pair and the next."""
    width: float
    height: float


def arrange(boxes: Sequence[Box], links: Sequence[Link], *, gap_x: float, gap_y: float) -> Layout:
    """Place boxes so that links run to the right, as far as they can.

    >>> placed = arrange([Box(10, 5), Box(10, 5)], [Link(0, 1, 2, 2)], gap_x=20, gap_y=5)
    >>> placed.corners
    (Point(x=0.0, y=0.0), Point(x=30.0, y=0.0))
    """
    pairs = sorted({(link.source, link.target) for link in links if link.source != link.target})
    forward = _without_circles(len(boxes), pairs)
    layer = _layers(len(boxes), forward)
    graph = _Graph.of(boxes, forward, layer)
    order = _ordered(graph)
    y = _heights(graph, order, gap_y)
    top = min(y, default=0.0)
    y = [each - top for each in y]
    widths = [max((graph.boxes[i].width for i in row), default=0.0) for row in order]
    left, x = 0.0, []
    for width in widths:
        x.append(left)
        left += width + gap_x
    corners = tuple(Point(x[graph.layer[i]], y[i]) for i in range(len(boxes)))
    courses = tuple(_course(link, boxes, corners, graph, x, widths, y) for link in links)
    height = max((corners[i].y + boxes[i].height for i in range(len(boxes))), default=0.0)
    return Layout(corners, courses, max(left - gap_x, 0.0), height)


def _without_circles(count: int, pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The pairs with those turned round that would close a circle."""
    after: list[list[int]] = [[] for _ in range(count)]
    for source, target in pairs:
        after[source].append(target)
    state = [0] * count  # 0 unseen, 1 on the way, 2 done
    backward: set[tuple[int, int]] = set()
    for root in range(count):
        if state[root]:
            continue
        state[root], way = 1, [(root, iter(after[root]))]
        while way:
            here, rest = way[-1]
            there = next(rest, None)
            if there is None:
                state[here] = 2
                way.pop()
            elif state[there] == 1:
                backward.add((here, there))
            elif state[there] == 0:
                state[there] = 1
                way.append((there, iter(after[there])))
    turned = {(t, s) if (s, t) in backward else (s, t) for s, t in pairs}
    return sorted(turned)


def _layers(count: int, pairs: Sequence[tuple[int, int]]) -> list[int]:
    """The longest way to each box; what nothing leads to then moves up to what it leads to."""
    before: list[list[int]] = [[] for _ in range(count)]
    after: list[list[int]] = [[] for _ in range(count)]
    for source, target in pairs:
        before[target].append(source)
        after[source].append(target)
    left = [len(each) for each in before]
    layer = [0] * count
    ready = [i for i in range(count) if not left[i]]
    for here in ready:
        for there in after[here]:
            layer[there] = max(layer[there], layer[here] + 1)
            left[there] -= 1
            if not left[there]:
                ready.append(there)
    for i in range(count):
        if not before[i] and after[i]:
            layer[i] = min(layer[there] for there in after[i]) - 1
    return layer


@dataclass(frozen=True, slots=True)
class _Graph:
    """The boxes, and one of no size wherever a link passes a layer."""

    boxes: list[Box]
    layer: list[int]
    before: list[list[int]]
    after: list[list[int]]
    passes: dict[tuple[int, int], list[int]]

    @classmethod
    def of(cls, boxes: Sequence[Box], pairs: Sequence[tuple[int, int]], layer: Sequence[int]) -> _Graph:
        made = cls(list(boxes), list(layer), [[] for _ in boxes], [[] for _ in boxes], {})
        for source, target in pairs:
            here, passes = source, []
            for level in range(layer[source] + 1, layer[target]):
                there = len(made.boxes)
                made.boxes.append(Box(0.0, 0.0))
                made.layer.append(level)
                made.before.append([])
                made.after.append([])
                made.join(here, there)
                passes.append(there)
                here = there
            made.join(here, target)
            made.passes[source, target] = passes
        return made

    def join(self, source: int, target: int) -> None:
        self.after[source].append(target)
        self.before[target].append(source)


def _ordered(graph: _Graph) -> list[list[int]]:
    rows: list[list[int]] = [[] for _ in range(max(graph.layer, default=-1) + 1)]
    for i, level in enumerate(graph.layer):
        rows[level].append(i)
    best, fewest = [list(row) for row in rows], _crossings(rows, graph)
    for sweep in range(SWEEPS):
        beside = graph.before if sweep % 2 == 0 else graph.after
        levels = range(1, len(rows)) if sweep % 2 == 0 else range(len(rows) - 2, -1, -1)
        for level in levels:
            place = {i: p for row in rows for p, i in enumerate(row)}
            rows[level].sort(key=lambda i: (_mean([place[j] for j in beside[i]], place[i]), place[i]))
        count = _crossings(rows, graph)
        if count < fewest:
            best, fewest = [list(row) for row in rows], count
    return best


def _crossings(rows: Sequence[Sequence[int]], graph: _Graph) -> int:
    """How many pairs of links between neighbouring layers cross (counted by a Fenwick tree)."""
    total = 0
    for row, beyond in pairwise(rows):
        place = {i: p for p, i in enumerate(beyond)}
        tree = [0] * (len(beyond) + 1)
        seen = 0
        for i in row:
            targets = sorted(place[j] for j in graph.after[i])
            for target in targets:
                index, smaller = target + 1, 0
                while index:
                    smaller += tree[index]
                    index &= index - 1
                total += seen - smaller
            for target in targets:
                index = target + 1
                while index <= len(beyond):
                    tree[index] += 1
                    index += index & -index
                seen += 1
    return total


def _heights(graph: _Graph, rows: Sequence[Sequence[int]], gap: float) -> list[float]:
    """The top of each box: as near to its neighbours' middles as its place in the layer lets it."""
    y = [0.0] * len(graph.boxes)
    for row in rows:
        _stack(row, [0.0] * len(row), graph, y, gap)
    for sweep in range(2 * SWEEPS):
        beside = graph.before if sweep % 2 == 0 else graph.after
        for row in rows if sweep % 2 == 0 else rows[::-1]:
            wanted = [
                _mean([y[j] + graph.boxes[j].height / 2 for j in beside[i]], y[i] + graph.boxes[i].height / 2)
                - graph.boxes[i].height / 2
                for i in row
            ]
            _stack(row, wanted, graph, y, gap)
    return y


def _stack(row: Sequence[int], wanted: Sequence[float], graph: _Graph, y: list[float], gap: float) -> None:
    """Set the tops of a layer as near as can be to those wanted, without changing the order or overlapping.

    Least squares under an order: neighbours that would overlap are pooled, and a pool takes its mean.
    """
    offset, offsets = 0.0, []
    for i in row:
        offsets.append(offset)
        offset += graph.boxes[i].height + (gap if graph.boxes[i].height else gap / 2)
    pools: list[tuple[float, int]] = []  # the sum of (wanted - offset), and how many
    for each, before in zip(wanted, offsets, strict=True):
        pools.append((each - before, 1))
        while len(pools) > 1 and pools[-2][0] / pools[-2][1] >= pools[-1][0] / pools[-1][1]:
            (total, count), (more, others) = pools[-2], pools.pop()
            pools[-1] = (total + more, count + others)
    places = [total / count for total, count in pools for _ in range(count)]
    for i, place, before in zip(row, places, offsets, strict=True):
        y[i] = place + before


def _course(
    link: Link,
    boxes: Sequence[Box],
    corners: Sequence[Point],
    graph: _Graph,
    x: Sequence[float],
    widths: Sequence[float],
    y: Sequence[float],
) -> tuple[Point, ...]:
    """From box to box, straight through each layer that lies between."""
    start = Point(corners[link.source].x + boxes[link.source].width, corners[link.source].y + link.leaves)
    edge = x[graph.layer[link.source]] + widths[graph.layer[link.source]]
    end = Point(corners[link.target].x, corners[link.target].y + link.arrives)
    points = [start, Point(max(edge, start.x), start.y)]
    for passed in graph.passes.get((link.source, link.target), ()):
        level = graph.layer[passed]
        points += [Point(x[level], y[passed]), Point(x[level] + widths[level], y[passed])]
    return (*points, end, end)


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise
