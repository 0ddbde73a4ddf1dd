"""By when a call must be done: when it must start for that, what stands against it, and what follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fourfold.core.flows import FlowRun, Policy
from fourfold.core.times import Instant, after, duration_text, iso, seconds_between


@dataclass(frozen=True, slots=True)
class RunTimes:
    """How long a step takes, from its recorded runs: 95 % of them took no longer."""

    p95_s: float
    run_count: int


@dataclass(frozen=True, slots=True)
class Due:
    """By when work must be done, and how long it takes as far as that is recorded."""

    at: Instant
    times: RunTimes | None = None

    @property
    def latest_start(self) -> Instant:
        """When it must start to be done by then; of unknown run times, as if it took none."""
        return after(self.at, -self.times.p95_s) if self.times is not None else self.at


def due_at(run: FlowRun, policy: Policy) -> Instant | None:
    """By when a call of a run must be done: by its own deadline or the run's, whichever comes first.

    A step's time counts from when its run was made, or was due by its schedule. What had passed when the
    run was resumed does not count any more: whoever resumed it knew.
    """
    ends = []
    if policy.deadline_s is not None:
        began = run.scheduled_for if run.scheduled_for is not None else run.created_at
        ends.append(after(began, policy.deadline_s))
    ends += [at for at in (policy.deadline_at, run.deadline_at) if at is not None]
    if run.resumed_at is not None:
        ends = [at for at in ends if at > run.resumed_at]
    return min(ends, default=None)


def outlook(due: Due | None, now: Instant) -> str:
    """Why work that has not begun will not be done in time, as its recorded runs tell; "" while it may.

    >>> print(outlook(Due(Instant(60_000_000), RunTimes(90.0, 12)), Instant(0)))
    its deadline 1970-01-01T00:01:00Z cannot be met: 95 % of its 12 recorded runs took up to 1m 30s, 1m left
    >>> outlook(Due(Instant(60_000_000), RunTimes(30.0, 12)), Instant(0))
    ''
    """
    if due is None or due.times is None or now <= due.latest_start:
        return ""
    left = duration_text(max(0.0, seconds_between(now, due.at)))
    took = f"95 % of its {due.times.run_count} recorded runs took up to {duration_text(due.times.p95_s)}"
    return f"its deadline {iso(due.at)} cannot be met: {took}, {left} left"


def passed(at: Instant) -> str:
    """The reason of what ends because its time is over."""
    return f"its deadline {iso(at)} has passed"


def run_times(walls_s: Sequence[float]) -> RunTimes | None:
    """What runs that ended well tell, by nearest rank; nothing of none.

    >>> run_times([3.0, 1.0, 2.0]), run_times([])
    (RunTimes(p95_s=3.0, run_count=3), None)
    """
    if not walls_s:
        return None
    rank = -(-95 * len(walls_s) // 100)
    return RunTimes(sorted(walls_s)[rank - 1], len(walls_s))
