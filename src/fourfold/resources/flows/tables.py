"""Flow runs in the catalog's database: rows of whole records, with the columns that are searched beside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from fourfold.catalog.database import Catalog, metadata
from fourfold.catalog.rows import Prepared
from fourfold.core.errors import Conflict
from fourfold.core.flows import Attempt, DeployedFlow, FlowRun, RunEvent, RunId, RunState, StepCall
from fourfold.core.ports.flow_store import CacheEntry, Changes, Fenced, OpenRun
from fourfold.core.times import Instant

FORMAT = 1
_OPEN = [state.value for state in RunState if state.is_open]


def _format() -> sa.Column[int]:
    return sa.Column("format", sa.Integer, nullable=False)


flow_owner = sa.Table(
    "flow_owner",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("taken_at_us", sa.BigInteger, nullable=False),
)
flow_run = sa.Table(
    "flow_run",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("flow", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("created_at_us", sa.BigInteger, nullable=False),
    sa.Column("ended_at_us", sa.BigInteger),
    sa.Column("schedule", sa.Text, nullable=False),
    sa.Column("scheduled_for_us", sa.BigInteger),
    sa.Column("idempotency_key", sa.Text, unique=True),
    sa.Column("version", sa.BigInteger, nullable=False),
    _format(),
    sa.Column("record", sa.LargeBinary, nullable=False),
    sa.Index("ix_flow_run_flow_id", "flow", "id"),
    sa.Index("ix_flow_run_state_id", "state", "id"),
)
flow_call = sa.Table(
    "flow_call",
    metadata,
    sa.Column("run_id", sa.Text, sa.ForeignKey("flow_run.id"), primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("seq", sa.Integer, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    _format(),
    sa.Column("record", sa.LargeBinary, nullable=False),
)
flow_attempt = sa.Table(
    "flow_attempt",
    metadata,
    sa.Column("run_id", sa.Text, sa.ForeignKey("flow_run.id"), primary_key=True),
    sa.Column("call_key", sa.Text, primary_key=True),
    sa.Column("n", sa.Integer, primary_key=True),
    sa.Column("leased_at_us", sa.BigInteger, nullable=False),
    sa.Column("ended_at_us", sa.BigInteger),
    _format(),
    sa.Column("record", sa.LargeBinary, nullable=False),
    sa.Index(
        "ix_flow_attempt_open",
        "run_id",
        sqlite_where=sa.text("ended_at_us IS NULL"),
        postgresql_where=sa.text("ended_at_us IS NULL"),
    ),
)
flow_event = sa.Table(
    "flow_event",
    metadata,
    sa.Column(
        "seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True
    ),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("what", sa.Text, nullable=False),
    sa.Column("call_key", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Index("ix_flow_event_run_id_seq", "run_id", "seq"),
)
flow_deployment = sa.Table(
    "flow_deployment",
    metadata,
    sa.Column("flow", sa.Text, primary_key=True),
    _format(),
    sa.Column("record", sa.LargeBinary, nullable=False),
)
flow_cache = sa.Table(
    "flow_cache",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    _format(),
    sa.Column("record", sa.LargeBinary, nullable=False),
)

Also = Callable[[sa.Connection, Changes], None]

_encode = msgspec.json.Encoder().encode
_run = msgspec.json.Decoder(FlowRun).decode
_call = msgspec.json.Decoder(StepCall).decode
_attempt = msgspec.json.Decoder(Attempt).decode
_deployment = msgspec.json.Decoder(DeployedFlow).decode
_cache = msgspec.json.Decoder(CacheEntry).decode


class FlowTables:
    """The `FlowStore` on a catalog, and the queries that listings need."""

    def __init__(self, catalog: Catalog, *, also: Also = lambda _connection, _changes: None) -> None:
        """`also` is called within each commit, to keep what other rooms want to know of it."""
        self._catalog = catalog
        self._also = also
        self._upserts = {
            table.name: Prepared(_upsert(table, is_sqlite=catalog.is_sqlite))
            for table in (flow_run, flow_call, flow_attempt, flow_deployment, flow_cache)
        }
        columns = [column.name for column in flow_event.c if column.name != "seq"]
        self._append_event = Prepared(
            sa.insert(flow_event).values({name: sa.bindparam(name) for name in columns})
        )
        # The write has begun, so on SQLite nobody else can raise the epoch: reading it is enough, and
        # dirties no page. On PostgreSQL the row is locked.
        fence = sa.select(flow_owner.c.epoch).where(flow_owner.c.id == 1)
        self._fence = Prepared(fence if catalog.is_sqlite else fence.with_for_update(read=True))

    # The loop's store

    def take_over(self, owner: str, now: Instant) -> int:
        with self._catalog.write(durable=True) as connection:
            epoch = connection.execute(
                sa.select(flow_owner.c.epoch).where(flow_owner.c.id == 1).with_for_update()
            ).scalar()
            row = {"epoch": (epoch or 0) + 1, "owner": owner, "taken_at_us": now}
            if epoch is None:
                connection.execute(sa.insert(flow_owner).values(id=1, **row))
            else:
                connection.execute(sa.update(flow_owner).where(flow_owner.c.id == 1).values(**row))
            return (epoch or 0) + 1

    def commit(self, epoch: int, changes: Changes) -> None:
        with self._catalog.write() as connection:
            if self._fence.scalar(connection) != epoch:
                raise Fenced(
                    "another process has taken over this project's flows; this one stops",
                    ways_on=["nothing is lost: the other one goes on with all runs"],
                    epoch=epoch,
                )
            try:
                self._write(connection, changes)
                self._also(connection, changes)
            except sa.exc.IntegrityError as error:
                raise Conflict(f"an idempotency key is taken: {error.orig}") from error

    def _write(self, connection: sa.Connection, changes: Changes) -> None:
        for table, rows in (
            ("flow_run", [_run_row(run) for run in changes.runs.values()]),
            ("flow_call", [_call_row(call) for call in changes.calls.values()]),
            ("flow_attempt", [_attempt_row(attempt) for attempt in changes.attempts.values()]),
            ("flow_deployment", [_deployed_row(deployed) for deployed in changes.deployments.values()]),
            ("flow_cache", [_cache_row(entry) for entry in changes.cache.values()]),
        ):
            self._upserts[table].execute(connection, rows)
        self._append_event.execute(connection, [_event_row(event) for event in changes.events])

    def load_open(self) -> tuple[OpenRun, ...]:
        with self._catalog.read() as connection:
            has_attempt = flow_run.c.id.in_(
                sa.select(flow_attempt.c.run_id).where(flow_attempt.c.ended_at_us.is_(None))
            )
            found = connection.execute(
                sa.select(flow_run.c.record)
                .where(flow_run.c.state.in_(_OPEN) | has_attempt)
                .order_by(flow_run.c.id)
            )
            return tuple(self._open(connection, _run(record)) for (record,) in found.fetchall())

    def load(self, run: RunId) -> OpenRun | None:
        with self._catalog.read() as connection:
            record = connection.execute(sa.select(flow_run.c.record).where(flow_run.c.id == run)).scalar()
            return None if record is None else self._open(connection, _run(record))

    def _open(self, connection: sa.Connection, run: FlowRun) -> OpenRun:
        attempts = connection.execute(
            sa.select(flow_attempt.c.record)
            .where(flow_attempt.c.run_id == run.id, flow_attempt.c.ended_at_us.is_(None))
            .order_by(flow_attempt.c.call_key, flow_attempt.c.n)
        )
        return OpenRun(
            run, self._calls(connection, run.id), tuple(_attempt(record) for (record,) in attempts)
        )

    def _calls(self, connection: sa.Connection, run: str) -> tuple[StepCall, ...]:
        found = connection.execute(
            sa.select(flow_call.c.record).where(flow_call.c.run_id == run).order_by(flow_call.c.seq)
        )
        return tuple(_call(record) for (record,) in found)

    def run_by_key(self, key: str) -> FlowRun | None:
        with self._catalog.read() as connection:
            record = connection.execute(
                sa.select(flow_run.c.record).where(flow_run.c.idempotency_key == key)
            ).scalar()
            return None if record is None else _run(record)

    def cached(self, key: str) -> CacheEntry | None:
        with self._catalog.read() as connection:
            record = connection.execute(
                sa.select(flow_cache.c.record).where(flow_cache.c.key == key)
            ).scalar()
            return None if record is None else _cache(record)

    def deployments(self) -> Sequence[DeployedFlow]:
        with self._catalog.read() as connection:
            found = connection.execute(sa.select(flow_deployment.c.record).order_by(flow_deployment.c.flow))
            return [_deployment(record) for (record,) in found]

    # Listings

    def runs(self, *, flow: str, state: str, before: str, limit: int) -> tuple[FlowRun, ...]:
        """Runs, newest first."""
        query = sa.select(flow_run.c.record).order_by(flow_run.c.id.desc()).limit(limit)
        if flow:
            query = query.where(flow_run.c.flow == flow)
        if state:
            query = query.where(flow_run.c.state == state)
        if before:
            query = query.where(flow_run.c.id < before)
        with self._catalog.read() as connection:
            return tuple(_run(record) for (record,) in connection.execute(query))

    def since(self, at: Instant, after: str, limit: int) -> tuple[str, ...]:
        """Runs made at or after an instant, oldest first, from the one after `after`."""
        query = sa.select(flow_run.c.id).where(flow_run.c.created_at_us >= at, flow_run.c.id > after)
        with self._catalog.read() as connection:
            return tuple(connection.execute(query.order_by(flow_run.c.id).limit(limit)).scalars())

    def graph(self, run: str) -> tuple[FlowRun, tuple[StepCall, ...], tuple[Attempt, ...]] | None:
        """A run with all its calls and all their attempts."""
        with self._catalog.read() as connection:
            record = connection.execute(sa.select(flow_run.c.record).where(flow_run.c.id == run)).scalar()
            if record is None:
                return None
            attempts = connection.execute(
                sa.select(flow_attempt.c.record)
                .where(flow_attempt.c.run_id == run)
                .order_by(flow_attempt.c.leased_at_us, flow_attempt.c.call_key, flow_attempt.c.n)
            )
            return (
                _run(record),
                self._calls(connection, run),
                tuple(_attempt(record) for (record,) in attempts),
            )

    def run(self, run: str) -> FlowRun | None:
        with self._catalog.read() as connection:
            record = connection.execute(sa.select(flow_run.c.record).where(flow_run.c.id == run)).scalar()
            return None if record is None else _run(record)

    def call(self, run: str, key: str) -> StepCall | None:
        with self._catalog.read() as connection:
            record = connection.execute(
                sa.select(flow_call.c.record).where(flow_call.c.run_id == run, flow_call.c.key == key)
            ).scalar()
            return None if record is None else _call(record)

    def attempt(self, run: str, key: str, n: int) -> Attempt | None:
        """An attempt; the latest when `n` is 0."""
        query = sa.select(flow_attempt.c.record).where(
            flow_attempt.c.run_id == run, flow_attempt.c.call_key == key
        )
        if n:
            query = query.where(flow_attempt.c.n == n)
        with self._catalog.read() as connection:
            record = connection.execute(query.order_by(flow_attempt.c.n.desc()).limit(1)).scalar()
            return None if record is None else _attempt(record)

    def events(self, run: str, *, after: int, limit: int) -> tuple[RunEvent, ...]:
        """What happened to a run, in order."""
        query = (
            sa.select(flow_event)
            .where(flow_event.c.run_id == run, flow_event.c.seq > after)
            .order_by(flow_event.c.seq)
            .limit(limit)
        )
        with self._catalog.read() as connection:
            return tuple(
                RunEvent(
                    RunId(row.run_id),
                    Instant(row.at_us),
                    row.what,
                    row.call_key,
                    row.state,
                    row.reason,
                    row.seq,
                )
                for row in connection.execute(query)
            )


def _upsert(table: sa.Table, *, is_sqlite: bool) -> Any:
    """Write whole rows; writing one again replaces it."""
    insert: Any = sqlite.insert(table) if is_sqlite else postgresql.insert(table)
    keys = [column.name for column in table.primary_key]
    rest = {column.name: insert.excluded[column.name] for column in table.c if column.name not in keys}
    values: dict[str, Any] = {column.name: sa.bindparam(column.name) for column in table.c}
    return insert.values(values).on_conflict_do_update(index_elements=keys, set_=rest)


def _run_row(run: FlowRun) -> dict[str, Any]:
    return {
        "id": run.id,
        "flow": run.flow,
        "state": run.state.value,
        "created_at_us": run.created_at,
        "ended_at_us": run.ended_at,
        "schedule": run.schedule,
        "scheduled_for_us": run.scheduled_for,
        "idempotency_key": run.key or None,
        "version": run.version,
        "format": FORMAT,
        "record": _encode(run),
    }


def _call_row(call: StepCall) -> dict[str, Any]:
    return {
        "run_id": call.run,
        "key": call.key,
        "seq": call.seq,
        "name": call.name,
        "state": call.state.value,
        "format": FORMAT,
        "record": _encode(call),
    }


def _attempt_row(attempt: Attempt) -> dict[str, Any]:
    return {
        "run_id": attempt.run,
        "call_key": attempt.call,
        "n": attempt.n,
        "leased_at_us": attempt.leased_at,
        "ended_at_us": attempt.ended_at,
        "format": FORMAT,
        "record": _encode(attempt),
    }


def _deployed_row(deployed: DeployedFlow) -> dict[str, Any]:
    return {"flow": deployed.flow, "format": FORMAT, "record": _encode(deployed)}


def _cache_row(entry: CacheEntry) -> dict[str, Any]:
    return {"key": entry.key, "at_us": entry.at, "format": FORMAT, "record": _encode(entry)}


def _event_row(event: RunEvent) -> dict[str, Any]:
    return {
        "run_id": event.run,
        "at_us": event.at,
        "what": event.what,
        "call_key": event.call,
        "state": event.state,
        "reason": event.reason,
    }
