"""Additions of threads that come at once share one transaction, and so one wait for the disk."""

from __future__ import annotations

import threading

from fourfold.core.errors import FourfoldError, Unavailable
from fourfold.core.ports.buffer import Addition, Receipt, RowBuffer


class Turns:
    """Threads queue; who gets the turn adds what stands in the queue, one addition a thread."""

    def __init__(self, buffer: RowBuffer) -> None:
        self._buffer = buffer
        self._turn = threading.Lock()
        self._guard = threading.Lock()
        self._queue: list[_Place] = []

    def add(self, addition: Addition) -> Receipt:
        """Keep an addition durably."""
        mine = _Place(addition)
        with self._guard:
            self._queue.append(mine)
        with self._turn:
            if mine.receipt is None and mine.error is None:
                self._add_queue()
        if mine.error is not None:
            raise mine.error
        assert mine.receipt is not None, "who had the turn left it here"
        return mine.receipt

    def _add_queue(self) -> None:
        with self._guard:
            queue, self._queue = self._queue, []
        try:
            self._add(queue)
        finally:  # an interrupt of the thread that adds for others is no answer to them
            for place in queue:
                if place.receipt is None and place.error is None:
                    place.error = Unavailable(
                        "the buffer was interrupted; whether these rows were kept is not known",
                        ways_on=["read the table, and insert them again where they are missing"],
                        table=place.addition.name,
                    )

    def _add(self, queue: list[_Place]) -> None:
        try:
            receipts = self._buffer.add([place.addition for place in queue])
        except FourfoldError as error:
            if len(queue) == 1:
                queue[0].error = error
                return
            for place in queue:  # what one of them cannot have is not refused to all
                self._add([place])
            return
        for place, receipt in zip(queue, receipts, strict=True):
            place.receipt = receipt


class _Place:
    """An addition in the queue, and what became of it."""

    __slots__ = ("addition", "error", "receipt")

    def __init__(self, addition: Addition) -> None:
        self.addition = addition
        self.receipt: Receipt | None = None
        self.error: FourfoldError | None = None
