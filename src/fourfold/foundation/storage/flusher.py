"""The thread that flushes by age: it sleeps while nothing waits, and ends when the project is closed."""

from __future__ import annotations

import atexit
import logging
import threading
from collections.abc import Callable

logger = logging.getLogger("fourfold.storage")

AFTER_A_DEFECT_S = 60.0


class Flusher:
    """Calls `look` when it is told to and when the time comes that `look` named.

    `look` does what is due and answers after how many seconds there will be more to do; `None` when only
    new rows can change that. The thread is started by the first `note`.
    """

    def __init__(self, look: Callable[[], float | None]) -> None:
        self._look = look
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_wanted = False
        self._has_timer = False
        self._is_closed = False

    def note(self, *, is_due: bool) -> None:
        """Say that rows wait. Costs nothing when a timer runs that will see them."""
        with self._changed:
            if self._is_closed or (self._has_timer and not is_due):
                return
            self._is_wanted = True
            if (
                self._thread is None or not self._thread.is_alive()
            ):  # after a fork it lives in the parent only
                self._thread = threading.Thread(target=self._run, name="fourfold-flusher", daemon=True)
                self._thread.start()
                atexit.register(self.close)
            self._changed.notify()

    def close(self) -> None:
        """End the thread once the flush that it is in has ended; repeatable."""
        with self._changed:
            self._is_closed = True
            thread, self._thread = self._thread, None
            self._changed.notify()
        if thread is not None:
            atexit.unregister(self.close)
            thread.join()

    def _run(self) -> None:
        delay: float | None = None
        while True:
            with self._changed:
                self._has_timer = delay is not None
                if not self._is_wanted and not self._is_closed:
                    self._changed.wait(delay)
                if self._is_closed:
                    return
                self._is_wanted = self._has_timer = False
            try:
                delay = self._look()
            except Exception:
                logger.exception("the buffer could not be looked at")
                delay = AFTER_A_DEFECT_S
