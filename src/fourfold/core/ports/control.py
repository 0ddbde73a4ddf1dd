"""What the loop asks of the outside while it runs: start and stop workers, and send words to peers."""

from __future__ import annotations

from collections.abc import Sequence
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


@dataclass(frozen=True, slots=True)
class Message:
    """A frame from a peer: a worker by its name, or a client."""

    peer: str
    header: dict[str, Any]
    parts: Sequence[bytes] = ()


@dataclass(frozen=True, slots=True)
class Joined:
    """A worker that was started has connected."""

    worker: str


@dataclass(frozen=True, slots=True)
class Gone:
    """A worker's process has ended, or a client has left."""

    peer: str
    exit: Exit | None = None


Arrival = Message | Joined | Gone


class Control(Protocol):
    """The loop's hands. Every method returns at once, and doing it twice is doing it once.

    What comes of it arrives at the loop: `Joined` when a worker connects, `Gone` when it ends (also when
    it could not be started), in the order in which it happened for each peer.
    """

    def units(self) -> Sequence[UnitCapacity]:
        """What can be given to steps."""
        ...

    def launch(self, worker: str, spec: WorkerSpec) -> None: ...

    def send(self, peer: str, header: dict[str, Any], parts: Sequence[bytes] = ()) -> None:
        """Send a frame; nothing happens when the peer is gone."""
        ...

    def stop(self, worker: str, *, grace_s: float) -> None:
        """End a worker and all it started."""
        ...
