"""What is still to be told: written within the loop's commit, taken away once it is told.

A row says only that something happened. The event itself is made from the records when it is sent, so a
commit pays for one small insert, and nothing is lost when a row is: `export` tells it again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from fourfold.catalog import rows
from fourfold.catalog.database import Catalog, metadata
from fourfold.catalog.tables import SERIAL
from fourfold.core.flows import BODY, RunState
from fourfold.core.openlineage import Happened
from fourfold.core.ports.flow_store import Changes
from fourfold.core.times import Instant
from fourfold.resources.flows.openlineage.events import ENDS, of_attempt_end

MOST_WAITING = 100_000
"""Rows kept at most while nobody takes them; the oldest go first, and `export` can still tell them."""

flow_telling = sa.Table(
    "flow_telling",
    metadata,
    sa.Column("seq", SERIAL, primary_key=True),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("call_key", sa.Text, nullable=False),
    sa.Column("n", sa.Integer, nullable=False),
    sa.Column("what", sa.Text, nullable=False),
    # A start that was told stays until its end was: so it is not told twice.
    sa.Column("told_at_us", sa.BigInteger),
    sa.Column("refused", sa.Text),
    sa.UniqueConstraint("run_id", "call_key", "n", "what"),
    sqlite_autoincrement=True,
)


@dataclass(frozen=True, slots=True)
class Telling:
    """Something that happened to a run (its call is empty) or to an attempt, and is to be told."""

    seq: int
    run: str
    call: str
    n: int
    what: Happened


@dataclass(frozen=True, slots=True)
class Aside:
    """A telling that never will be taken, with why, and since when that is known."""

    telling: Telling
    why: str
    at: Instant


class Tellings:
    """Rows about what is still to be told."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def note(self, connection: sa.Connection, changes: Changes) -> bool:
        """Within the loop's commit: what of its changes is to be told; whether anything is."""
        values = [
            {"run_id": run, "call_key": call, "n": n, "what": what.value}
            for run, call, n, happened in _happened(changes)
            for what in happened
        ]
        rows.insert_new(connection, flow_telling, values)
        return bool(values)

    def waiting(self, limit: int) -> tuple[Telling, ...]:
        """The oldest that nobody has taken yet."""
        query = (
            sa.select(flow_telling)
            .where(flow_telling.c.told_at_us.is_(None), flow_telling.c.refused.is_(None))
            .order_by(flow_telling.c.seq)
            .limit(limit)
        )
        with self._catalog.read() as connection:
            return tuple(
                Telling(row.seq, row.run_id, row.call_key, row.n, Happened(row.what))
                for row in connection.execute(query)
            )

    def count(self) -> tuple[int, int]:
        """How many wait, and how many were put aside."""
        query = sa.select(
            sa.func.count().filter(flow_telling.c.told_at_us.is_(None), flow_telling.c.refused.is_(None)),
            sa.func.count().filter(flow_telling.c.refused.is_not(None)),
        )
        with self._catalog.read() as connection:
            waiting, refused = connection.execute(query).one()
            return waiting, refused

    def told(self, at: Instant, tellings: Sequence[Telling]) -> None:
        """Note what was taken; of what has ended nothing is kept."""
        with self._catalog.write() as connection:
            for chunk in rows.chunks([each.seq for each in tellings]):
                here = flow_telling.c.seq.in_(chunk)
                connection.execute(sa.update(flow_telling).where(here).values(told_at_us=at))
            for each in tellings:
                if each.what is not Happened.start:
                    self._forget(connection, each)

    def refuse(self, at: Instant, telling: Telling, why: str) -> None:
        """Put aside what never will be taken."""
        with self._catalog.write() as connection:
            here = flow_telling.c.seq == telling.seq
            connection.execute(sa.update(flow_telling).where(here).values(refused=why[:1000], told_at_us=at))

    def trim(self, most: int = MOST_WAITING) -> int:
        """Let go of the oldest rows beyond `most`; how many."""
        with self._catalog.write() as connection:
            newest = sa.select(flow_telling.c.seq).order_by(flow_telling.c.seq.desc()).offset(most).limit(1)
            bound = connection.execute(newest).scalar()
            if bound is None:
                return 0
            return connection.execute(sa.delete(flow_telling).where(flow_telling.c.seq <= bound)).rowcount

    def refused(self, limit: int = 100) -> tuple[Aside, ...]:
        """What was put aside, newest first."""
        query = (
            sa.select(flow_telling)
            .where(flow_telling.c.refused.is_not(None))
            .order_by(flow_telling.c.seq.desc())
            .limit(limit)
        )
        with self._catalog.read() as connection:
            return tuple(
                Aside(
                    Telling(row.seq, row.run_id, row.call_key, row.n, Happened(row.what)),
                    row.refused,
                    Instant(row.told_at_us),
                )
                for row in connection.execute(query)
            )

    @staticmethod
    def _forget(connection: sa.Connection, ended: Telling) -> None:
        connection.execute(
            sa.delete(flow_telling).where(
                flow_telling.c.run_id == ended.run,
                flow_telling.c.call_key == ended.call,
                flow_telling.c.n == ended.n,
                flow_telling.c.told_at_us.is_not(None),
                flow_telling.c.refused.is_(None),
            )
        )


def _happened(changes: Changes) -> Iterable[tuple[str, str, int, tuple[Happened, ...]]]:
    """(run, call, attempt) and what is to be told. An end brings its start along: a turn may hold both."""
    for event in changes.events:
        if event.what == "run" and event.state == RunState.running:
            yield event.run, "", 0, (Happened.start,)
        elif event.what == "run" and event.state and (end := ENDS.get(RunState(event.state))) is not None:
            yield event.run, "", 0, (Happened.start, end)
    for (run, call, n), attempt in changes.attempts.items():
        if call == BODY or attempt.started_at is None:
            continue
        over = of_attempt_end(attempt)
        yield run, call, n, (Happened.start,) if over is None else (Happened.start, over)
