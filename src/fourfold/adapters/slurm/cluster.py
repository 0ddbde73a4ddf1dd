"""What the engine asks of a cluster, and the values of the answers. Commands and REST both fulfil it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from fourfold.core.jobs import Usage
from fourfold.core.times import Instant

ACTIVE = frozenset(
    {
        "PENDING",
        "CONFIGURING",
        "RUNNING",
        "SUSPENDED",
        "COMPLETING",
        "STOPPED",
        "SIGNALING",
        "STAGE_OUT",
        "RESIZING",
        "REQUEUED",
        "REQUEUE_FED",
        "REQUEUE_HOLD",
        "RESV_DEL_HOLD",
        "SPECIAL_EXIT",
    }
)
"""States of a job that Slurm has not done with; any other is an end."""
WAITING = frozenset({"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT"})


@dataclass(frozen=True, slots=True)
class Order:
    """A job as Slurm is asked for it."""

    name: str
    comment: str
    script: str
    output: str
    """The path that takes what the script itself prints; no pattern."""
    cpus: int
    memory_mib: int | None
    """On each node; none: what the cluster gives to who says nothing."""
    gpus: int
    gpu_name: str
    nodes: int
    time_limit_min: int | None


@dataclass(frozen=True, slots=True)
class SlurmJob:
    """A job as Slurm tells of it."""

    job_id: int
    name: str
    state: str
    reason: str = ""
    node: str = ""
    started_at: Instant | None = None
    ended_at: Instant | None = None
    code: int | None = None
    """The exit status, where Slurm told it."""
    signal: int | None = None
    usage: Usage | None = None
    """What accounting has measured."""

    @property
    def is_active(self) -> bool:
        return self.state in ACTIVE


@dataclass(frozen=True, slots=True)
class Node:
    """A node, and why nothing may start there now (empty: it may)."""

    name: str
    cpus: int
    memory_bytes: int
    gpus: int
    gpu_name: str
    partitions: tuple[str, ...]
    closed: str = ""


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition, and the longest that a job may take in it."""

    name: str
    time_limit_s: float | None
    is_default: bool
    closed: str = ""


@dataclass(frozen=True, slots=True)
class Traits:
    """What the cluster's own settings say."""

    enforces_memory: bool
    """Whether a job that goes past the memory it reserved is ended by Slurm."""
    has_default_memory: bool
    """Whether a job that asks for no memory gets some, rather than the whole node's."""


class Cluster(Protocol):
    """The narrow seam: each call is one word with Slurm, bounded in time.

    Raises `Unavailable` when Slurm does not answer (and nobody knows whether it heard), `Refused` when it
    says no, `Unauthenticated` when it does not believe who we are.
    """

    def submit(self, order: Order) -> int:
        """Hand a job in; its number."""
        ...

    def queue(self, job_ids: Collection[int]) -> list[SlurmJob]:
        """Our user's jobs that the controller remembers: all that wait or run, and what ended lately.

        `job_ids` are those that the caller cares for; more may be told.
        """
        ...

    def history(self, names: Collection[str], *, since: Instant) -> list[SlurmJob]:
        """Jobs of these names as accounting has them; nothing where the cluster keeps no accounts."""
        ...

    def nodes(self) -> list[Node]: ...

    def partitions(self) -> list[Partition]: ...

    def traits(self) -> Traits: ...

    def cancel(self, job_ids: Collection[int]) -> None:
        """End them; those that have ended, or never were, do no harm."""
        ...

    def close(self) -> None: ...
