"""The compute room's tables: units' measurements, jobs with their use and cost, environments."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from fourfold.catalog.database import Catalog, metadata
from fourfold.catalog.rows import Prepared
from fourfold.core import wire
from fourfold.core.compute import (
    Account,
    Bound,
    EnvironmentRecord,
    Figure,
    Held,
    Job,
    JobReport,
    JobTotals,
    Measurement,
    Unit,
)
from fourfold.core.decide.pools import pool_of
from fourfold.core.environment import Environment
from fourfold.core.ports.engine import Exit, ExitKind, Usage
from fourfold.core.quality import TimeToQuality
from fourfold.core.times import Instant
from fourfold.core.trace import MOST_POINTS

UNIT = sa.Table(
    "compute_unit",
    metadata,
    sa.Column("fingerprint", sa.String(32), primary_key=True),
    sa.Column("format", sa.Integer, nullable=False, default=1),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("unit", sa.Text, nullable=False),  # the whole `Unit` as JSON
    sa.Column("first_seen_at_us", sa.BigInteger, nullable=False),
)

MEASUREMENT = sa.Table(
    "compute_measurement",
    metadata,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("format", sa.Integer, nullable=False, default=1),
    sa.Column("unit", sa.String(200), nullable=False),
    sa.Column(
        "fingerprint", sa.String(32), sa.ForeignKey("compute_unit.fingerprint"), nullable=False, index=True
    ),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("duration_s", sa.Float, nullable=False),
    sa.Column("is_quick", sa.Boolean, nullable=False),
    sa.Column("figures", sa.Text, nullable=False),  # JSON: read whole, never searched
    sa.Column("versions", sa.Text, nullable=False),
    sa.Column("other_cores_busy", sa.Float, nullable=False),
    sa.Column("notes", sa.Text, nullable=False),
)

QUALITY = sa.Table(
    "compute_quality",
    metadata,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("format", sa.Integer, nullable=False, default=1),
    sa.Column(
        "fingerprint", sa.String(32), sa.ForeignKey("compute_unit.fingerprint"), nullable=False, index=True
    ),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("result", sa.Text, nullable=False),  # the whole `TimeToQuality` as JSON: never searched
)

JOB = sa.Table(
    "compute_job",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("format", sa.Integer, nullable=False, default=1),
    sa.Column("kind", sa.String(20), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("flow_run", sa.String(80), nullable=False, index=True),
    sa.Column("unit", sa.String(200), nullable=False),
    sa.Column("environment", sa.String(80), nullable=False),
    sa.Column("user_name", sa.String(200), nullable=False),
    sa.Column("started_at_us", sa.BigInteger, nullable=False),
    sa.Column("ended_at_us", sa.BigInteger, nullable=False, index=True),
    sa.Column("exit_kind", sa.String(20), nullable=False),
    sa.Column("exit_reason", sa.Text, nullable=False),
    sa.Column("exit_code", sa.Integer),
    sa.Column("wall_s", sa.Float, nullable=False),
    sa.Column("cpu_s", sa.Float),
    sa.Column("memory_peak_bytes", sa.BigInteger),
    sa.Column("memory_peak_is_exact", sa.Boolean, nullable=False),
    sa.Column("read_bytes", sa.BigInteger),
    sa.Column("written_bytes", sa.BigInteger),
    sa.Column("flops", sa.Float),
    sa.Column("held_cpu", sa.Float, nullable=False),
    sa.Column("held_memory_bytes", sa.BigInteger, nullable=False),
    sa.Column("held_gpu", sa.Float, nullable=False),
    sa.Column("utilisation", sa.Float),
    sa.Column("flops_utilisation", sa.Float),
    sa.Column("memory_utilisation", sa.Float),
    sa.Column("price_usd_per_hour", sa.Float, nullable=False),  # at that moment; never summed
    sa.Column("unit_share", sa.Float, nullable=False),
    sa.Column("cost_nanousd", sa.BigInteger, nullable=False),
    sa.Column("bound", sa.String(20), nullable=False),
    sa.Column("sentence", sa.Text, nullable=False),
)

USE = sa.Table(
    "compute_use",
    metadata,
    sa.Column("key", sa.Text, sa.ForeignKey("compute_job.key"), primary_key=True),
    sa.Column("format", sa.Integer, nullable=False, default=1),
    sa.Column("ended_at_us", sa.BigInteger, nullable=False, index=True),
    sa.Column("memory_mean_bytes", sa.BigInteger),
    sa.Column("disk_wait_s", sa.Float),
    sa.Column("network_bytes", sa.BigInteger),
    sa.Column("gpu_s", sa.Float),
    sa.Column("gpu_memory_peak_bytes", sa.BigInteger),
    sa.Column("points", sa.Text),  # JSON: read whole, never searched; null once let go
)
"""Use over time, of jobs that took long enough to be looked at: most steps are shorter, and have none."""

MOST_QUALITIES = 1000
"""So many of the newest times to quality are searched for those of one pool: their unit is in the result."""
MOST_TRACES = 20_000
"""The newest jobs whose points are kept; each has at most `core.trace.MOST_POINTS`, about 3 kB."""
LET_GO_EVERY = 256
"""How often, in uses written by this process, the oldest points are let go."""

ENVIRONMENT = sa.Table(
    "compute_environment",
    metadata,
    sa.Column("identity", sa.String(80), primary_key=True),
    sa.Column("format", sa.Integer, nullable=False, default=1),
    sa.Column("python", sa.String(40), nullable=False),
    sa.Column("platform", sa.String(80), nullable=False),
    sa.Column("package_count", sa.Integer, nullable=False),
    sa.Column("origin", sa.String(20), nullable=False),
    sa.Column("lock", sa.Text, nullable=False),
    sa.Column("first_seen_at_us", sa.BigInteger, nullable=False),
)


USED = (
    USE.c.memory_mean_bytes,
    USE.c.disk_wait_s,
    USE.c.network_bytes,
    USE.c.gpu_s,
    USE.c.gpu_memory_peak_bytes,
)


class ComputeTables:
    """What the room reads and writes, over a catalog. `..._in` methods join a unit of work that is open."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._new_job: Prepared | None = None
        self._uses_written = 0

    # Jobs.

    def record_jobs_in(self, connection: sa.Connection, jobs: Sequence[Job]) -> None:
        """Insert jobs in one statement; keys recorded before stay as they are."""
        if jobs:
            if self._new_job is None:
                self._new_job = Prepared(_insert_new(connection, JOB, "key").values(_bound(JOB)))
            self._new_job.execute(connection, [_job_row(job) for job in jobs])
            self._keep_uses(connection, [job.report for job in jobs if _was_looked_at(job.report.usage)])

    def _keep_uses(self, connection: sa.Connection, reports: Sequence[JobReport]) -> None:
        if not reports:
            return
        connection.execute(_insert_new(connection, USE, "key"), [_use_row(report) for report in reports])
        before, self._uses_written = self._uses_written, self._uses_written + len(reports)
        if before // LET_GO_EVERY != self._uses_written // LET_GO_EVERY:
            newest = sa.select(USE.c.ended_at_us).order_by(USE.c.ended_at_us.desc())
            oldest_kept = connection.execute(newest.offset(MOST_TRACES - 1).limit(1)).scalar()
            if oldest_kept is not None:
                old = (USE.c.ended_at_us < oldest_kept) & USE.c.points.is_not(None)
                connection.execute(sa.update(USE).where(old).values(points=None))

    def record_jobs(self, jobs: Sequence[Job]) -> None:
        with self._catalog.write() as connection:
            self.record_jobs_in(connection, jobs)

    def jobs(self, flow_run: str | None, limit: int, *, has_traces: bool = False) -> tuple[Job, ...]:
        """Newest first; of one flow run in the order of their start."""
        used = (*USED, USE.c.points) if has_traces else USED
        query = sa.select(JOB, *used).join(USE, JOB.c.key == USE.c.key, isouter=True).limit(limit)
        if flow_run is None:
            query = query.order_by(JOB.c.ended_at_us.desc(), JOB.c.key)
        else:
            query = query.where(JOB.c.flow_run == flow_run).order_by(JOB.c.started_at_us, JOB.c.key)
        with self._catalog.read() as connection:
            return tuple(_job(row) for row in connection.execute(query).mappings())

    def job(self, key: str) -> Job | None:
        with self._catalog.read() as connection:
            query = sa.select(JOB, *USED, USE.c.points).join(USE, JOB.c.key == USE.c.key, isouter=True)
            row = connection.execute(query.where(JOB.c.key == key)).mappings().one_or_none()
        return None if row is None else _job(row)

    def newest_steps(self, name: str | None, limit: int) -> tuple[Job, ...]:
        """Steps that held something of their unit, newest first; of one name, or all."""
        query = sa.select(JOB, *USED).join(USE, JOB.c.key == USE.c.key, isouter=True)
        query = query.where(JOB.c.kind == "step", JOB.c.held_cpu > 0)
        if name is not None:
            query = query.where(JOB.c.name == name)
        query = query.order_by(JOB.c.ended_at_us.desc(), JOB.c.key).limit(limit)
        with self._catalog.read() as connection:
            return tuple(_job(row) for row in connection.execute(query).mappings())

    def steps_of(self, flow_runs: Sequence[str], limit: int) -> tuple[Job, ...]:
        """Steps of these runs that held something of their unit, newest first."""
        query = sa.select(JOB, *USED).join(USE, JOB.c.key == USE.c.key, isouter=True)
        query = query.where(JOB.c.kind == "step", JOB.c.held_cpu > 0, JOB.c.flow_run.in_(flow_runs))
        query = query.order_by(JOB.c.ended_at_us.desc(), JOB.c.key).limit(limit)
        with self._catalog.read() as connection:
            return tuple(_job(row) for row in connection.execute(query).mappings())

    def newest_keys(self, limit: int = 200) -> tuple[str, ...]:
        with self._catalog.read() as connection:
            query = sa.select(JOB.c.key).order_by(JOB.c.ended_at_us.desc()).limit(limit)
            return tuple(connection.execute(query).scalars())

    def totals(self, flow_run: str | None) -> JobTotals:
        """Sums over all jobs, or those of one flow run; money is summed as integers."""
        measured = JOB.c.cpu_s.is_not(None)
        held_s = JOB.c.wall_s * JOB.c.held_cpu
        query = sa.select(
            sa.func.count(),
            sa.func.coalesce(sa.func.sum(JOB.c.wall_s), 0.0),
            sa.func.coalesce(sa.func.sum(JOB.c.cpu_s), 0.0),
            sa.func.coalesce(sa.func.max(JOB.c.memory_peak_bytes), 0),
            sa.func.coalesce(sa.func.sum(JOB.c.cost_nanousd), 0),
            sa.func.coalesce(sa.func.sum(sa.case((measured, held_s), else_=0.0)), 0.0),
        )
        if flow_run is not None:
            query = query.where(JOB.c.flow_run == flow_run)
        with self._catalog.read() as connection:
            count, wall_s, cpu_s, peak, cost, held = connection.execute(query).one()
        return JobTotals(count, float(wall_s), float(cpu_s), peak, int(cost), cpu_s / held if held else None)

    # Units and measurements.

    def add_measurement(self, unit: Unit, measurement: Measurement) -> None:
        with self._catalog.write() as connection:
            _know_unit(connection, unit, measurement.at)
            connection.execute(sa.insert(MEASUREMENT), _measurement_row(measurement))

    def measurements(self, fingerprint: str, limit: int) -> tuple[Measurement, ...]:
        """Those of this hardware, newest first."""
        query = (
            sa.select(MEASUREMENT)
            .where(MEASUREMENT.c.fingerprint == fingerprint)
            .order_by(MEASUREMENT.c.at_us.desc(), MEASUREMENT.c.id.desc())
            .limit(limit)
        )
        with self._catalog.read() as connection:
            return tuple(_measurement(row) for row in connection.execute(query).mappings())

    def measurements_of_pool(self, pool: str, limit: int) -> tuple[Measurement, ...]:
        """Those of the units of a pool, of whatever hardware, newest first."""
        is_of_pool = (MEASUREMENT.c.unit == pool) | MEASUREMENT.c.unit.startswith(f"{pool}/", autoescape=True)
        query = sa.select(MEASUREMENT).where(is_of_pool)
        query = query.order_by(MEASUREMENT.c.at_us.desc(), MEASUREMENT.c.id.desc()).limit(limit)
        with self._catalog.read() as connection:
            return tuple(_measurement(row) for row in connection.execute(query).mappings())

    def add_quality(self, unit: Unit, quality: TimeToQuality) -> None:
        row = {
            "id": quality.id,
            "format": 1,
            "fingerprint": quality.fingerprint,
            "at_us": quality.at,
            "result": wire.encode(quality).decode(),
        }
        with self._catalog.write() as connection:
            _know_unit(connection, unit, quality.at)
            connection.execute(sa.insert(QUALITY), row)

    def qualities(self, fingerprint: str, limit: int) -> tuple[TimeToQuality, ...]:
        """Those of this hardware, newest first."""
        query = (
            sa.select(QUALITY.c.result)
            .where(QUALITY.c.fingerprint == fingerprint)
            .order_by(QUALITY.c.at_us.desc(), QUALITY.c.id.desc())
            .limit(limit)
        )
        with self._catalog.read() as connection:
            found = connection.execute(query).scalars()
            return tuple(wire.decode(text, TimeToQuality, what="a stored result") for text in found)

    def qualities_of_pool(self, pool: str, limit: int) -> tuple[TimeToQuality, ...]:
        """Those of the units of a pool, of whatever hardware, newest first."""
        query = sa.select(QUALITY.c.result).order_by(QUALITY.c.at_us.desc(), QUALITY.c.id.desc())
        with self._catalog.read() as connection:
            found = connection.execute(query.limit(MOST_QUALITIES)).scalars()
            made = (wire.decode(text, TimeToQuality, what="a stored result") for text in found)
            return tuple(itertools.islice((each for each in made if pool_of(each.unit) == pool), limit))

    # Environments.

    def remember_environment(self, environment: Environment, *, lock: str, origin: str, at: Instant) -> None:
        """Keep an environment's lock; one seen before stays as it is."""
        with self._catalog.read() as connection:
            known = sa.select(ENVIRONMENT.c.identity).where(ENVIRONMENT.c.identity == environment.identity)
            if connection.execute(known).first() is not None:
                return
        row = {
            "identity": environment.identity,
            "format": 1,
            "python": environment.python,
            "platform": environment.platform,
            "package_count": len(environment.packages),
            "origin": origin,
            "lock": lock,
            "first_seen_at_us": at,
        }
        with self._catalog.write() as connection:
            connection.execute(_insert_new(connection, ENVIRONMENT, "identity"), row)

    def environments(self, limit: int) -> tuple[EnvironmentRecord, ...]:
        """Newest first, without their locks."""
        columns = [column for column in ENVIRONMENT.c if column.name != "lock"]
        query = sa.select(*columns).order_by(ENVIRONMENT.c.first_seen_at_us.desc(), ENVIRONMENT.c.identity)
        with self._catalog.read() as connection:
            return tuple(_environment(row) for row in connection.execute(query.limit(limit)).mappings())

    def environment(self, identity: str) -> EnvironmentRecord | None:
        query = sa.select(ENVIRONMENT).where(ENVIRONMENT.c.identity == identity)
        with self._catalog.read() as connection:
            row = connection.execute(query).mappings().one_or_none()
        return None if row is None else _environment(row)


