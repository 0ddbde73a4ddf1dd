"""The queues of calls that want a worker, one for each pool, and what live attempts hold of the units."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from fourfold.core.decide.deadline import Due
from fourfold.core.decide.place import HEADS, Lease, Start, Waiting, lease_of, place, turn
from fourfold.core.decide.pools import units_of
from fourfold.core.flows import CallKey, CallKind, StepCall
from fourfold.core.jobs import UnitCapacity
from fourfold.core.ports.control import PoolView
from fourfold.core.times import Instant

Place = tuple[str, CallKey]
"""A run and a call of it."""
Entry = tuple[tuple[int, Instant, Instant, str], str, CallKey, Waiting]
"""Work that waits: when its turn is, of which run and call it is, and what it wants."""


@dataclass(frozen=True, slots=True)
class Turn:
    """It is this call's turn: on a unit of a pool (or several; a flow's body on none), and why in words."""

    run: str
    key: CallKey
    pool: str
    unit: str
    reason: str


class Placing:
    """Ready steps by priority and time; bodies one after the other, so many at once.

    What is in use is the sum of the live leases, of attempts and of services, never a counter.
    """

    def __init__(self, *, most_bodies: int) -> None:
        self.most_bodies = most_bodies
        self.leases: dict[tuple[str, str], Lease] = {}
        self._beside: tuple[Lease, ...] = ()
        self._steps: dict[str, list[Entry]] = {}
        self._bodies: deque[Place] = deque()
        self._queued: set[Place] = set()
        self._holds: dict[Place, str] = {}
        self._has_changed = False

    def queue(
        self, call: StepCall, *, pool: str, priority: int, now: Instant, due: Due | None = None
    ) -> None:
        """Let a call wait for its turn in a pool. A call that waits already keeps its place."""
        place = (call.run, call.key)
        if place in self._queued:
            return
        self._queued.add(place)
        self._has_changed = True
        if call.kind is CallKind.body:
            self._bodies.append(place)
        else:
            resources, ready_at = call.policy.resources, call.ready_at or now
            work = Waiting(f"{call.run}/{call.key}", resources, ready_at, priority, call.policy.nodes, due)
            heapq.heappush(self._steps.setdefault(pool, []), (turn(work), call.run, call.key, work))

    def lease(self, run: str, call: StepCall, unit: str) -> None:
        """Note what an attempt holds that is under way already."""
        self.leases[run, call.key] = lease_of(f"{run}/{call.key}", units_of(unit), call.policy.resources)

    def has_room(self, units: Sequence[UnitCapacity], call: StepCall) -> bool:
        """Whether these units, where a worker is, could take a call beside all that is held of them.

        Of those that are not the pool's own (any more) nothing is counted.
        """
        asked = Waiting("", call.policy.resources, Instant(0))
        held = (*self.leases.values(), *self._beside)
        return all(isinstance(place([unit], held, [asked], Instant(0))[0], Start) for unit in units)

    def move(self, run: str, key: CallKey, unit: str) -> None:
        """What an attempt holds is on another unit than was thought."""
        if (lease := self.leases.get((run, key))) is not None and lease.unit != unit:
            self.leases[run, key] = replace(lease, units=units_of(unit))
            self._has_changed = True

    def release(self, run: str, key: CallKey) -> None:
        """An attempt has ended: what it held is free."""
        self.leases.pop((run, key), None)
        self._has_changed = True

    def hold_beside(self, leases: Sequence[Lease]) -> None:
        """What services hold of the units: it is in use as what attempts hold is."""
        if tuple(leases) != self._beside:
            self._beside = tuple(leases)
            self._has_changed = True

    @property
    def has_waiting(self) -> bool:
        """Whether a step waits for its turn."""
        return any(self._steps.values())

    def look_again(self) -> None:
        """Units have come or gone."""
        self._has_changed = True

    def waiting_count(self, pool: str) -> int:
        """How many steps wait for a turn in a pool."""
        return len(self._steps.get(pool, ()))

    def hold(self, run: str, key: CallKey, reason: str) -> None:
        """Remember why a call waits, for whoever asks."""
        self._holds[run, key] = reason

    def forget(self, run: str, key: CallKey) -> None:
        """A call waits no more."""
        self._holds.pop((run, key), None)

    def holds(self, run: str) -> Mapping[str, str]:
        """Why calls of a run wait for their turn."""
        return {key: reason for (of, key), reason in self._holds.items() if of == run}

    def turns(
        self,
        pools: Mapping[str, PoolView],
        now: Instant,
        *,
        body_pool: str,
        body_count: int,
        ready: Callable[[str, CallKey], StepCall | None],
    ) -> Iterator[Turn]:
        """Those whose turn it is. `ready` gives a call that still wants a worker; others are dropped.

        Looked for only when something was queued or set free since the last time.
        """
        if not self._has_changed:
            return
        self._has_changed = False
        yield from self._body_turns(pools[body_pool], body_count, ready)
        for name, waiting in self._steps.items():
            if waiting:
                yield from self._step_turns(pools[name], waiting, now, ready)

    def _body_turns(
        self, pool: PoolView, body_count: int, ready: Callable[[str, CallKey], StepCall | None]
    ) -> Iterator[Turn]:
        while self._bodies:
            run, key = self._bodies[0]
            if ready(run, key) is not None:
                if pool.fault:
                    self.hold(run, key, _out_of_reach(pool))
                    return
                if body_count >= self.most_bodies:
                    self.hold(run, key, f"{self.most_bodies} flow bodies run already, the most at once")
                    return
                body_count += 1
                yield Turn(run, key, pool.name, "", "a place for its body is free")
            self._bodies.popleft()
            self._queued.discard((run, key))

    def _step_turns(
        self,
        pool: PoolView,
        queue: list[Entry],
        now: Instant,
        ready: Callable[[str, CallKey], StepCall | None],
    ) -> Iterator[Turn]:
        heads: dict[str, Entry] = {}
        waiting: list[Waiting] = []
        while queue and len(heads) < HEADS:
            entry = heapq.heappop(queue)
            _, run, key, work = entry
            if ready(run, key) is None:
                self._queued.discard((run, key))
                continue
            heads[work.holder] = entry
            waiting.append(work)
        if pool.fault:
            for entry in heads.values():
                self.hold(entry[1], entry[2], _out_of_reach(pool))
                heapq.heappush(queue, entry)
            return
        leases = (*self.leases.values(), *self._beside)
        for decision in place(pool.units, leases, waiting, now):
            entry = heads[decision.holder]
            _, run, key, _ = entry
            if isinstance(decision, Start):
                self._queued.discard((run, key))
                self.leases[run, key] = decision.lease
                yield Turn(run, key, pool.name, decision.lease.unit, decision.reason)
            else:
                self.hold(run, key, decision.reason)
                heapq.heappush(queue, entry)


def _out_of_reach(pool: PoolView) -> str:
    return f"pool '{pool.name}' cannot be used now: {pool.fault}"
