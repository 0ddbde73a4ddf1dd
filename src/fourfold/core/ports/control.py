"""What the loop asks of the outside while it runs: pools, to start and stop workers, and to send words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from fourfold.core.flows import Code
from fourfold.core.jobs import Exit, Resources, UnitCapacity


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """A worker to start. Equal specs are interchangeable, so a warm worker may serve again."""

    kind: Literal["step", "body"]
    python: str
    code: Code
    resources: Resources
    cwd: str = ""
    pool: str = "local"
    environment: str = ""
    """What it runs in, by identity, where its pool's machines build that themselves."""
    nodes: int = 1
    """It is a gang of so many processes, one on each node; `resources` are those of one."""


@dataclass(frozen=True, slots=True)
class PoolView:
    """A pool as the loop sees it now."""

    name: str
    units: tuple[UnitCapacity, ...] = ()
    """As last heard of; their names are those that leases and records carry."""
    fault: str = ""
    """Why nothing can be started there now; "" while it can."""
    outlives: bool = False
    """Whether its workers go on while nobody is connected to them, and join again."""
    is_for_steps: bool = True
    """Whether steps run there: a pool may be for bodies alone."""
    keeps_what_idles: bool = False
    """Whether a worker holds what it asked for also while it is idle, as a cluster's scheduler has it."""


@dataclass(frozen=True, slots=True)
class Message:
    """A frame from a peer: a worker by its name, or a client."""

    peer: str
    header: dict[str, Any]
    parts: Sequence[bytes] = ()


@dataclass(frozen=True, slots=True)
class Joined:
    """A worker that was started has connected: for the first time, or again."""

    worker: str
    life: str = ""
    """Names its process, where its job may have been started twice."""
    has: tuple[str, str, int] | None = None
    """The task (run, call, attempt) that it works on or worked on last."""
    is_done: bool = False
    """Whether it is done with that, and keeps the result until it is wanted."""
    unit: str = ""
    """Where it runs, by the name that leases and records carry; "" where it cannot tell."""
    group: str = ""
    """Of one process of a gang: what all processes of the same start have in common."""
    ranks: tuple[Joined, ...] = ()
    """Of a gang, all of whose processes are there: what each of them says, under its own name, by rank."""


@dataclass(frozen=True, slots=True)
class Away:
    """A worker that outlives its connection cannot be reached now."""

    worker: str


@dataclass(frozen=True, slots=True)
class Placed:
    """Its engine has told on which unit a worker runs, where it chose that by itself."""

    worker: str
    unit: str
    """By the name that leases and records carry."""


@dataclass(frozen=True, slots=True)
class Preparing:
    """What starts a worker on its machine was heard of: it makes the environment, and will join."""

    worker: str


@dataclass(frozen=True, slots=True)
class Unready:
    """A worker cannot begin: its machine cannot be made ready for it. It ends by itself."""

    worker: str
    reason: str
    error: str = ""
    """The class of the error, such as `Unavailable`."""
    is_permanent: bool = False
    """Whether trying again cannot help."""


@dataclass(frozen=True, slots=True)
class Gone:
    """A worker's process has ended, or a client has left."""

    peer: str
    exit: Exit | None = None


@dataclass(frozen=True, slots=True)
class PutOff:
    """A worker could not be asked for, because its pool does not answer: nothing was lost by it."""

    worker: str
    reason: str


@dataclass(frozen=True, slots=True)
class PoolChanged:
    """A pool has other units than before, has failed, or is back."""

    pool: str


Arrival = Message | Joined | Placed | Preparing | Unready | Away | Gone | PutOff | PoolChanged


class Control(Protocol):
    """The loop's hands. Every method returns at once, and doing it twice is doing it once.

    What comes of it arrives at the loop: `Joined` when a worker connects, `Away` when one that outlives its
    connection has lost it (then `Joined` again, or `Gone`), `Gone` when it ends (also when
    it could not be started), `PutOff` when its pool did not take it, in the order in which it happened for
    each peer.
    """

    def pools(self) -> Mapping[str, PoolView]:
        """Where steps may run, by name."""
        ...

    def launch(self, worker: str, spec: WorkerSpec) -> None: ...

    def send(self, peer: str, header: dict[str, Any], parts: Sequence[bytes] = ()) -> None:
        """Send a frame; nothing happens when the peer is gone. A gang's goes to all of its processes."""
        ...

    def stop(self, worker: str, *, grace_s: float) -> None:
        """End a worker and all it started."""
        ...