def _insert_new(connection: sa.Connection, table: sa.Table, key: str) -> Any:
    """An insert that passes over keys which are there (both databases say it in the same words)."""
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    return dialect.insert(table).on_conflict_do_nothing(index_elements=[key])


def _know_unit(connection: sa.Connection, unit: Unit, at: Instant) -> None:
    """Keep what the hardware is; known hardware stays as it was first seen."""
    row = {
        "fingerprint": unit.fingerprint,
        "format": 1,
        "name": unit.name,
        "unit": wire.encode(unit).decode(),
        "first_seen_at_us": at,
    }
    connection.execute(_insert_new(connection, UNIT, "fingerprint"), row)


def _bound(table: sa.Table) -> dict[str, Any]:
    """Each column as a parameter of its own name."""
    return {column.name: sa.bindparam(column.name) for column in table.c}


def _job_row(job: Job) -> dict[str, object]:
    report, account = job.report, job.account
    usage, held, exit_ = report.usage, report.held, report.exit
    return {
        "key": report.key,
        "format": 1,
        "kind": report.kind,
        "name": report.name,
        "flow_run": report.flow_run,
        "unit": report.unit,
        "environment": report.environment,
        "user_name": report.user,
        "started_at_us": report.started_at,
        "ended_at_us": report.ended_at,
        "exit_kind": exit_.kind.value,
        "exit_reason": exit_.reason,
        "exit_code": exit_.code,
        "wall_s": usage.wall_s,
        "cpu_s": usage.cpu_s,
        "memory_peak_bytes": usage.memory_peak_bytes,
        "memory_peak_is_exact": usage.memory_peak_is_exact,
        "read_bytes": usage.read_bytes,
        "written_bytes": usage.written_bytes,
        "flops": usage.flops,
        "held_cpu": held.cpu,
        "held_memory_bytes": held.memory_bytes,
        "held_gpu": held.gpu,
        "utilisation": account.utilisation,
        "flops_utilisation": account.flops_utilisation,
        "memory_utilisation": account.memory_utilisation,
        "price_usd_per_hour": account.price_usd_per_hour,
        "unit_share": account.unit_share,
        "cost_nanousd": account.cost_nanousd,
        "bound": account.bound.value,
        "sentence": account.sentence,
    }


