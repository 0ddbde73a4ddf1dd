"""What a turn of the loop changed, and what follows from it: committed first, carried out after.

What is in the outbox when its process dies is either committed, and then the next loop finds it again, or
it has never happened.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from fourfold.core.ports.flow_store import Changes, Fenced, FlowStore
from fourfold.core.times import Instant, after

LAZY_S = 0.02
"""So long may a change that nobody waits for (an attempt began) wait for the next commit."""
MOST_COMMIT_FAILURES = 100


class Outbox:
    """Changes of whole rows, and actions that wait until these are stored."""

    def __init__(self, store: FlowStore) -> None:
        self._store = store
        self.epoch = 0
        self.changes = Changes()
        self.is_urgent = False
        self._acts: deque[Callable[[], None]] = deque()
        self._flush_at: Instant | None = None
        self._again_at: Instant | None = None
        self._failures = 0

    def later(self, act: Callable[[], None]) -> None:
        """Do this once everything noted so far is stored."""
        self._acts.append(act)

    @property
    def is_empty(self) -> bool:
        return not (self._acts or self.changes)

    @property
    def waits_until(self) -> Instant | None:
        """When a commit that failed is tried again; nothing may be decided before."""
        return self._again_at

    def next_at(self) -> Instant | None:
        return self._again_at if self._again_at is not None else self._flush_at

    def commit(self, now: Instant) -> bool:
        """Store what changed, if it is due; whether actions may be carried out.

        Raises `Fenced` when another loop has taken over: this one must not go on. When the store does not
        answer, nothing is carried out until it does.
        """
        if not self.changes:
            self.is_urgent, self._flush_at = False, None
            return True
        if not self.is_urgent and self._again_at is None and (self._flush_at is None or now < self._flush_at):
            self._flush_at = self._flush_at or after(now, LAZY_S)
            return True
        try:
            self._store.commit(self.epoch, self.changes)
        except Fenced:
            raise
        except Exception:
            self._failures += 1
            if self._failures > MOST_COMMIT_FAILURES:
                raise
            self._again_at = after(now, min(5.0, 0.05 * 2.0 ** min(self._failures, 10)))
            return False
        self.changes = Changes()
        self.is_urgent, self._flush_at, self._again_at, self._failures = False, None, None, 0
        return True

    def act(self) -> None:
        """Carry out what waits."""
        while self._acts:
            self._acts.popleft()()
