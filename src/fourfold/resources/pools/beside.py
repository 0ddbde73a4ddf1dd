"""Does things beside the caller, in threads that keep no process from ending.

A `ThreadPoolExecutor` is waited for when the interpreter ends: one call of an engine that hangs, and
`fourfold up` would never be over.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Beside:
    """So many threads that carry calls out, in the order in which they were asked for.

    >>> beside = Beside(1, name="example")
    >>> beside.submit(pow, 2, 10).result()
    1024
    >>> beside.close()
    """

    def __init__(self, thread_count: int, *, name: str) -> None:
        self._thread_count = thread_count
        self._name = name
        self._asked: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._started_count = 0
        self._is_closed = False

    def submit(self, act: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Carry a call out when its turn comes. One that comes after `close` is cancelled."""
        future: Future[T] = Future()

        def carry_out() -> None:
            if self._is_closed:
                future.cancel()
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(act(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

        with self._lock:
            if self._is_closed:
                future.cancel()
                return future
            self._asked.put(carry_out)
            if self._started_count < self._thread_count:
                self._started_count += 1
                name = f"{self._name}-{self._started_count}"
                threading.Thread(target=self._work, name=name, daemon=True).start()
        return future

    def close(self) -> None:
        """Begin nothing more, and cancel what waits. What is under way goes on."""
        with self._lock:
            self._is_closed = True
            with contextlib.suppress(Empty):
                while (waiting := self._asked.get_nowait()) is not None:
                    waiting()
            for _ in range(self._thread_count):
                self._asked.put(None)

    def _work(self) -> None:
        while (carry_out := self._asked.get()) is not None:
            carry_out()
