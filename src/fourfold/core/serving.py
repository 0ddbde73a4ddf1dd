"""Services: commands that are kept running, reached at an address, and started again when they fail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from fourfold.core.jobs import Resources
from fourfold.core.times import Instant


class ProbeKind(StrEnum):
    """How a service is asked whether it can be used."""

    tcp = "tcp"
    """It takes a connection."""
    http = "http"
    """It answers a GET of `path` with a status below 400."""
    none = "none"
    """Nobody asks: it is ready when it runs."""


@dataclass(frozen=True, slots=True)
class Probe:
    """How often a service is asked, and when silence counts."""

    kind: ProbeKind = ProbeKind.tcp
    path: str = "/"
    every_s: float = 5.0
    timeout_s: float = 2.0
    misses: int = 3
    """So many missed answers in a row make a ready service fail."""
    ready_within_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Restarts:
    """How a service that failed is started again."""

    first_wait_s: float = 1.0
    most_wait_s: float = 60.0
    most_in_row: int = 10
    """After so many failures in a row it is given up."""
    steady_s: float = 60.0
    """What was ready for so long starts counting anew."""


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """What to keep running."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = ""
    image: str = ""
    pool: str = ""
    """Where; "" is the project's own machine."""
    resources: Resources = Resources()
    probe: Probe = Probe()
    restarts: Restarts = Restarts()
    drain_s: float = 10.0
    """Asked to end, it has so long to finish what it does."""
    code: str = ""
    """Digest of the files that travel with it to where this machine's are not seen."""


class ServicePhase(StrEnum):
    """Where a service is in its life."""

    stopped = "stopped"
    starting = "starting"
    ready = "ready"
    ending = "ending"
    """Asked to end; its processes may still finish what they do."""
    waiting = "waiting"
    """It failed, and will be started again at a stated time."""
    given_up = "given_up"
    """It failed too often in a row."""


@dataclass(frozen=True, slots=True)
class ServiceStart:
    """One start of a service: what for, where, and what came of it."""

    generation: int
    asked_at: Instant
    why: str
    pool: str = ""
    unit: str = ""
    began_at: Instant | None = None
    """When its process began: until then it waits in its engine's own queue."""
    ready_at: Instant | None = None
    ended_at: Instant | None = None
    end: str = ""
    """Why it ended."""


@dataclass(frozen=True, slots=True)
class ServiceState:
    """A service as it is. Each start has a generation, and by it a key of its own."""

    phase: ServicePhase = ServicePhase.stopped
    is_wanted: bool = False
    generation: int = 0
    since: Instant = Instant(0)
    """When this phase began."""
    address: str = ""
    failures_in_row: int = 0
    misses: int = 0
    next_at: Instant | None = None
    """When it is started again."""
    reason: str = ""
    pool: str = ""
    """Where this generation was started; a changed service may ask for another."""
    unit: str = ""
    """The unit it runs on, once that is known, by the name that listings have for it."""
    late_from: Instant | None = None
    """From when on the time to become ready counts; none while nothing of it runs."""
    is_restarting: bool = False
    """Drained to be started again."""
    fault: str = ""
    """Why its engine cannot be asked now, or does not take it yet: it waits, and has not failed by that."""
    starts: tuple[ServiceStart, ...] = ()
    """The newest starts, the present one last."""
    is_forgotten: bool = False
    """Removed; what is left of it is the number of its last start, so that no key is used twice."""

    @property
    def has_process(self) -> bool:
        """Whether a process of this generation may be there."""
        return self.phase in (ServicePhase.starting, ServicePhase.ready, ServicePhase.ending)


@dataclass(frozen=True, slots=True)
class ServiceInfo:
    """A service with its state."""

    spec: ServiceSpec
    state: ServiceState
    is_kept: bool
    """Whether a process looks after it now; else it goes on with the next `fourfold up`."""


@dataclass(frozen=True, slots=True)
class ServiceLog:
    """A piece of what a service printed."""

    text: str
    next_offset: int
    generation: int = 0
    """Which start printed it."""
    is_end: bool = False
    """Whether that start has ended, and this was the last of it."""


MOST_STARTS = 20
"""So many starts of a service are remembered."""


def service_key(name: str, generation: int) -> str:
    """The engine's key of one start of a service."""
    return f"service/{name}/{generation}"
