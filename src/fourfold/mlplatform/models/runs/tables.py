"""The tables of runs, and the only code that reads and writes them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from fourfold.catalog.database import metadata
from fourfold.core import wire
from fourfold.core.context import Ref
from fourfold.core.errors import Conflict, NotFound, Refused
from fourfold.core.models import (
    Code,
    Experiment,
    Host,
    Metric,
    NewRun,
    Run,
    RunFile,
    RunStatus,
    Scalar,
)
from fourfold.core.ports.blobs import Digest
from fourfold.core.times import Instant

FORMAT = 1

experiment = sa.Table(
    "model_experiment",
    metadata,
    sa.Column("name", sa.String(250), primary_key=True),
    sa.Column("created_at_us", sa.BigInteger, nullable=False),
)

run = sa.Table(
    "model_run",
    metadata,
    # A small integer for the tables below: a metric's row is then half as long.
    sa.Column("row", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String(40), nullable=False, unique=True),
    sa.Column("key", sa.String(400), unique=True),
    sa.Column("format", sa.Integer, nullable=False, default=FORMAT),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("name", sa.String(250), nullable=False),
    sa.Column("experiment", sa.ForeignKey("model_experiment.name"), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("by", sa.String(250), nullable=False),
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column("started_at_us", sa.BigInteger, nullable=False),
    sa.Column("ended_at_us", sa.BigInteger),
    sa.Column("seen_at_us", sa.BigInteger, nullable=False),
    sa.Column("environment", sa.String(80), nullable=False),
    sa.Column("commit", sa.String(64), nullable=False),
    sa.Column("flow_run", sa.String(80), nullable=False),
    sa.Column("facts", sa.Text, nullable=False),  # JSON: what is shown and never searched
    sa.Index(None, "experiment", "started_at_us"),
    sa.Index(None, "status", "seen_at_us"),
    sa.Index(None, "started_at_us"),
)

run_param = sa.Table(
    "model_run_param",
    metadata,
    sa.Column("run", sa.ForeignKey("model_run.row", ondelete="CASCADE"), primary_key=True),
    sa.Column("key", sa.String(250), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),  # JSON: gives the value back with its type
    sa.Column("text", sa.Text, nullable=False),  # as people write it: compared with text
    sa.Column("number", sa.Float(53)),  # compared with numbers
    sa.Index(None, "key", "number"),
    sqlite_with_rowid=False,
)

run_tag = sa.Table(
    "model_run_tag",
    metadata,
    sa.Column("run", sa.ForeignKey("model_run.row", ondelete="CASCADE"), primary_key=True),
    sa.Column("key", sa.String(250), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
    sa.Index(None, "key"),
    sqlite_with_rowid=False,
)

run_file = sa.Table(
    "model_run_file",
    metadata,
    sa.Column("run", sa.ForeignKey("model_run.row", ondelete="CASCADE"), primary_key=True),
    sa.Column("path", sa.String(1024), primary_key=True),
    sa.Column("digest", sa.String(80), nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

metric = sa.Table(
    "model_metric",
    metadata,
    sa.Column("run", sa.ForeignKey("model_run.row", ondelete="CASCADE"), primary_key=True),
    sa.Column("key", sa.String(250), primary_key=True),
    sa.Column("step", sa.BigInteger, primary_key=True),
    sa.Column("at_us", sa.BigInteger, primary_key=True),
    sa.Column(
        "value", sa.Float(53)
    ),  # null is NaN: SQLite has no NaN, and PostgreSQL sorts it as the greatest
    sqlite_with_rowid=False,  # clustered by its key: one B-tree, and a curve is one range of it
)

metric_latest = sa.Table(
    "model_metric_latest",
    metadata,
    sa.Column("run", sa.ForeignKey("model_run.row", ondelete="CASCADE"), primary_key=True),
    sa.Column("key", sa.String(250), primary_key=True),
    sa.Column("step", sa.BigInteger, nullable=False),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("value", sa.Float(53)),
    sa.Index(None, "key", "value", "run"),  # "the best runs by this metric" reads only the page it shows
    sqlite_with_rowid=False,
)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a run's row keeps as JSON."""

    code: Code = Code()
    host: Host = Host()
    seed: int | None = None
    data: tuple[Ref, ...] = ()
    step: Ref | None = None


_INSERT = run.insert().returning(run.c.row)


