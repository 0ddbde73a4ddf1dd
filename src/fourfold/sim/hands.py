"""The loop's hands in the invented world: what it asks for goes to the machine, and it may die of asking."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from fourfold.core.ports.control import Arrival, PoolView, WorkerSpec
from fourfold.resources.flows.gangs import Gangs
from fourfold.sim.machine import Header, Machine
from fourfold.sim.world import Crash, Violation


class Hands:
    """The loop's control in one of its lives. A dead owner's hands do nothing; a replaced one's must not."""

    def __init__(
        self,
        machine: Machine,
        owner: int,
        is_current: Callable[[int], bool],
        post: Callable[[Arrival], None],
    ) -> None:
        """`post` hands the loop what arrives."""
        self._machine = machine
        self.gangs = Gangs(post=post, send=self._send)
        self._owner = owner
        self._is_current = is_current

    def pools(self) -> Mapping[str, PoolView]:
        return self._machine.views

    def launch(self, worker: str, spec: WorkerSpec) -> None:
        self._check(f"launches {worker}")
        self.gangs.expect(worker, spec.nodes)
        self._machine.submit(worker, spec, self._owner)
        if self._machine.world.fault("word comes twice"):
            self._machine.submit(worker, spec, self._owner)
        self._may_die()

    def send(self, peer: str, header: Header, parts: Sequence[bytes] = ()) -> None:
        if header["type"] == "task":
            self._check(f"sends {header['run']}/{header['key']}@{header['n']} to {peer}")
        self.gangs.send(peer, header, parts)

    def _send(self, peer: str, header: Header, parts: Sequence[bytes]) -> None:
        self._machine.send(self._owner, peer, header, parts)
        self._may_die()

    def stop(self, worker: str, *, grace_s: float) -> None:
        self._check(f"stops {worker}")
        self._machine.stop(worker, grace_s)
        self._may_die()

    def _check(self, what: str) -> None:
        self._machine.world.note(f"owner {self._owner}", what)
        if not self._is_current(self._owner):
            raise Violation(f"owner {self._owner} {what}, although another has taken over")

    def _may_die(self) -> None:
        if self._machine.world.fault("owner dies while it acts"):
            raise Crash
