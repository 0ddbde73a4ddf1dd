"""Where the loop keeps flow runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from fourfold.core.compute import JobReport
from fourfold.core.context import Ref
from fourfold.core.errors import Conflict
from fourfold.core.flows import Attempt, DeployedFlow, FlowRun, RunEvent, RunId, StepCall, Stored
from fourfold.core.times import Instant


class Fenced(Conflict):
    """Another owner has taken over: whoever gets this must stop."""

    code = "fenced"


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """A finished call's result, to answer equal calls; good while what it touched has not moved."""

    key: str
    source: str
    """`run/call` that made it."""
    result: Stored
    reads: tuple[Ref, ...]
    writes: tuple[Ref, ...]
    at: Instant


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A run with all its calls and those attempts that have not ended."""

    run: FlowRun
    calls: tuple[StepCall, ...]
    attempts: tuple[Attempt, ...]


@dataclass(slots=True)
class Changes:
    """What one turn of the loop changed: whole rows, the latest state of each."""

    runs: dict[str, FlowRun] = field(default_factory=dict)
    calls: dict[tuple[str, str], StepCall] = field(default_factory=dict)
    attempts: dict[tuple[str, str, int], Attempt] = field(default_factory=dict)
    deployments: dict[str, DeployedFlow] = field(default_factory=dict)
    cache: dict[str, CacheEntry] = field(default_factory=dict)
    events: list[RunEvent] = field(default_factory=list)
    jobs: list[JobReport] = field(default_factory=list)
    """Attempts that ended, for the accounts."""

    def __bool__(self) -> bool:
        return bool(self.runs or self.calls or self.attempts or self.deployments or self.cache or self.events)


class FlowStore(Protocol):
    """Keeps runs, calls and attempts.

    `commit` is all or nothing, and is refused with `Fenced` when `epoch` is no longer the latest one
    that `take_over` gave: so a loop that was put to sleep and woke up later cannot write. A commit that
    raised may be repeated: rows are whole, and writing them twice is writing them once. A second run
    with an idempotency key that is taken is a `Conflict` too.
    """

    def take_over(self, owner: str, now: Instant) -> int:
        """Become the owner: the new epoch, larger than all before. Earlier owners' commits now fail."""
        ...

    def commit(self, epoch: int, changes: Changes) -> None: ...

    def load_open(self) -> tuple[OpenRun, ...]:
        """All runs that have not ended, or of which an attempt has not, oldest first."""
        ...

    def load(self, run: RunId) -> OpenRun | None:
        """One run, ended or not, with all its calls and open attempts."""
        ...

    def run_by_key(self, key: str) -> FlowRun | None:
        """The run that a non-empty idempotency key names."""
        ...

    def cached(self, key: str) -> CacheEntry | None: ...

    def deployments(self) -> Sequence[DeployedFlow]:
        """All deployments by name."""
        ...