def begin(connection: sa.Connection, run_id: str, new: NewRun, *, key: str, by: str, now: Instant) -> str:
    """Insert a run, or begin the run of this key anew for a later attempt. Returns its id."""
    _insert_missing(connection, experiment, [{"name": new.experiment, "created_at_us": now}])
    flow_run = new.step.name.partition("/")[0] if new.step else ""
    values = {
        "format": FORMAT,
        "attempt": new.attempt,
        "name": new.name,
        "experiment": new.experiment,
        "status": RunStatus.running.value,
        "by": by,
        "reason": "",
        "started_at_us": now,
        "ended_at_us": None,
        "seen_at_us": now,
        "environment": new.environment,
        "commit": new.code.commit,
        "flow_run": flow_run,
        "facts": wire.encode(Facts(new.code, new.host, new.seed, new.data, new.step)).decode(),
    }
    present = None
    if key:
        # Locked: two attempts of one call may arrive together.
        present = connection.execute(
            sa.select(run.c.row, run.c.id, run.c.attempt).where(run.c.key == key).with_for_update()
        ).one_or_none()
    if present is None:
        fresh = {"id": run_id, "key": key or None, **values}
        row = connection.execute(_INSERT, fresh).scalar_one()
    else:
        if new.attempt < present.attempt:
            raise Conflict(
                f"run {present.id} belongs to attempt {present.attempt}; attempt {new.attempt} is over",
                run=present.id,
            )
        row, run_id = present.row, present.id
        if new.attempt > present.attempt:
            for table in (run_param, run_tag, run_file, metric, metric_latest):
                connection.execute(table.delete().where(table.c.run == row))
            connection.execute(run.update().where(run.c.row == row).values(**values))
    add_params(connection, row, run_id, new.params)
    add_tags(connection, row, new.tags)
    return run_id


_now = sa.bindparam("now", type_=sa.BigInteger)
_is_lost = run.c.status == RunStatus.lost.value
_LOCATE = (
    run.update()
    .where(run.c.id == sa.bindparam("wanted"), run.c.attempt == sa.bindparam("mine"))
    .values(
        # A commit may overtake another one's clock reading; the latest sign of life counts.
        seen_at_us=sa.case((run.c.seen_at_us > _now, run.c.seen_at_us), else_=_now),
        # A run that was given up for lost and speaks again was not lost.
        status=sa.case((_is_lost, RunStatus.running.value), else_=run.c.status),
        reason=sa.case((_is_lost, ""), else_=run.c.reason),
        ended_at_us=sa.case((_is_lost, None), else_=run.c.ended_at_us),
    )
    .returning(run.c.row)
)
"""Built once: building it costs more than running it."""


def locate(connection: sa.Connection, run_id: str, *, attempt: int, now: Instant) -> int:
    """The row of a run that may be written to: a sign of life, and a fence against older attempts."""
    found = connection.execute(_LOCATE, {"wanted": run_id, "mine": attempt, "now": now}).scalar_one_or_none()
    if found is not None:
        return int(found)
    held = connection.execute(sa.select(run.c.attempt).where(run.c.id == run_id)).scalar_one_or_none()
    if held is None:
        raise NotFound(f"run {run_id} does not exist", run=run_id)
    raise Conflict(f"run {run_id} belongs to attempt {held}; attempt {attempt} is over", run=run_id)


def add_params(connection: sa.Connection, row: int, run_id: str, params: Mapping[str, Scalar]) -> None:
    """Add parameters; one that is there already must have the same value."""
    if not params:
        return
    rows = [{"run": row, "key": key, **_param(value)} for key, value in sorted(params.items())]
    _insert_missing(connection, run_param, rows)
    kept = {
        each.key: each.value
        for each in connection.execute(
            sa.select(run_param.c.key, run_param.c.value).where(
                run_param.c.run == row, run_param.c.key.in_(list(params))
            )
        )
    }
    changed = [
        f"{each['key']}: {kept[each['key']]}, not {each['value']}"
        for each in rows
        if kept[each["key"]] != each["value"]
    ]
    if changed:
        raise Refused(
            f"a parameter of run {run_id} keeps its first value",
            ways_on=[*changed, "begin another run, or log what changes as a metric or a tag"],
            run=run_id,
        )


def add_tags(connection: sa.Connection, row: int, tags: Mapping[str, str]) -> None:
    """Add tags; the new value of one that is there wins."""
    rows = [{"run": row, "key": key, "value": value} for key, value in sorted(tags.items())]
    _upsert(connection, run_tag, rows, update=("value",))


