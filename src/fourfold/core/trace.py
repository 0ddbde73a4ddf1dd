"""What one job used over time, in a bounded number of points. Standard library only: engines keep it too."""

from __future__ import annotations

MOST_POINTS = 64
"""A trace that is full gives up every second point, so its points lie twice as far apart."""


class Trace:
    """Readings of one job, oldest first: counters as they stood, memory as it was.

    A point is `(at_ms, cpu_ms, memory_bytes, read_bytes, written_bytes)` since the job's start, and where
    there are GPUs `(…, gpu_ms, gpu_memory_bytes)`. Of two points that become one, the later stands with the
    higher memory of both: no peak is lost.

    >>> trace = Trace()
    >>> for second in range(100):
    ...     trace.add(second, cpu_s=second / 2, memory_bytes=second % 7)
    >>> len(trace.points) <= MOST_POINTS, trace.points[-1]
    (True, (99000, 49500, 1, 0, 0))
    >>> round(trace.memory_mean_bytes, 2)
    2.98
    """

    __slots__ = ("_area", "_every", "_until_s", "memory_peak_bytes", "points")

    def __init__(self) -> None:
        self.points: list[tuple[int, ...]] = []
        self.memory_peak_bytes = 0
        self._area = 0.0  # memory × seconds
        self._until_s = 0.0
        self._every = 0.0

    def add(
        self,
        at_s: float,
        *,
        cpu_s: float,
        memory_bytes: int,
        read_bytes: int = 0,
        written_bytes: int = 0,
        gpu: tuple[float, int] | None = None,
    ) -> None:
        """Take a reading. One that comes too soon after the last point is merged with it.

        `gpu` is seconds of work so far and the bytes held, where there are GPUs.
        """
        self._area += memory_bytes * max(0.0, at_s - self._until_s)
        self._until_s = max(self._until_s, at_s)
        self.memory_peak_bytes = max(self.memory_peak_bytes, memory_bytes)
        point: tuple[int, ...] = (
            round(at_s * 1000),
            round(cpu_s * 1000),
            memory_bytes,
            read_bytes,
            written_bytes,
        )
        if gpu is not None:
            point = (*point, round(gpu[0] * 1000), gpu[1])
        if len(self.points) > 1 and point[0] - self.points[-2][0] < self._every * 1000:
            self.points[-1] = _merged(self.points[-1], point)
        else:
            self.points.append(point)
        if len(self.points) > MOST_POINTS:
            pairs = zip(self.points[::2], self.points[1::2], strict=False)
            odd = self.points[-1:] if len(self.points) % 2 else []
            self.points = [*(_merged(*pair) for pair in pairs), *odd]
            self._every = 2 * self._until_s / MOST_POINTS

    @property
    def memory_mean_bytes(self) -> float:
        """The mean over time, each reading standing for the time before it."""
        return self._area / self._until_s if self._until_s > 0 else float(self.memory_peak_bytes)


def _merged(one: tuple[int, ...], two: tuple[int, ...]) -> tuple[int, ...]:
    merged = (two[0], two[1], max(one[2], two[2]), *two[3:6])
    return (*merged, max(one[6], two[6])) if len(one) == len(two) == 7 else (*merged, *two[6:])
