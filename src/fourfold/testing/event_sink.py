"""What every sink of lineage events must do, and one in memory that does it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fourfold.core.errors import FourfoldError
from fourfold.core.ports.event_sink import EventSink


class MemoryEvents:
    """A sink that keeps events, and refuses them where a test says so."""

    address = "memory://events"

    def __init__(self) -> None:
        self.events: list[bytes] = []
        self.faults: list[FourfoldError] = []
        """What the next sends raise, one each."""

    def send(self, event: bytes) -> None:
        if self.faults:
            raise self.faults.pop(0)
        self.events.append(event)

    def close(self) -> None:
        """Nothing is kept open."""


def check_sink(sink: EventSink, arrived: Callable[[], Sequence[bytes]]) -> None:
    """`arrived` tells what has come to where the sink sends, in order."""
    events = [b'{"n": 1}', '{"n": "ünïcödé \\n"}'.encode(), b'{"n": "' + b"x" * 300_000 + b'"}']
    for event in events:
        sink.send(event)
    assert list(arrived()) == events, "each event is there when `send` returns, once and in order"
    sink.send(events[0])
    assert list(arrived()) == [*events, events[0]], "an event that comes again is kept again"
    sink.close()
    sink.close()
    sink.send(events[1])
    assert list(arrived())[-1] == events[1], "a sink that was closed opens again when it is needed"
    assert "://" in sink.address
    sink.close()