def add_metrics(connection: sa.Connection, row: int, metrics: Sequence[Metric], *, now: Instant) -> None:
    """Add points; a point with the same key, step and time takes the place of the one there."""
    if not metrics:
        return
    points: dict[tuple[str, int, int], float | None] = {}
    for each in metrics:
        value = wire.number(each.value)
        points[each.key, each.step, each.at or now] = None if math.isnan(value) else value
    rows = [
        {"run": row, "key": key, "step": step, "at_us": at, "value": value}
        for (key, step, at), value in sorted(points.items(), key=lambda item: item[0])
    ]
    _upsert(connection, metric, rows, update=("value",))
    # Sorted by step and time, the last one of a key is the greatest.
    latest = list({each["key"]: each for each in rows}.values())
    connection.execute(_keep_newest(connection.dialect.name), latest)


def add_file(connection: sa.Connection, row: int, file: RunFile) -> None:
    """Record a file; the same path again replaces it."""
    values = {"run": row, "path": file.path, "digest": file.digest, "size_bytes": file.size_bytes}
    _upsert(connection, run_file, [values], update=("digest", "size_bytes"))


def end(connection: sa.Connection, row: int, *, status: RunStatus, reason: str, now: Instant) -> bool:
    """End a run; false if it had ended already (which stays as it was)."""
    changed = connection.execute(
        run.update()
        .where(run.c.row == row, run.c.status == RunStatus.running.value)
        .values(status=status.value, reason=reason, ended_at_us=now)
    )
    return changed.rowcount == 1


def give_up(connection: sa.Connection, run_id: str, *, seen_at: Instant, reason: str) -> None:
    """Mark a run lost, unless it spoke meanwhile. It ended when it was last heard of."""
    connection.execute(
        run.update()
        .where(run.c.id == run_id, run.c.status == RunStatus.running.value, run.c.seen_at_us == seen_at)
        .values(status=RunStatus.lost.value, reason=reason, ended_at_us=seen_at)
    )


def still_running(connection: sa.Connection, *, limit: int) -> tuple[Run, ...]:
    """Runs that say they are running, the longest silent first; without their metrics and files."""
    rows = connection.execute(
        sa.select(run)
        .where(run.c.status == RunStatus.running.value)
        .order_by(run.c.seen_at_us, run.c.row)
        .limit(limit)
    ).all()
    return tuple(_value(row, {}, {}, {}, ()) for row in rows)


def get(connection: sa.Connection, run_id: str) -> Run:
    """One run, whole."""
    row = connection.execute(sa.select(run).where(run.c.id == run_id)).one_or_none()
    if row is None:
        raise NotFound(f"run {run_id} does not exist", ways_on=["list the runs: fourfold run ls"], run=run_id)
    return whole(connection, [row])[0]


def curve(connection: sa.Connection, run_id: str, key: str, *, limit: int, offset: int) -> tuple[Metric, ...]:
    """A metric's points by step, then time."""
    row = connection.execute(sa.select(run.c.row).where(run.c.id == run_id)).scalar_one_or_none()
    if row is None:
        raise NotFound(f"run {run_id} does not exist", run=run_id)
    points = connection.execute(
        sa.select(metric.c.value, metric.c.step, metric.c.at_us)
        .where(metric.c.run == row, metric.c.key == key)
        .order_by(metric.c.step, metric.c.at_us)
        .limit(limit)
        .offset(offset)
    )
    return tuple(Metric(key, _number(value), step, Instant(at)) for value, step, at in points)


def experiments(connection: sa.Connection) -> tuple[Experiment, ...]:
    """All experiments with how many runs each has."""
    rows = connection.execute(
        sa.select(experiment.c.name, experiment.c.created_at_us, sa.func.count(run.c.row))
        .join_from(experiment, run, isouter=True)
        .group_by(experiment.c.name, experiment.c.created_at_us)
        .order_by(experiment.c.name)
    )
    return tuple(Experiment(name, Instant(at), count) for name, at, count in rows)


# -- rows to values ---------------------------------------------------------------------------------


def _of_some(table: sa.Table, order: str, *columns: str) -> sa.Select[Any]:
    """The rows that belong to `some` runs; built once."""
    wanted = table.c.run.in_(sa.bindparam("some", expanding=True))
    return sa.select(*(table.c[name] for name in ("run", *columns))).where(wanted).order_by("run", order)


_PARAMS = _of_some(run_param, "key", "key", "value")
_LATEST = _of_some(metric_latest, "key", "key", "value")
_TAGS = _of_some(run_tag, "key", "key", "value")
_FILES = _of_some(run_file, "path", "path", "digest", "size_bytes")


