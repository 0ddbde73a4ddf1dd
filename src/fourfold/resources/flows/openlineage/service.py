"""Lineage for others: events noted in the loop's commit, sent beside it, and told again from the records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fourfold.catalog.database import Catalog
from fourfold.core.openlineage import EventPage, Json, Outbox
from fourfold.core.ports.clock import Clock
from fourfold.core.ports.event_sink import EventSink
from fourfold.core.ports.flow_store import Changes
from fourfold.core.times import Instant
from fourfold.resources.flows.openlineage import events
from fourfold.resources.flows.openlineage.events import Facts
from fourfold.resources.flows.openlineage.sender import Sender
from fourfold.resources.flows.openlineage.tables import Telling, Tellings
from fourfold.resources.flows.tables import FlowTables

if TYPE_CHECKING:
    import sqlalchemy as sa


class LineageEvents:
    """What others are told about a project's flows. Without a sink it only tells when it is asked."""

    def __init__(self, catalog: Catalog, facts: Facts, clock: Clock, *, sink: EventSink | None) -> None:
        self._flows = FlowTables(catalog)
        self._facts = facts
        self._tellings = Tellings(catalog)
        self._address = "" if sink is None else sink.address
        self._sender = None
        if sink is not None:
            self._sender = Sender(self._tellings, make=self.event, sink=sink, clock=clock)

    def note(self, connection: sa.Connection, changes: Changes) -> None:
        """Within the loop's commit: keep what is to be told."""
        if self._sender is not None and self._tellings.note(connection, changes):
            self._sender.wake()

    def start(self) -> None:
        """Begin to send what waits; for the process that owns the loop."""
        if self._sender is not None:
            self._sender.start()

    def close(self) -> None:
        """Say the last words and stop."""
        if self._sender is not None:
            self._sender.close()

    def event(self, telling: Telling) -> Json | None:
        """The event of a telling; `None` when its record is gone."""
        if not telling.call:
            found = self._flows.graph(telling.run)
            return None if found is None else events.of_run(*found[:2], telling.what, self._facts)
        run = self._flows.run(telling.run)
        call = self._flows.call(telling.run, telling.call)
        attempt = self._flows.attempt(telling.run, telling.call, telling.n)
        if run is None or call is None or attempt is None:
            return None
        return events.of_attempt(run, call, attempt, telling.what, self._facts)

    def outbox(self) -> Outbox:
        """What others have not taken yet."""
        waiting, refused = self._tellings.count()
        first = self._tellings.waiting(1)
        last = self._tellings.refused(1)
        return Outbox(
            address=self._address,
            waiting=waiting,
            oldest_at=self._happened_at(first[0]) if first else None,
            refused=refused,
            refused_at=last[0].at if last else None,
            refusal=last[0].why if last else "",
        )

    def _happened_at(self, telling: Telling) -> Instant | None:
        if telling.call:
            attempt = self._flows.attempt(telling.run, telling.call, telling.n)
            return None if attempt is None else events.attempt_at(attempt, telling.what)
        run = self._flows.run(telling.run)
        return None if run is None else events.run_at(run, telling.what)

    def page(self, *, since: Instant, after: str, limit: int) -> EventPage:
        """The events of at most `limit` runs made since a time, oldest first."""
        told: list[Json] = []
        last = ""
        for run_id in self._flows.since(since, after, limit):
            found = self._flows.graph(run_id)
            if found is not None:
                told += events.all_of(*found, self._facts)
            last = run_id
        return EventPage(tuple(told), last)
