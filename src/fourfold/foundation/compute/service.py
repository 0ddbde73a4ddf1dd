"""Compute as a service: fulfils `core.services.compute.Compute` over the catalog and this machine."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from fourfold.catalog.database import Catalog
from fourfold.catalog.ids import new_id
from fourfold.core.compute import (
    Account,
    EnvironmentRecord,
    Figure,
    FlowAdvice,
    Gpu,
    Job,
    JobReport,
    JobTotals,
    Measurement,
    SizeAdvice,
    Standing,
    Unit,
    UnitInfo,
)
from fourfold.core.decide.account import account
from fourfold.core.decide.deadline import RunTimes, run_times
from fourfold.core.decide.measured import machine_of, quality_standings, standings
from fourfold.core.decide.place import Lease
from fourfold.core.decide.pools import pool_of, units_of
from fourfold.core.decide.right_size import right_size, right_size_flow
from fourfold.core.decide.unit import measured_figures, offer_of, unit_of
from fourfold.core.environment import Environment, identify
from fourfold.core.errors import NotFound, Refused, did_you_mean
from fourfold.core.figures import SpeedFigure
from fourfold.core.jobs import ExitKind, UnitCapacity
from fourfold.core.ports.clock import Clock
from fourfold.core.quality import Task, TimeToQuality, Training
from fourfold.core.serving import ServiceInfo, ServiceLog
from fourfold.core.traits import UnitTraits
from fourfold.foundation.compute.environments import Environments
from fourfold.foundation.compute.locks import parse_lock
from fourfold.foundation.compute.present import PresentEnvironment
from fourfold.foundation.compute.serving.asking import asked
from fourfold.foundation.compute.serving.keeper import ServiceKeeper
from fourfold.foundation.compute.serving.pools import ServicePools
from fourfold.foundation.compute.serving.service import ServiceDesk
from fourfold.foundation.compute.serving.tables import ServiceTables
from fourfold.foundation.compute.tables import ComputeTables
from fourfold.foundation.compute.to_store import Store
from fourfold.foundation.compute.units import find_unit

if TYPE_CHECKING:
    import sqlalchemy as sa

MOST_LISTED = 10_000
LOCK_CHARACTERS = 4_000_000
ORIGINS = ("lock", "requirements", "captured", "model")
ADVISED_RUNS = 200
"""So many of a step's newest runs speak for its size."""
ADVISED_JOBS = 5_000
"""So many of the newest steps are looked at where none is named."""
COMPARED = 200
"""So many of a pool's newest measurements are searched for those of its other units."""
LOOKED_BACK = 20
"""So many measurements are searched for one that was not disturbed."""

_PYTHON = re.compile(r"[a-z]+-\d+\.\d+t?")
_PLATFORM = re.compile(r"[a-zA-Z0-9][\w.-]{0,99}")


