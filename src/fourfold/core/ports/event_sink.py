"""Where events about lineage go: what the flows room asks of another catalog of lineage."""

from __future__ import annotations

from typing import Protocol


class EventSink(Protocol):
    """Takes OpenLineage events, one JSON document each.

    An event may come twice: whoever takes it knows it by its run and its type. Errors: `Unavailable` when
    it may be sent again later (nobody answers, too much at once), `Refused` when this event never will be
    taken, `OutOfSpace`.
    """

    @property
    def address(self) -> str:
        """Where they go, without any secret."""
        ...

    def send(self, event: bytes) -> None:
        """Hand one event over; on return it is kept there."""
        ...

    def close(self) -> None:
        """Let go of files and connections."""
        ...
