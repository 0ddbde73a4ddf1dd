"""The use of several jobs over one time: what a whole run kept busy and held."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

Points = Sequence[Sequence[int]]
"""A trace, as `core.trace` has it."""


def together(traces: Sequence[tuple[int, Points]], count: int) -> tuple[tuple[int, ...], ...]:
    """One trace of `count` points, of traces that begin at some milliseconds each.

    What a job used between two of its points is spread evenly over that time. Memory is the sum of the most
    that each job held within a point's time, so it may be more than was ever held at one moment.

    >>> together([(0, [(1000, 500, 7, 0, 0)]), (1000, [(1000, 1000, 5, 0, 4)])], 4)
    ((500, 250, 7, 0, 0), (1000, 500, 7, 0, 0), (1500, 1000, 5, 0, 2), (2000, 1500, 5, 0, 4))
    """
    begun = [(start, points) for start, points in traces if points]
    if not begun or count < 1:
        return ()
    first = min(start for start, _ in begun)
    last = max(start + points[-1][0] for start, points in begun)
    width = max(1.0, (last - first) / count)
    used, memory = [[0.0] * 3 for _ in range(count)], [0] * count
    for start, points in begun:
        most = [0] * count
        for before, after in pairwise([(0, 0, 0, 0, 0), *points]):
            low, high = (start - first + point[0] for point in (before, after))
            for index in range(int(low / width), min(count, int(high / width) + 1)):
                share = _overlap(low, high, index * width, (index + 1) * width)
                if share > 0:
                    most[index] = max(most[index], after[2])
                    for which, column in enumerate((1, 3, 4)):
                        used[index][which] += share * (after[column] - before[column])
        memory = [one + two for one, two in zip(memory, most, strict=True)]
    found, so_far = [], [0.0, 0.0, 0.0]
    for index in range(count):
        so_far = [one + two for one, two in zip(so_far, used[index], strict=True)]
        cpu_ms, read, written = map(round, so_far)
        found.append((round((index + 1) * width), cpu_ms, memory[index], read, written))
    return tuple(found)


def _overlap(low: float, high: float, start: float, end: float) -> float:
    """The share of low to high that lies in start to end; a moment lies where it begins."""
    if high <= low:
        return 1.0 if start <= low < end else 0.0
    return max(0.0, min(high, end) - max(low, start)) / (high - low)
