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


def service_key(name: str, generation: int) -> str:
    """The engine's key of one start of a service."""
    return f"service/{name}/{generation}"
