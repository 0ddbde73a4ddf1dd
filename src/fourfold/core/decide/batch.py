"""Which waiting requests go to the model next: self-clocking batches with deadlines.

A batch is what queued while the last one ran, up to a bound of rows. Nothing waits for a window to fill:
an idle model takes the first request at once, a busy one finds company for the next. A request whose
deadline cannot be met any more is given up at once instead of being computed for nobody.

How long a batch of n rows takes is estimated as `a·n + b`, fitted to the last batches.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

SAMPLES_MAX = 50
"""How many past batches the estimate remembers."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds that a batch takes, by its rows: the least-squares line through the last batches."""

    samples: tuple[tuple[int, float], ...] = ()
    row_s: float = 0.0
    """Seconds for each row more (a)."""
    base_s: float = 0.0
    """Seconds for a batch of no rows (b)."""

    def seconds(self, rows: int) -> float:
        """How long a batch of so many rows should take; 0 while nothing is known."""
        return self.row_s * rows + self.base_s

    def learn(self, rows: int, seconds: float) -> Estimate:
        """The estimate after one more batch. Neither part is ever negative.

        >>> line = Estimate().learn(10, 0.02).learn(20, 0.03)
        >>> round(line.row_s, 6), round(line.base_s, 6), round(line.seconds(30), 6)
        (0.001, 0.01, 0.04)
        """
        samples = (*self.samples, (rows, seconds))[-SAMPLES_MAX:]
        count = len(samples)
        mean_rows = sum(n for n, _ in samples) / count
        mean_s = sum(s for _, s in samples) / count
        spread = sum((n - mean_rows) ** 2 for n, _ in samples)
        slope = sum((n - mean_rows) * (s - mean_s) for n, s in samples) / spread if spread else 0.0
        slope = min(max(slope, 0.0), mean_s / mean_rows if mean_rows else 0.0)
        return Estimate(samples, slope, mean_s - slope * mean_rows)


class Waiting(Protocol):
    """A request in the queue. Times are seconds on the gateway's own monotonic clock."""

    @property
    def rows(self) -> int: ...
    @property
    def deadline_s(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Request:
    """The plainest `Waiting`."""

    rows: int
    deadline_s: float


@dataclass(frozen=True, slots=True)
class Batch:
    """What to do with the head of the queue, by position. Together a prefix of the queue."""

    take: tuple[int, ...]
    shed: tuple[int, ...]

    @property
    def seen(self) -> int:
        """How many positions from the head were decided."""
        return len(self.take) + len(self.shed)


def next_batch(waiting: Iterable[Waiting], estimate: Estimate, now_s: float, *, rows_max: int) -> Batch:
    """The next batch: requests in order of arrival, whole, at most `rows_max` rows together.

    A request with more rows than that goes alone. One that could not be answered by its deadline even as
    a batch of its own is shed. One that would push a batch beyond the deadline of somebody in it ends
    the batch; it is the first of the next.

    >>> queue = [Request(1, 5.0), Request(1, 0.5), Request(3, 5.0)]
    >>> next_batch(queue, Estimate(row_s=0.1, base_s=1.0), 0.0, rows_max=3)
    Batch(take=(0,), shed=(1,))
    """
    take: list[int] = []
    shed: list[int] = []
    rows = 0
    earliest_s = float("inf")
    for position, request in enumerate(waiting):
        if now_s + estimate.seconds(request.rows) > request.deadline_s:
            shed.append(position)
            continue
        if take:
            ends_s = now_s + estimate.seconds(rows + request.rows)
            if rows + request.rows > rows_max or ends_s > min(earliest_s, request.deadline_s):
                break
        take.append(position)
        rows += request.rows
        earliest_s = min(earliest_s, request.deadline_s)
        if rows >= rows_max:
            break
    return Batch(tuple(take), tuple(shed))


@dataclass(frozen=True, slots=True)
class Admission:
    """Whether a request may join the queue; if not, after how long to try again, and why."""

    is_admitted: bool
    retry_after_s: float = 0.0
    reason: str = ""


def admit(
    *, queue_rows: int, rows: int, queue_rows_max: int, batch_rows_max: int, estimate: Estimate
) -> Admission:
    """A queue is bounded by rows; an empty one takes any request, however large.

    >>> admit(queue_rows=9, rows=2, queue_rows_max=10, batch_rows_max=4, estimate=Estimate()).reason
    'the queue holds 9 of at most 10 rows'
    """
    if queue_rows == 0 or queue_rows + rows <= queue_rows_max:
        return Admission(is_admitted=True)
    batches = -(-queue_rows // batch_rows_max)
    drained_s = batches * estimate.seconds(min(queue_rows, batch_rows_max))
    return Admission(
        is_admitted=False,
        retry_after_s=max(drained_s, 0.05),
        reason=f"the queue holds {queue_rows} of at most {queue_rows_max} rows",
    )