def whole(connection: sa.Connection, rows: Sequence[sa.Row[Any]]) -> tuple[Run, ...]:
    """Runs with their parameters, metrics, tags and files: four queries, however many runs."""
    wanted = [row.row for row in rows]
    params: dict[int, dict[str, Scalar]] = {}
    metrics: dict[int, dict[str, wire.Number]] = {}
    tags: dict[int, dict[str, str]] = {}
    files: dict[int, list[RunFile]] = {}
    for start in range(0, len(wanted), 500):  # databases bound the parameters of a statement
        some = wanted[start : start + 500]
        for owner, key, value in connection.execute(_PARAMS, {"some": some}):
            params.setdefault(owner, {})[key] = wire.decode(value, Scalar)  # type: ignore[arg-type]  # a union is no class
        for owner, key, value in connection.execute(_LATEST, {"some": some}):
            metrics.setdefault(owner, {})[key] = _number(value)
        for owner, key, value in connection.execute(_TAGS, {"some": some}):
            tags.setdefault(owner, {})[key] = value
        for row in connection.execute(_FILES, {"some": some}):
            files.setdefault(row.run, []).append(RunFile(row.path, Digest(row.digest), row.size_bytes))
    return tuple(
        _value(
            row,
            params.get(row.row, {}),
            metrics.get(row.row, {}),
            tags.get(row.row, {}),
            tuple(files.get(row.row, ())),
        )
        for row in rows
    )


def _value(
    row: sa.Row[Any],
    params: Mapping[str, Scalar],
    metrics: Mapping[str, wire.Number],
    tags: Mapping[str, str],
    files: tuple[RunFile, ...],
) -> Run:
    facts = wire.decode(row.facts, Facts, what=f"run {row.id}")
    return Run(
        id=row.id,
        name=row.name,
        experiment=row.experiment,
        status=RunStatus(row.status),
        by=row.by,
        started_at=Instant(row.started_at_us),
        ended_at=None if row.ended_at_us is None else Instant(row.ended_at_us),
        reason=row.reason,
        params=params,
        metrics=metrics,
        tags=tags,
        files=files,
        data=facts.data,
        code=facts.code,
        environment=row.environment,
        seed=facts.seed,
        host=facts.host,
        step=facts.step,
        attempt=row.attempt,
        seen_at=Instant(row.seen_at_us),
    )


def _number(stored: float | None) -> wire.Number:
    return "NaN" if stored is None else wire.number_out(stored)


def _param(value: Scalar) -> dict[str, object]:
    if isinstance(value, float) and not math.isfinite(value):
        text = str(wire.number_out(value))
        return {"value": wire.encode(text).decode(), "text": text, "number": None}
    number = float(value) if isinstance(value, int | float) and abs(value) < 2**63 else None
    return {"value": wire.encode(value).decode(), "text": plain_text(value), "number": number}


def plain_text(value: Scalar) -> str:
    """A parameter as people write it: `5`, not `5.0`, when it is whole and came as a number."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return str(value)


# -- inserts that both databases know ---------------------------------------------------------------


def _insert(dialect: str, table: sa.Table) -> Any:
    """The dialect's own insert; both have `on_conflict_do_...`, and SQLAlchemy has no common word."""
    return (sqlite if dialect == "sqlite" else postgresql).insert(table)


def _insert_missing(connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]]) -> None:
    if rows:
        connection.execute(_missing(connection.dialect.name, table), rows)


def _upsert(
    connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]], *, update: tuple[str, ...]
) -> None:
    if rows:
        connection.execute(_replacing(connection.dialect.name, table, update), rows)


@cache
def _missing(dialect: str, table: sa.Table) -> Any:
    return _insert(dialect, table).on_conflict_do_nothing()


@cache
def _replacing(dialect: str, table: sa.Table, update: tuple[str, ...]) -> Any:
    insert = _insert(dialect, table)
    keys = [column.name for column in table.primary_key]
    values = {column: insert.excluded[column] for column in update}
    return insert.on_conflict_do_update(index_elements=keys, set_=values)


@cache
def _keep_newest(dialect: str) -> Any:
    """The latest point of a metric: the one there, or the one given, whichever is of the later step."""
    insert = _insert(dialect, metric_latest)
    theirs = insert.excluded
    is_newer = sa.or_(
        theirs.step > metric_latest.c.step,
        sa.and_(theirs.step == metric_latest.c.step, theirs.at_us >= metric_latest.c.at_us),
    )
    return insert.on_conflict_do_update(
        index_elements=["run", "key"],
        set_={"step": theirs.step, "at_us": theirs.at_us, "value": theirs.value},
        where=is_newer,
    )
