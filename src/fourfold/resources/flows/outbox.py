"""What a turn of the loop changed, and what follows from it: committed first, carried out after.

What is in the outbox when its process dies is either committed, and then the next loop finds it again, or
it has never happened.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from fourfold.core.errors import FourfoldError, Remedy
from fourfold.core.ports.flow_store import Changes, Fenced, FlowStore
from fourfold.core.times import Instant, after


class Outbox:
    """Changes of whole rows, and actions that wait until these are stored."""

    def __init__(self, store: FlowStore) -> None:
        self._store = store
        self.epoch = 0
        self.changes = Changes()
        self._tasks: deque[Callable[[], None]] = deque()
        self._acts: deque[Callable[[], None]] = deque()
        self._again_at: Instant | None = None
        self._failures = 0
        self.fault: FourfoldError | None = None

    def later(self, act: Callable[[], None], *, gives_work: bool = False) -> None:
        """Do this once everything noted so far is stored.

        What gives a worker its work comes before news: a body that wakes up first takes the core that the
        next step needs.
        """
        (self._tasks if gives_work else self._acts).append(act)

    @property
    def is_empty(self) -> bool:
        return not (self._tasks or self._acts or self.changes)

    @property
    def waits_until(self) -> Instant | None:
        """When a commit that failed is tried again; nothing may be decided before."""
        return self._again_at

    def commit(self, now: Instant) -> bool:
        """Store what changed; whether actions may be carried out.

        Raises `Fenced` when another loop has taken over: this one must not go on. When the store cannot
        take it now (it does not answer, its disk is full), `fault` says so, and nothing is carried out
        until it can; what trying again cannot help is raised.
        """
        if not self.changes:
            return True
        try:
            self._store.commit(self.epoch, self.changes)
        except FourfoldError as error:
            self._failures += 1
            if isinstance(error, Fenced) or error.remedy is not Remedy.transient:
                raise
            self.fault = error
            self._again_at = after(now, min(5.0, 0.05 * 2.0 ** min(self._failures, 10)))
            return False
        self.changes = Changes()
        self._again_at, self._failures, self.fault = None, 0, None
        return True

    def act(self) -> None:
        """Carry out what waits."""
        while waits := self._tasks or self._acts:
            waits.popleft()()