class Compute:
    """The compute room of one project."""

    def __init__(
        self,
        catalog: Catalog,
        clock: Clock,
        *,
        home: Path,
        environments: Environments,
        prices_usd_per_hour: Mapping[str, float] | None = None,
        elsewhere_usd_per_hour: Mapping[str, float] | None = None,
        traits: Mapping[str, UnitTraits] | None = None,
        find: Callable[[str], Unit] = find_unit,
        service_pools: ServicePools | None = None,
        store: Store | None = None,
    ) -> None:
        """`prices_usd_per_hour` names this machine's units and what a whole one costs now; `local` is always
        there. `elsewhere_usd_per_hour` names pools whose units are other machines. `traits` is what the
        settings say of this machine's units; `service_pools` are those that services may run on; `store` is
        what `bench` measures the way to."""
        self._tables = ComputeTables(catalog)
        self._clock = clock
        self._home = home
        self._environments = environments
        self._prices = {"local": 0.0, **(prices_usd_per_hour or {})}
        self._elsewhere = elsewhere_usd_per_hour or {}
        self._traits = traits or {}
        self._find = find
        self._service_pools = service_pools or ServicePools({}, here="local")
        self._store = store
        self._catalog = catalog
        self._desk = ServiceDesk(catalog, clock, self._service_pools)
        self._keeper: ServiceKeeper | None = None
        self._found: dict[str, Unit] = {}
        self._present = PresentEnvironment(environments, self.remember_environment)

    def __repr__(self) -> str:
        return f"<Compute: units {', '.join(sorted(self._prices))}>"

    # Units.

    def unit(self, name: str = "local") -> Unit:
        """A unit as found, once per process."""
        if name not in self._prices:
            raise NotFound(
                f"unit '{name}' does not exist", ways_on=did_you_mean(name, self._prices, what="units")
            )
        if name not in self._found:
            self._found[name] = self._find(name)
        return self._found[name]

    def units(self) -> tuple[UnitInfo, ...]:
        return tuple(self.unit_info(name) for name in sorted(self._prices))

    def unit_info(self, unit: str = "local") -> UnitInfo:
        found = self.unit(unit)
        measured = _of_machine(self.measurements(unit, limit=LOOKED_BACK), found.machine)
        trained = _of_machine(self.qualities(unit, limit=LOOKED_BACK), found.machine)
        stands: tuple[Standing, ...] = ()
        if measured is not None:
            stands = standings(measured, self.measurements(unit, limit=COMPARED, of_pool=True))
        if trained is not None:
            stands += quality_standings(trained, self.qualities(unit, limit=COMPARED, of_pool=True))
        figures = self.capacity(unit).figures
        return UnitInfo(found, self._prices[unit], measured, trained, stands, figures)

    def capacity(self, unit: str = "local") -> UnitCapacity:
        """A unit of this machine as requests are held against it."""
        room_bytes = shutil.disk_usage(self._home).free >> 30 << 30
        return unit_of(
            offer_of(self.unit(unit), disk_bytes=room_bytes),
            name=unit,
            price_usd_per_hour=self._prices[unit],
            traits=self._traits.get(unit, UnitTraits()),
            measured=self.measured_speeds(unit),
        )

    def measured_speeds(self, unit: str = "local") -> tuple[SpeedFigure, ...]:
        """What was measured of this machine, as jobs may ask for it: undisturbed, where there is such."""
        return measured_figures(self._peak(self.unit(unit)))

    def bench(
        self, unit: str = "local", *, quick: bool = False, progress: Callable[[Figure], None] | None = None
    ) -> Measurement:
        """Measure a unit and keep what came out; `progress` (in process only) hears each figure."""
        from fourfold.foundation.compute.bench import measure_unit

        found = self.unit(unit)
        measurement = measure_unit(
            found,
            folder=self._home / "bench",
            clock=self._clock,
            quick=quick,
            store=self._store,
            progress=progress,
        )
        self._tables.add_measurement(found, measurement)
        return measurement

    def measurements(
        self, unit: str = "local", *, limit: int = 20, of_pool: bool = False
    ) -> tuple[Measurement, ...]:
        fingerprint = self.unit(unit).fingerprint
        if of_pool:
            return self._tables.measurements_of_pool(pool_of(unit), _bounded(limit))
        return self._tables.measurements(fingerprint, _bounded(limit))

    def measure_quality(
        self, unit: str = "local", *, progress: Callable[[Task, Training], None] | None = None
    ) -> TimeToQuality:
        """Train to a fixed quality and keep what came out; `progress` (in process only) hears each run."""
        from fourfold.foundation.compute.quality import measure_quality

        found = self.unit(unit)
        made = measure_quality(
            found, clock=self._clock, price_usd_per_hour=self._prices[unit], progress=progress
        )
        self._tables.add_quality(found, made)
        return made

    def qualities(
        self, unit: str = "local", *, limit: int = 20, of_pool: bool = False
    ) -> tuple[TimeToQuality, ...]:
        fingerprint = self.unit(unit).fingerprint
        if of_pool:
            return self._tables.qualities_of_pool(pool_of(unit), _bounded(limit))
        return self._tables.qualities(fingerprint, _bounded(limit))

    # Jobs.

    def record(self, reports: Sequence[JobReport]) -> tuple[Job, ...]:
        jobs = self.accounted(reports)
        if jobs:
            self._tables.record_jobs(jobs)
        return jobs

    def record_in(self, connection: sa.Connection, reports: Sequence[JobReport]) -> tuple[Job, ...]:
        """Record within a unit of work that is open: the jobs are kept if and when it commits."""
        jobs = self.accounted(reports)
        self._tables.record_jobs_in(connection, jobs)
        return jobs

    def accounted(self, reports: Sequence[JobReport]) -> tuple[Job, ...]:
        """Jobs with their accounts at the present prices; nothing is recorded."""
        return tuple(Job(report, self._account(report)) for report in reports)

    def jobs(self, flow_run: str | None = None, *, limit: int = 100, traces: bool = False) -> tuple[Job, ...]:
        return self._tables.jobs(flow_run, _bounded(limit), has_traces=traces)

    def job(self, key: str) -> Job:
        found = self._tables.job(key)
        if found is None:
            known = self._tables.newest_keys()
            raise NotFound(
                f"no job '{key}' was recorded", ways_on=did_you_mean(key, known, what="newest jobs")
            )
        return found

    def totals(self, flow_run: str | None = None) -> JobTotals:
        return self._tables.totals(flow_run)

    def advise(self, name: str | None = None) -> tuple[SizeAdvice, ...]:
        if name is not None:
            jobs = self._tables.newest_steps(name, ADVISED_RUNS)
            if not jobs:
                known = {job.report.name for job in self._tables.newest_steps(None, ADVISED_JOBS)}
                raise NotFound(
                    f"no step '{name}' is on record", ways_on=did_you_mean(name, known, what="steps")
                )
        else:
            jobs = self._tables.newest_steps(None, ADVISED_JOBS)
        by_name: dict[str, list[Job]] = {}
        for job in jobs:
            if len(runs := by_name.setdefault(job.report.name, [])) < ADVISED_RUNS:
                runs.append(job)
        return tuple(
            right_size(each, by_name[each], unit=self._unit_of(by_name[each][0])) for each in sorted(by_name)
        )

    def advise_flow(self, flow: str, flow_runs: Sequence[str]) -> FlowAdvice:
        jobs = self._tables.steps_of(flow_runs, ADVISED_JOBS)
        return right_size_flow(flow, flow_runs, jobs, self._unit_of)

    def run_times(self, step: str) -> RunTimes | None:
        """How long a step takes, by its newest runs that ended well."""
        jobs = self._tables.newest_steps(step, ADVISED_RUNS)
        return run_times([job.report.usage.wall_s for job in jobs if job.report.exit.kind is ExitKind.ok])

    def _unit_of(self, job: Job) -> Unit | None:
        return self.unit(job.report.unit) if job.report.unit in self._prices else None

    # Services.

    def services(self) -> tuple[ServiceInfo, ...]:
        return self._desk.services()

    def service(self, name: str) -> ServiceInfo:
        return self._desk.service(name)

    def start_service(
        self,
        name: str,
        argv: list[str],
        *,
        env: dict[str, str] | None = None,
        cwd: str = "",
        pool: str = "",
        image: str = "",
        cpu: str = "1",
        memory: str = "0",
        gpu: str = "0",
        arch: str = "",
        max_price: str = "",
        probe: str = "tcp",
        path: str = "/",
        ready_within_s: float = 60.0,
        drain_s: float = 10.0,
    ) -> ServiceInfo:
        spec = asked(
            name,
            argv,
            env=env,
            cwd=cwd,
            pool=pool,
            image=image,
            cpu=cpu,
            memory=memory,
            gpu=gpu,
            arch=arch,
            max_price=max_price,
            probe=probe,
            path=path,
            ready_within_s=ready_within_s,
            drain_s=drain_s,
        )
        return self._desk.start(spec)

    def restart_service(self, name: str) -> ServiceInfo:
        return self._desk.restart(name)

    def stop_service(self, name: str, *, remove: bool = False) -> ServiceInfo:
        return self._desk.stop(name, remove=remove)

    def service_logs(self, name: str, *, offset: int = 0, generation: int = 0) -> ServiceLog:
        return self._desk.logs(name, offset=offset, generation=generation)

    def held_by_services(self) -> tuple[Lease, ...]:
        """What services hold of the units that they run on."""
        return self._desk.leases()

    def keep_services(self) -> None:
        """Look after the services from now on, in a thread of this process."""
        self._keeper = ServiceKeeper(
            ServiceTables(self._catalog),
            self._service_pools,
            self._clock,
            name=new_id("keeper"),
            record=self.record,
        )
        self._keeper.start()

    def leave_services(self) -> None:
        """Look after them no more."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.close()

    def close(self) -> None:
        """Let go of what was opened."""
        self.leave_services()
        self._desk.close()

    # Environments.

    def present_environment(self) -> Environment:
        return self._present.present_environment()

    def remember_environment(
        self, identity: str, *, python: str, platform: str, lock: str, origin: str
    ) -> None:
        environment = _checked(identity, python=python, platform=platform, lock=lock)
        if origin not in ORIGINS:
            raise Refused(f"origin {origin[:40]!r} is not known", ways_on=["take " + ", ".join(ORIGINS)])
        self._tables.remember_environment(environment, lock=lock, origin=origin, at=self._clock.now())

    def environments(self, *, limit: int = 100) -> tuple[EnvironmentRecord, ...]:
        return self._tables.environments(_bounded(limit))

    def environment(self, identity: str) -> EnvironmentRecord:
        found = self._tables.environment(identity)
        if found is None:
            known = [record.identity for record in self._tables.environments(20)]
            raise NotFound(
                f"environment '{identity}' is not known here",
                ways_on=did_you_mean(identity, known, what="environments"),
            )
        return found

    def python_for(self, identity: str) -> str:
        locked = self._environments.present()
        if identity == locked.environment.identity:
            environment = locked.environment
        else:
            record = self.environment(identity)
            environment = _identified(record.python, record.platform, record.lock, of=identity)
        return str(self._environments.python_for(environment))

    # How.

    def _account(self, report: JobReport) -> Account:
        if (price := self._elsewhere.get(pool_of(report.unit))) is not None:
            whole = report.whole or report.held  # of a unit that is gone, what was held of it is known
            gpus = (Gpu("", 0),) * round(whole.gpu)
            unit = Unit(report.unit, whole.cpu, whole.memory_bytes, gpus=gpus)
            return account(
                report.usage, held=report.held, unit=unit, price_usd_per_hour=price, share=report.unit_share
            )
        # A job may report a unit of a pool that the settings no longer name: it is still recorded.
        first = next(iter(units_of(report.unit)), "")
        name = first if first in self._prices else "local"
        unit = self.unit(name)
        return account(
            report.usage,
            held=report.held,
            unit=unit,
            price_usd_per_hour=self._prices[name],
            measurement=None if report.usage.flops is None else self._peak(unit),
            share=report.unit_share,
        )

    def _peak(self, unit: Unit) -> Measurement | None:
        """What arithmetic is judged against: the newest measurement that others did not disturb.

        A busy machine measures too slow; against such a peak every job would look better than it is.
        """
        newest = self._tables.measurements(unit.fingerprint, LOOKED_BACK)
        return next((each for each in newest if each.is_confident), next(iter(newest), None))


def _checked(identity: str, *, python: str, platform: str, lock: str) -> Environment:
    """The environment that a caller names, if its lock gives that very identity."""
    if len(lock) > LOCK_CHARACTERS:
        raise Refused(
            f"the lock of {identity[:40]} has {len(lock)} characters",
            ways_on=[f"at most {LOCK_CHARACTERS} are kept"],
        )
    if _PYTHON.fullmatch(python) is None or _PLATFORM.fullmatch(platform) is None:
        raise Refused(
            f"{python[:40]!r} on {platform[:40]!r} is not a Python and its platform",
            ways_on=["write them as cpython-3.11 and linux-x86_64"],
        )
    environment = _identified(python, platform, lock, of=identity)
    if environment.identity != identity:
        raise Refused(
            f"the lock gives {environment.identity}, not {identity[:40]}",
            ways_on=["send the lock, Python and platform that the environment was identified by"],
        )
    return environment


def _identified(python: str, platform: str, lock: str, *, of: str) -> Environment:
    return identify(
        python=python, platform=platform, packages=parse_lock(lock, what=f"the lock of {of[:40]}")
    )


Made = TypeVar("Made", Measurement, TimeToQuality)


def _of_machine(made: Sequence[Made], machine: str) -> Made | None:
    """The newest of this very machine, else of its hardware."""
    return next((each for each in made if machine_of(each) == machine), next(iter(made), None))


def _bounded(limit: int) -> int:
    return max(0, min(limit, MOST_LISTED))
