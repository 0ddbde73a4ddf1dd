"""The workers of a project: which are warm, which are busy, and which must make room."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from fourfold.core.decide.flow import Failed
from fourfold.core.jobs import ExitKind, UnitCapacity
from fourfold.core.ports.control import WorkerSpec
from fourfold.core.times import SECOND_US, Instant

Task = tuple[str, str, int]
"""Run, call and attempt."""


@dataclass(slots=True)
class Worker:
    """One worker process, as far as the loop knows."""

    name: str
    spec: WorkerSpec
    unit: str
    is_joined: bool = False
    join_count: int = 0
    """How often it has connected: what was to be sent on an earlier connection is not sent on this one."""
    lives: dict[str, str] = field(default_factory=dict)
    """The processes that joined under its name (of a gang, under that of each rank), where they outlive
    their connection."""
    away_since: Instant | None = None
    """Since when it cannot be reached, where it outlives its connection."""
    may_have_begun: bool = False
    """Whether an earlier loop may have sent it its task."""
    task: Task | None = None
    idle_since: Instant | None = None
    log_end: int = 0
    """How much it has printed, in bytes, when it was last heard of."""
    stopping: tuple[ExitKind, str] | None = None
    """Why it is being ended, once it is."""
    failed: Failed | None = None
    """How its attempt has failed, where that was known before its process has ended."""


class Workers:
    """Workers by name; in each pool so many idle ones are kept warm, for so long."""

    def __init__(
        self,
        *,
        most_idle: int,
        idle_s: float,
        most_idle_in: Mapping[str, int] | None = None,
        idle_s_in: Mapping[str, float] | None = None,
    ) -> None:
        """The last two say where a pool has bounds of its own."""
        self.most_idle = most_idle
        self.most_idle_in = most_idle_in or {}
        self.idle_s = idle_s
        self.idle_s_in = idle_s_in or {}
        self._workers: dict[str, Worker] = {}
        self._busy: dict[Task, Worker] = {}

    def __getitem__(self, name: str) -> Worker:
        return self._workers[name]

    def get(self, name: str) -> Worker | None:
        return self._workers.get(name)

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._workers.values())

    def __len__(self) -> int:
        return len(self._workers)

    def __repr__(self) -> str:
        return f"<Workers: {len(self._busy)} busy, {len(self._idle())} idle>"

    def add(self, worker: Worker) -> None:
        self._workers[worker.name] = worker

    def remove(self, name: str) -> Worker | None:
        worker = self._workers.pop(name, None)
        if worker is not None and worker.task is not None:
            self._busy.pop(worker.task, None)
        return worker

    def give(self, worker: Worker, task: Task) -> None:
        """Make a worker busy with a task."""
        worker.task, worker.idle_since = task, None
        self._busy[task] = worker

    def give_back(self, worker: Worker, now: Instant) -> None:
        """Make a worker idle again."""
        if worker.task is not None:
            self._busy.pop(worker.task, None)
        worker.task, worker.idle_since = None, now

    def busy_with(self, task: Task) -> Worker | None:
        """The worker that has this task."""
        return self._busy.get(task)

    def warm(
        self, spec: WorkerSpec, unit: str = "", *, has_room: Callable[[str], bool] = lambda _unit: True
    ) -> Worker | None:
        """The idle worker that may take this work: on `unit` if there is one, else on a unit that has room.

        Of several the one used last, whose memory is warmest.
        """
        fit = [worker for worker in self._idle() if worker.spec == spec]
        fit = [worker for worker in fit if worker.unit == unit] or [
            worker for worker in fit if has_room(worker.unit)
        ]
        return max(fit, key=lambda worker: (worker.idle_since or 0, worker.name), default=None)

    def body_count(self) -> int:
        """How many bodies run now."""
        return sum(1 for worker in self._busy.values() if worker.spec.kind == "body")

    def surplus(self, now: Instant) -> list[Worker]:
        """Idle workers to end: beyond the bound, those used longest ago first; and those idle too long."""
        idle = sorted(self._idle(), key=lambda worker: (worker.idle_since or 0, worker.name))
        excess: dict[str, int] = {}
        for worker in idle:
            excess[worker.spec.pool] = excess.get(worker.spec.pool, 0) + 1
        for pool in excess:
            excess[pool] -= self.most_idle_in.get(pool, self.most_idle)
        ended = []
        for worker in idle:
            if excess[worker.spec.pool] > 0 or self._over_at(worker) <= now:
                excess[worker.spec.pool] -= 1
                ended.append(worker)
        return ended

    def in_the_way(self, new: Worker, units: Sequence[UnitCapacity]) -> list[Worker]:
        """Idle workers that must end so that a new one of their pool finds room, used longest ago first.

        For pools in which a worker holds what it asked for as long as it lives.
        """
        there = [each for each in self if each.spec.pool == new.spec.pool and each.stopping is None]
        free_cpu = sum(unit.cpu for unit in units) - sum(map(_cpu, there))
        free_bytes = sum(unit.memory_bytes for unit in units) - sum(map(_bytes, there))
        ended = []
        for worker in sorted(self._idle(), key=lambda each: (each.idle_since or 0, each.name)):
            if free_cpu >= 0 and free_bytes >= 0:
                break
            if worker.spec.pool == new.spec.pool:
                ended.append(worker)
                free_cpu += _cpu(worker)
                free_bytes += _bytes(worker)
        return ended

    def count(self, pool: str, *, is_busy: bool) -> int:
        """How many workers of a pool are busy, or are not."""
        return sum(1 for each in self if each.spec.pool == pool and (each.task is not None) is is_busy)

    def next_over_at(self) -> Instant | None:
        """When the next worker will have been idle too long."""
        return min((self._over_at(worker) for worker in self._idle()), default=None)

    def _over_at(self, worker: Worker) -> Instant:
        idle_s = self.idle_s_in.get(worker.spec.pool, self.idle_s)
        return Instant((worker.idle_since or 0) + round(idle_s * SECOND_US))

    def _idle(self) -> list[Worker]:
        return [
            worker for worker in self if worker.is_joined and worker.task is None and worker.stopping is None
        ]


def _cpu(worker: Worker) -> float:
    return worker.spec.nodes * worker.spec.resources.cpu.low


def _bytes(worker: Worker) -> int:
    return worker.spec.nodes * round(worker.spec.resources.memory_bytes.low)
