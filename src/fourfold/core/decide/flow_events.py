"""What happens to a flow run, and what follows from it: the words of the rules in `flow.py`."""

from __future__ import annotations

from dataclasses import dataclass

from fourfold.core.context import Ref
from fourfold.core.flows import CallKey, Failure, StepCall, Stored
from fourfold.core.jobs import ExitKind, Usage
from fourfold.core.times import Instant

# Events


@dataclass(frozen=True, slots=True)
class CallMade:
    """The body (in its attempt `body_attempt`) called a step. The slice holds the inputs it names."""

    call: StepCall
    body_attempt: int


@dataclass(frozen=True, slots=True)
class EffectDone:
    """The body did something itself; `call` holds the outcome."""

    call: StepCall
    body_attempt: int


@dataclass(frozen=True, slots=True)
class InputSettled:
    """One of the calls that `key` waits for has settled. The slice holds both."""

    key: CallKey
    dep: CallKey


@dataclass(frozen=True, slots=True)
class CacheAnswer:
    """What the cache said. `source` is empty for a miss, and `reason` says why."""

    key: CallKey
    cache_key: str
    source: str = ""
    result: Stored | None = None
    reads: tuple[Ref, ...] = ()
    writes: tuple[Ref, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Leased:
    """A worker on a unit was found for the call."""

    key: CallKey
    worker: str
    unit: str
    log_start: int
    reason: str


@dataclass(frozen=True, slots=True)
class Began:
    """The worker said that it began."""

    key: CallKey
    n: int
    outlook: str = ""
    """Why it will be late, if it will."""


@dataclass(frozen=True, slots=True)
class Placed:
    """The attempt's worker is on another unit than the one that was chosen for it."""

    key: CallKey
    n: int
    unit: str


@dataclass(frozen=True, slots=True)
class Finished:
    """An attempt ended well."""

    key: CallKey
    n: int
    result: Stored | None
    usage: Usage = Usage()
    reads: tuple[Ref, ...] = ()
    writes: tuple[Ref, ...] = ()
    log_end: int | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """An attempt ended badly."""

    key: CallKey
    n: int
    failure: Failure
    usage: Usage = Usage()
    exit_code: int | None = None
    log_end: int | None = None


@dataclass(frozen=True, slots=True)
class Interrupted:
    """An attempt ended through no fault of the call or its worker: the loop restarted, or it never began."""

    key: CallKey
    n: int
    reason: str


@dataclass(frozen=True, slots=True)
class Due:
    """The wait before a retry is over."""

    key: CallKey


@dataclass(frozen=True, slots=True)
class Unmet:
    """The call cannot be carried out: no unit can ever give what it asks for, or its time is over."""

    key: CallKey
    reason: str
    kind: ExitKind = ExitKind.failed


@dataclass(frozen=True, slots=True)
class CancelAsked:
    """Somebody wants the run to end. The slice holds its open calls."""

    why: str


@dataclass(frozen=True, slots=True)
class ResumeAsked:
    """Somebody wants an ended run to go on. The slice holds all its calls."""


Event = (
    CallMade
    | EffectDone
    | InputSettled
    | CacheAnswer
    | Leased
    | Began
    | Placed
    | Finished
    | Failed
    | Interrupted
    | Due
    | Unmet
    | CancelAsked
    | ResumeAsked
)


# Commands


@dataclass(frozen=True, slots=True)
class Queue:
    """Find a worker for the call."""

    key: CallKey


@dataclass(frozen=True, slots=True)
class LookUp:
    """Ask the cache before finding a worker."""

    key: CallKey


@dataclass(frozen=True, slots=True)
class Wake:
    """Send `Due` at this time."""

    key: CallKey
    at: Instant


@dataclass(frozen=True, slots=True)
class Tell:
    """The call has settled: tell the body and those who wait for it, and remember it if it may be cached."""

    key: CallKey


@dataclass(frozen=True, slots=True)
class Stop:
    """End this attempt's process."""

    key: CallKey
    n: int
    reason: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """Tell the body that what it said does not count."""

    key: CallKey
    reason: str


@dataclass(frozen=True, slots=True)
class RunOver:
    """The run has ended."""

    reason: str


@dataclass(frozen=True, slots=True)
class Cancel:
    """The run has ended: cancel those of its calls that are open."""

    reason: str


Command = Queue | LookUp | Wake | Tell | Stop | Refuse | RunOver | Cancel
