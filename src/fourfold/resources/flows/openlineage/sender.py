"""Telling others: a thread beside the loop that sends what waits, in order, and tries again when it must."""

from __future__ import annotations

import atexit
import logging
import threading
from collections.abc import Callable

from fourfold.core import wire
from fourfold.core.errors import FourfoldError, Remedy
from fourfold.core.openlineage import Json
from fourfold.core.ports.clock import Clock
from fourfold.core.ports.event_sink import EventSink
from fourfold.resources.flows.openlineage.tables import Telling, Tellings

BATCH = 100
FIRST_WAIT_S, MOST_WAIT_S = 1.0, 300.0
GATHER_S = 0.1
"""After something happened it waits this long, so that what belongs together is sent together."""
LOOK_S = 10.0
"""So often it looks for what another process left."""
LAST_WORDS_S = 5.0
"""How long it goes on when its process ends; what is left then is the next owner's."""

log = logging.getLogger("fourfold.openlineage")


class Sender:
    """Sends tellings to a sink, at least once each. `turn` does one round; the thread does nothing else."""

    def __init__(
        self,
        tellings: Tellings,
        *,
        make: Callable[[Telling], Json | None],
        sink: EventSink,
        clock: Clock,
    ) -> None:
        """`make` gives the event of a telling; `None` when its record is gone."""
        self._tellings = tellings
        self._make = make
        self._sink = sink
        self._clock = clock
        self._failures = 0
        self._woken = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to send, if it has not begun."""
        if self._thread is None or not self._thread.is_alive():
            self._closing.clear()
            atexit.register(self.close)
            self._thread = threading.Thread(target=self._run, name="fourfold-openlineage", daemon=True)
            self._thread.start()

    def wake(self) -> None:
        """Say that something waits."""
        self._woken.set()

    def close(self, patience_s: float = LAST_WORDS_S) -> None:
        """Send what waits if it is taken now, and stop."""
        atexit.unregister(self.close)
        self._closing.set()
        self._woken.set()
        if self._thread is not None:
            self._thread.join(patience_s)
        self._sink.close()

    def turn(self) -> float:
        """Send what waits; how long to wait until the next turn, in seconds: none when more waits."""
        waiting = self._tellings.waiting(BATCH)
        sent: list[Telling] = []
        try:
            for telling in waiting:
                if self._tell(telling):
                    sent.append(telling)  # noqa: PERF401 - those before one that is not taken are told
        except FourfoldError as error:  # nobody takes them now
            self._failures += 1
            wait_s = min(FIRST_WAIT_S * 2.0 ** (self._failures - 1), MOST_WAIT_S)
            log.warning("%s; again in %.0f s", error.message, wait_s)
            self._tellings.trim()
            return wait_s
        finally:
            if sent:
                self._tellings.told(self._clock.now(), sent)
        self._failures = 0
        return 0.0 if len(waiting) == BATCH else LOOK_S

    def _tell(self, telling: Telling) -> bool:
        """Send one; false when it never will be taken, and is put aside. Raises what may pass."""
        try:
            event = self._make(telling)
            if event is not None:
                self._sink.send(wire.encode(event))
            return True
        except Exception as error:
            if isinstance(error, FourfoldError) and error.remedy is Remedy.transient:
                raise
            why = error.message if isinstance(error, FourfoldError) else f"it could not be made: {error!r}"
            log.warning("an event of %s is put aside: %s", telling.run, why)
            self._tellings.refuse(self._clock.now(), telling, why)
            return False

    def _run(self) -> None:
        wait_s = 0.0
        while True:
            if self._failures:
                self._closing.wait(wait_s)
            elif self._woken.wait(wait_s):
                self._closing.wait(GATHER_S)
            self._woken.clear()
            is_last = self._closing.is_set()
            try:
                wait_s = self.turn()
            except Exception:  # the catalog, most likely: what waits is still there
                log.exception("lineage events could not be looked at")
                self._failures, wait_s = self._failures + 1, MOST_WAIT_S
            if is_last and (self._failures or wait_s):
                return
