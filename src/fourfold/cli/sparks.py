"""Readings over time as a line of small bars."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from fourfold.cli.output import seconds, size

BARS = "▁▂▃▄▅▆▇█"


def spark(values: Sequence[float]) -> str:
    """Small bars from zero to the highest value.

    >>> spark([0, 1, 2, 4]), spark([]), spark([0, 0])
    ('▁▃▅█', '', '▁▁')
    """
    top = max(values, default=0)
    if top <= 0:
        return BARS[0] * len(values)
    return "".join(BARS[min(len(BARS) - 1, int(value / top * len(BARS)))] for value in values)


def cores_line(trace: Sequence[Sequence[int]]) -> str:
    """Cores busy over time, and the most.

    >>> cores_line([(1000, 500, 100, 0, 0), (2000, 2500, 300, 2048, 0)])
    '▃█ 2'
    """
    cores = [(two[1] - one[1]) / max(1, two[0] - one[0]) for one, two in pairwise([(0, 0), *trace])]
    return f"{spark(cores)} {max(cores):.2g}" if cores else ""


def memory_line(trace: Sequence[Sequence[int]]) -> str:
    """Memory held over time, and the most."""
    held = [point[2] for point in trace]
    return f"{spark(held)} {size(max(held))}" if held else ""


def over_time(trace: Sequence[Sequence[int]]) -> tuple[tuple[str, str], ...]:
    """What a job's trace shows: cores busy, memory and bytes moved, each with its highest; nothing for none.

    >>> over_time([(1000, 500, 100, 0, 0), (2000, 2500, 300, 2048, 0)])[0]
    ('cores over time', '▃█ up to 2 over 2 s')
    """
    if not trace:
        return ()
    points = [(0, 0, 0, 0, 0), *trace]
    steps = [
        (max(1, two[0] - one[0]) / 1000, two[1] - one[1], two[3] + two[4] - one[3] - one[4])
        for one, two in pairwise(points)
    ]
    cores = [cpu_ms / 1000 / took_s for took_s, cpu_ms, _ in steps]
    memory = [point[2] for point in trace]
    moved = [moved_bytes / took_s for took_s, _, moved_bytes in steps]
    gpus: tuple[tuple[str, str], ...] = ()
    if all(len(point) > 6 for point in trace):
        busy = [0, *(point[5] for point in trace)]
        rates = [(b - a) / 1000 / step[0] for (a, b), step in zip(pairwise(busy), steps, strict=True)]
        held = [point[6] for point in trace]
        gpus = (
            ("gpus over time", f"{spark(rates)} up to {max(rates):.2g} busy"),
            ("gpu memory over time", f"{spark(held)} up to {size(max(held))}"),
        )
    return (
        ("cores over time", f"{spark(cores)} up to {max(cores):.2g} over {seconds(trace[-1][0] / 1000)}"),
        ("memory over time", f"{spark(memory)} up to {size(max(memory))}"),
        ("moved over time", f"{spark(moved)} up to {size(max(moved))}/s"),
        *gpus,
    )
