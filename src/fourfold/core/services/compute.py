"""Compute as a service: units and their measured speed, jobs and what they used and cost, environments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from fourfold.core.compute import (
    EnvironmentRecord,
    FlowAdvice,
    Job,
    JobReport,
    JobTotals,
    Measurement,
    SizeAdvice,
    UnitInfo,
)
from fourfold.core.environment import Environment
from fourfold.core.quality import TimeToQuality
from fourfold.core.routes import Role, route
from fourfold.core.serving import ServiceInfo, ServiceLog


class Compute(Protocol):
    """The compute room. Recording is done in process by the rooms that run jobs; listings are for all."""

    @route("GET /units", needs=Role.viewer)
    def units(self) -> tuple[UnitInfo, ...]:
        """The units known, each with its price now, newest measurement and newest time to quality."""
        ...

    @route("GET /units/{unit}", needs=Role.viewer)
    def unit_info(self, unit: str = "local") -> UnitInfo:
        """One unit; `NotFound` names the nearest."""
        ...

    @route("POST /units/{unit}/bench", needs=Role.editor)
    def bench(self, unit: str = "local", *, quick: bool = False) -> Measurement:
        """Measure a unit: memory bandwidth, arithmetic, disk, the way to the project's store.

        About 20 s; 4 s when `quick`.
        """
        ...

    @route("GET /units/{unit}/measurements", needs=Role.viewer)
    def measurements(
        self, unit: str = "local", *, limit: int = 20, of_pool: bool = False
    ) -> tuple[Measurement, ...]:
        """Measurements of a unit's hardware (or of all units of its pool), newest first."""
        ...

    @route("POST /units/{unit}/quality", needs=Role.editor)
    def measure_quality(self, unit: str = "local") -> TimeToQuality:
        """Train three small tasks to a fixed quality, five times each. About a minute, at most five."""
        ...

    @route("GET /units/{unit}/qualities", needs=Role.viewer)
    def qualities(
        self, unit: str = "local", *, limit: int = 20, of_pool: bool = False
    ) -> tuple[TimeToQuality, ...]:
        """Times to quality of a unit's hardware (or of all units of its pool), newest first."""
        ...

    @route("GET /jobs", needs=Role.viewer)
    def jobs(self, flow_run: str | None = None, *, limit: int = 100, traces: bool = False) -> tuple[Job, ...]:
        """Jobs that ended, newest first; of one flow run in the order of their start.

        With `traces` also their use over time, as far as it is still kept.
        """
        ...

    @route("GET /jobs/{key:path}", needs=Role.viewer)
    def job(self, key: str) -> Job:
        """One job by its key; `NotFound` names the nearest."""
        ...

    @route("GET /job-totals", needs=Role.viewer)
    def totals(self, flow_run: str | None = None) -> JobTotals:
        """What the jobs of a flow run (or all) used and cost together."""
        ...

    @route("GET /job-advice", needs=Role.viewer)
    def advise(self, name: str | None = None) -> tuple[SizeAdvice, ...]:
        """What the steps that ran of late (or one, by name) should ask for, with the evidence.

        By name: its newest 200 runs. A name that nothing ran under is `NotFound`, with the nearest.
        """
        ...

    @route("GET /environments", needs=Role.viewer)
    def environments(self, *, limit: int = 100) -> tuple[EnvironmentRecord, ...]:
        """Environments that something ran in or was built for, newest first, without their locks."""
        ...

    @route("GET /environments/{identity}", needs=Role.viewer)
    def environment(self, identity: str) -> EnvironmentRecord:
        """One environment with its lock, from which it can be built again."""
        ...

    @route("PUT /environments/{identity}", needs=Role.editor)
    def remember_environment(
        self, identity: str, *, python: str, platform: str, lock: str, origin: str
    ) -> None:
        """Keep an environment's lock under its identity, so that it can be built again.

        Refused when this lock, Python and platform do not give this identity. What is known already stays
        as it is.
        """
        ...

    @route("GET /services", needs=Role.viewer)
    def services(self) -> tuple[ServiceInfo, ...]:
        """Services with their state and address, by name."""
        ...

    @route("GET /services/{name}", needs=Role.viewer)
    def service(self, name: str) -> ServiceInfo:
        """One service; `NotFound` names the nearest."""
        ...

    @route("PUT /services/{name}", needs=Role.deployer)
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
        """Keep a command running on a pool, at the port in its `FOURFOLD_PORT`; asking twice starts one.

        One that runs with another command, pool or size is drained, and started with this one. What no unit
        of the pool can ever give is `Refused`. `probe` (`tcp`, `http`, `none`) says how it is asked whether
        it is well; what fails is started again, later each time, and given up after ten failures in a row.
        It is looked after while `fourfold up` runs; a pool whose engine outlives that keeps it alive.
        """
        ...

    @route("POST /services/{name}/restart", needs=Role.deployer)
    def restart_service(self, name: str) -> ServiceInfo:
        """Drain a service and start it again; one that is stopped is started."""
        ...

    @route("POST /services/{name}/stop", needs=Role.deployer)
    def stop_service(self, name: str, *, remove: bool = False) -> ServiceInfo:
        """Drain a service and stop it; `remove` forgets one that is stopped."""
        ...

    @route("GET /services/{name}/logs", needs=Role.viewer)
    def service_logs(self, name: str, *, offset: int = 0, generation: int = 0) -> ServiceLog:
        """What a start of a service printed, from `offset`: the present one, or that of a number."""
        ...

    # In process only: these are about the process that calls, and its machine.

    def record(self, reports: tuple[JobReport, ...]) -> tuple[Job, ...]:
        """Record jobs that ended, all in one unit of work. A key recorded before is left as it is.

        The room's own `service.Compute.record_in(connection, reports)` does the same within a unit of
        work that is already open.
        """
        ...

    def advise_flow(self, flow: str, flow_runs: Sequence[str]) -> FlowAdvice:
        """What all steps of these runs of one flow should ask for. The flows room knows a flow's runs."""
        ...

    def present_environment(self) -> Environment:
        """The project's environment (its lock's, else what is installed), remembered in the catalog."""
        ...

    def python_for(self, identity: str) -> str:
        """An interpreter that has this environment: the running one if it does, else one built for it."""
        ...