def _was_looked_at(usage: Usage) -> bool:
    return bool(usage.trace) or usage.memory_mean_bytes is not None


def _use_row(report: JobReport) -> dict[str, object]:
    usage = report.usage
    return {
        "key": report.key,
        "format": 1,
        "ended_at_us": report.ended_at,
        "memory_mean_bytes": usage.memory_mean_bytes,
        "disk_wait_s": usage.disk_wait_s,
        "network_bytes": usage.network_bytes,
        "gpu_s": usage.gpu_s,
        "gpu_memory_peak_bytes": usage.gpu_memory_peak_bytes,
        "points": wire.encode(usage.trace[:MOST_POINTS]).decode() if usage.trace else None,
    }


def _job(row: Mapping[Any, Any]) -> Job:
    points = row.get("points")
    usage = Usage(
        row["wall_s"],
        row["cpu_s"],
        row["memory_peak_bytes"],
        row["read_bytes"],
        row["written_bytes"],
        row["memory_peak_is_exact"],
        row["flops"],
        memory_mean_bytes=row["memory_mean_bytes"],
        disk_wait_s=row["disk_wait_s"],
        network_bytes=row["network_bytes"],
        gpu_s=row["gpu_s"],
        gpu_memory_peak_bytes=row["gpu_memory_peak_bytes"],
        trace=() if points is None else wire.decode(points, tuple[tuple[int, ...], ...], what="a trace"),
    )
    report = JobReport(
        key=row["key"],
        name=row["name"],
        unit=row["unit"],
        started_at=Instant(row["started_at_us"]),
        ended_at=Instant(row["ended_at_us"]),
        exit=Exit(ExitKind(row["exit_kind"]), row["exit_reason"], row["exit_code"]),
        usage=usage,
        held=Held(row["held_cpu"], row["held_memory_bytes"], row["held_gpu"]),
        kind=row["kind"],
        flow_run=row["flow_run"],
        environment=row["environment"],
        user=row["user_name"],
    )
    account = Account(
        utilisation=row["utilisation"],
        flops_utilisation=row["flops_utilisation"],
        memory_utilisation=row["memory_utilisation"],
        price_usd_per_hour=row["price_usd_per_hour"],
        unit_share=row["unit_share"],
        cost_nanousd=row["cost_nanousd"],
        bound=Bound(row["bound"]),
        sentence=row["sentence"],
    )
    return Job(report, account)


