"""Flow runs, step calls and attempts: what the loop decides about, and what people are shown.

A *flow run* is one execution of a flow. Its body and its steps are *calls*; each try to carry a call out
is an *attempt*, and the attempt's number is the call's fence: only the latest attempt's result counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NewType

from fourfold.core.context import Ref
from fourfold.core.errors import FourfoldError, Refused
from fourfold.core.jobs import Exit, ExitKind, Resources, Usage
from fourfold.core.times import Instant

RunId = NewType("RunId", str)
CallKey = NewType("CallKey", str)
"""Names a call within its run: `train#2` is the third call of step `train` (or the call's own `key=`)."""

BODY = CallKey("flow")
"""The key of the call that runs the flow's body."""

MOST_NODES = 256
"""A step runs on so many nodes at most."""

INLINE_BYTES = 64 * 1024
"""Values up to this size live in their row; larger ones are blobs."""


class RunState(StrEnum):
    queued = "queued"
    running = "running"
    paused = "paused"
    succeeded = "succeeded"
    failed = "failed"
    cancelled = "cancelled"

    @property
    def is_open(self) -> bool:
        return self in (RunState.queued, RunState.running, RunState.paused)


class CallKind(StrEnum):
    body = "body"
    """The flow's own code: holds no step slot, is re-run after a crash."""
    step = "step"
    effect = "effect"
    """Something that the body did itself (a read, a promotion, the time of day), journalled."""


class CallState(StrEnum):
    blocked = "blocked"
    """Waits for the calls it depends on."""
    ready = "ready"
    leased = "leased"
    """An attempt is made and a worker chosen; the worker has not said that it began."""
    running = "running"
    retry_wait = "retry_wait"
    succeeded = "succeeded"
    cached = "cached"
    """Answered from an earlier run's record."""
    failed = "failed"
    upstream_failed = "upstream_failed"
    cancelled = "cancelled"

    @property
    def is_open(self) -> bool:
        return self not in _SETTLED

    @property
    def is_good(self) -> bool:
        return self in (CallState.succeeded, CallState.cached)

    @property
    def is_live(self) -> bool:
        """Whether a worker may be busy with it."""
        return self in (CallState.leased, CallState.running)


_SETTLED = frozenset(
    {
        CallState.succeeded,
        CallState.cached,
        CallState.failed,
        CallState.upstream_failed,
        CallState.cancelled,
    }
)


@dataclass(frozen=True, slots=True)
class Stored:
    """An encoded value: in the row up to 64 KiB, else a blob. The loop never decodes it."""

    digest: str
    size_bytes: int
    inline: bytes | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a call or a run failed, for people; `error` holds the exception itself where it could be kept."""

    kind: ExitKind
    type: str
    message: str
    traceback: str = ""
    call: str = ""
    is_permanent: bool = False
    """Trying again with the same input cannot help."""
    error: Stored | None = None


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits between tries: `first_s`, doubled each time, at most `most_s`, give or take `jitter`."""

    first_s: float = 1.0
    most_s: float = 300.0
    jitter: float = 0.2


@dataclass(frozen=True, slots=True)
class Policy:
    """What a step asks for and what to do when it fails."""

    resources: Resources = Resources()
    retries: int = 0
    backoff: Backoff = Backoff()
    timeout_s: float | None = None
    cache: bool = False
    pool: str = ""
    """Where it wants to run; the settings may say otherwise. "" is the default pool."""
    nodes: int = 1
    """Run once on each of so many nodes, all at once or not at all; `resources` are those of one node."""
    deadline_s: float | None = None
    """So long after its run was made, or was due by its schedule, it must be done."""
    deadline_at: Instant | None = None
    """By then it must be done."""


@dataclass(frozen=True, slots=True)
class Code:
    """The code a run is pinned to: a bundle of project modules and the place of the flow in it."""

    digest: str
    module: str
    """Importable name inside the bundle."""
    flow: str
    """Name of the attribute that holds the flow."""
    blob: str = ""
    """The bundle itself."""


@dataclass(frozen=True, slots=True)
class FlowRun:
    """One execution of a flow."""

    id: RunId
    flow: str
    state: RunState
    code: Code
    environment: str
    """Identity of the environment (hash of its lock)."""
    created_at: Instant
    params: Mapping[str, Any] = field(default_factory=dict)
    """Parameters as JSON; those left out take the flow's defaults."""
    python: str = ""
    """The interpreter that satisfies the environment here."""
    cwd: str = ""
    key: str = ""
    """Idempotency: submitting the same key again answers the same run."""
    schedule: str = ""
    scheduled_for: Instant | None = None
    priority: int = 0
    user: str = ""
    started_at: Instant | None = None
    ended_at: Instant | None = None
    result: Stored | None = None
    failure: Failure | None = None
    reason: str = ""
    call_count: int = 0
    version: int = 0
    format: int = 1
    deadline_at: Instant | None = None
    """By then all of it must be done; what is not is ended."""
    resumed_at: Instant | None = None
    """When somebody last went on with it: deadlines that had passed by then do not count any more."""


@dataclass(frozen=True, slots=True)
class StepCall:
    """One call of a step, of the body, or one effect of the body, within a run."""

    run: RunId
    key: CallKey
    seq: int
    """Order in which the run's calls were made; the body is 0."""
    kind: CallKind
    name: str
    state: CallState
    created_at: Instant
    reason: str = ""
    """Why it is in this state, in words."""
    policy: Policy = Policy()
    arguments: Stored | None = None
    deps: tuple[CallKey, ...] = ()
    deps_left: int = 0
    module: str = ""
    """Module of the step's function inside the bundle."""
    qualname: str = ""
    line: int = 0
    """Line of the flow that made the call."""
    code: str = ""
    """Digest of the project modules that the step imports: what its cache depends on."""
    cache_key: str = ""
    attempt: int = 0
    """Number of the latest attempt: the fence."""
    tries: int = 0
    """Attempts that count against `retries`."""
    losses: int = 0
    """Attempts whose worker died under them."""
    not_before: Instant | None = None
    ready_at: Instant | None = None
    started_at: Instant | None = None
    ended_at: Instant | None = None
    result: Stored | None = None
    failure: Failure | None = None
    cached_from: str = ""
    """`run/key` whose result answered."""
    reads: tuple[Ref, ...] = ()
    writes: tuple[Ref, ...] = ()
    format: int = 1


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try to carry a call out; never changed once ended."""

    run: RunId
    call: CallKey
    n: int
    leased_at: Instant
    worker: str = ""
    unit: str = ""
    started_at: Instant | None = None
    ended_at: Instant | None = None
    exit: Exit | None = None
    usage: Usage = Usage()
    utilisation: float | None = None
    """CPU time over the time that cores were held. This and the cost are compute's account of the attempt."""
    cost_nanousd: int = 0
    """Price at that moment times the time held, in billionths of a dollar (money is never a float)."""
    log_start: int = 0
    """Where its output begins in what its worker printed, in bytes."""
    log_end: int | None = None
    """Where it ends; `None` while it runs, and when its worker died with it: it was the last then."""
    format: int = 1

    @property
    def key(self) -> str:
        return f"{self.run}/{self.call}@{self.n}"


@dataclass(frozen=True, slots=True)
class RunEvent:
    """Something that happened to a run, in order; listings, progress and audit are views of these."""

    run: RunId
    at: Instant
    what: str
    call: str = ""
    state: str = ""
    reason: str = ""
    seq: int = 0


@dataclass(frozen=True, slots=True)
class DeployedFlow:
    """A flow that is known by name: its code, its default parameters and its schedule."""

    flow: str
    code: Code
    created_at: Instant
    params: Mapping[str, Any] = field(default_factory=dict)
    cron: str = ""
    tz: str = "UTC"
    catchup: str = "latest"
    python: str = ""
    cwd: str = ""
    environment: str = ""
    is_paused: bool = False
    scheduled_param: str = ""
    """Parameter that takes the day a tick is for (the one that defaults to `scheduled_day`)."""
    parameters: tuple[str, ...] = ()
    """Names of all its parameters: others are refused when it is started."""
    last_tick: Instant | None = None
    """The latest tick that was fired or passed over."""
    format: int = 1
    deadline: str = ""
    """By when a run of it must be done: so long after it was made or due, or a time."""


@dataclass(frozen=True, slots=True)
class ScheduleInfo:
    """A schedule as listed: when it fires next, and whether anything is there to fire it."""

    flow: str
    cron: str
    tz: str
    catchup: str
    next_at: Instant | None
    last_tick: Instant | None
    is_paused: bool
    is_firing: bool
    """Whether a `fourfold up` runs: schedules fire only then."""


@dataclass(frozen=True, slots=True)
class Graph:
    """A run with all its calls and attempts: what the Gantt, the graph and the report draw."""

    run: FlowRun
    calls: tuple[StepCall, ...]
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a call is where it is."""

    call: str
    state: str
    reason: str


@dataclass(frozen=True, slots=True)
class LogPiece:
    """Text of one attempt's output from `offset` (in bytes)."""

    text: str
    next_offset: int
    is_end: bool


class FlowFailed(FourfoldError):
    """A flow run ended in failure; the cause is the exception of the step, where it could be kept."""

    code = "flow_failed"
    status = 409


class FlowCancelled(FlowFailed):
    """A flow run was cancelled."""

    code = "flow_cancelled"


class StepFailed(FourfoldError):
    """A step failed, and its exception could not travel: the message and the traceback did."""

    code = "step_failed"
    status = 409


class Unstorable(Refused):
    """A value that cannot be stored, so that no other process could read it."""

    code = "unstorable"
