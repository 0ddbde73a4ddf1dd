"""The workers of a project: which are warm, which are busy, and which must make room."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fourfold.core.ports.control import WorkerSpec
from fourfold.core.ports.engine import ExitKind
from fourfold.core.times import Instant

Task = tuple[str, str, int]
"""Run, call and attempt."""


@dataclass(slots=True)
class Worker:
    """One worker process, as far as the loop knows."""

    name: str
    spec: WorkerSpec
    unit: str
    is_joined: bool = False
    task: Task | None = None
    idle_since: Instant | None = None
    stopping: tuple[ExitKind, str] | None = None
    """Why it is being ended, once it is."""


class Workers:
    """Workers by name, with the bounds: so many bodies at once, so many idle workers kept warm."""

    def __init__(self, *, most_bodies: int, most_idle: int, idle_s: float) -> None:
        self.most_bodies = most_bodies
        self.most_idle = most_idle
        self.idle_s = idle_s
        self._workers: dict[str, Worker] = {}

    def __getitem__(self, name: str) -> Worker:
        return self._workers[name]

    def get(self, name: str) -> Worker | None:
        return self._workers.get(name)

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._workers.values())

    def __len__(self) -> int:
        return len(self._workers)

    def add(self, worker: Worker) -> None:
        self._workers[worker.name] = worker

    def remove(self, name: str) -> Worker | None:
        return self._workers.pop(name, None)

    def warm(self, spec: WorkerSpec) -> Worker | None:
        """The idle worker that may take this work: the one used last, whose memory is warmest."""
        fit = [worker for worker in self._idle() if worker.spec == spec]
        return max(fit, key=lambda worker: (worker.idle_since or 0, worker.name), default=None)

    def bodies(self) -> int:
        """How many bodies run now."""
        return sum(1 for worker in self if worker.spec.kind == "body" and worker.task is not None)

    def surplus(self, now: Instant) -> list[Worker]:
        """Idle workers to end: beyond the bound, those used longest ago first; and those idle too long."""
        idle = sorted(self._idle(), key=lambda worker: (worker.idle_since or 0, worker.name))
        excess = max(0, len(idle) - self.most_idle)
        old = now - round(self.idle_s * 1_000_000)
        return [
            worker
            for index, worker in enumerate(idle)
            if index < excess or (worker.idle_since is not None and worker.idle_since <= old)
        ]

    def _idle(self) -> list[Worker]:
        return [
            worker for worker in self if worker.is_joined and worker.task is None and worker.stopping is None
        ]