def _measurement_row(measurement: Measurement) -> dict[str, object]:
    return {
        "id": measurement.id,
        "format": 1,
        "unit": measurement.unit,
        "fingerprint": measurement.fingerprint,
        "at_us": measurement.at,
        "duration_s": measurement.duration_s,
        "is_quick": measurement.is_quick,
        "figures": wire.encode(measurement.figures).decode(),
        "versions": wire.encode(measurement.versions).decode(),
        "other_cores_busy": measurement.other_cores_busy,
        "notes": wire.encode(measurement.notes).decode(),
    }


def _measurement(row: Mapping[Any, Any]) -> Measurement:
    return Measurement(
        id=row["id"],
        unit=row["unit"],
        fingerprint=row["fingerprint"],
        at=Instant(row["at_us"]),
        duration_s=row["duration_s"],
        is_quick=row["is_quick"],
        figures=wire.decode(row["figures"], tuple[Figure, ...], what="stored figures"),
        versions=wire.decode(row["versions"], dict[str, str], what="stored versions"),
        other_cores_busy=row["other_cores_busy"],
        notes=wire.decode(row["notes"], tuple[str, ...], what="stored notes"),
    )


def _environment(row: Mapping[Any, Any]) -> EnvironmentRecord:
    return EnvironmentRecord(
        identity=row["identity"],
        python=row["python"],
        platform=row["platform"],
        package_count=row["package_count"],
        origin=row["origin"],
        first_seen_at=Instant(row["first_seen_at_us"]),
        lock=row.get("lock", ""),
    )
