"""Flows as a service: submit, look at, cancel, resume, schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from fourfold.core.compute import FlowAdvice
from fourfold.core.flows import (
    DeployedFlow,
    FlowRun,
    Graph,
    LogPiece,
    Policy,
    Reason,
    RunEvent,
    ScheduleInfo,
)
from fourfold.core.openlineage import EventPage, Outbox
from fourfold.core.pools import PoolInfo
from fourfold.core.routes import Role, route
from fourfold.core.times import Instant


class Flows(Protocol):
    """Durable flows of one project."""

    @route("POST /flow-runs", needs=Role.editor)
    def submit(
        self,
        bundle: bytes,
        *,
        flow: str,
        module: str,
        attribute: str,
        params: Mapping[str, Any] | None = None,
        steps: Mapping[str, Policy] | None = None,
        key: str = "",
        priority: int = 0,
        user: str = "",
        cwd: str = "",
        python: str = "",
        deadline: str = "",
    ) -> FlowRun:
        """Start a run of the flow `attribute` in `module` of the code bundle; parameters are JSON.

        `steps` says what each known step asks for: what no unit can ever give is refused here. `deadline`
        (`2h`, or a time with its zone) is by when all of it must be done; what is not then is ended.
        Submitting a `key` again answers the run that it named the first time.
        """
        ...

    @route("GET /flow-runs/{run_id}", needs=Role.viewer)
    def get(self, run_id: str) -> FlowRun:
        """One run."""
        ...

    @route("GET /flow-runs", needs=Role.viewer)
    def list(
        self, flow: str = "", *, state: str = "", before: str = "", limit: int = 50
    ) -> tuple[FlowRun, ...]:
        """Runs, newest first; `before` is the last identifier of the page before."""
        ...

    @route("GET /flow-runs/{run_id}/graph", needs=Role.viewer)
    def graph(self, run_id: str) -> Graph:
        """A run with its calls, their dependencies, and each attempt's times, usage and cost."""
        ...

    @route("GET /flow-runs/{run_id}/events", needs=Role.viewer)
    def events(self, run_id: str, *, after: int = 0, limit: int = 1000) -> tuple[RunEvent, ...]:
        """What happened to a run, in order."""
        ...

    @route("GET /pools", needs=Role.viewer)
    def pools(self) -> tuple[PoolInfo, ...]:
        """Where steps run: each pool with its engine, units and price, and how much is busy and waits."""
        ...

    @route("GET /lineage/events", needs=Role.viewer)
    def lineage_events(self, since: Instant, *, after: str = "", limit: int = 20) -> EventPage:
        """OpenLineage events of at most `limit` runs made since a time, oldest first, told from the records.

        `after` is the last run of the page before.
        """
        ...

    @route("GET /lineage/outbox", needs=Role.viewer)
    def lineage_outbox(self) -> Outbox:
        """What of the events another catalog of lineage has not taken yet."""
        ...

    @route("GET /flow-runs/{run_id}/wait", needs=Role.viewer)
    def wait(self, run_id: str, *, timeout_s: float = 30.0) -> FlowRun:
        """Wait until the run ended or the time is over, then answer the run as it is."""
        ...

    @route("GET /flow-runs/{run_id}/result", needs=Role.viewer)
    def result(self, run_id: str, *, call: str = "") -> bytes:
        """The encoded result of a run (or of one call), for `fourfold.resources.flows.codec.decode`."""
        ...

    @route("POST /flow-runs/{run_id}/cancel", needs=Role.editor)
    def cancel(self, run_id: str, *, why: str = "") -> FlowRun:
        """End a run: nothing more of it starts, and its processes are stopped. Repeatable."""
        ...

    @route("POST /flow-runs/{run_id}/resume", needs=Role.editor)
    def resume(self, run_id: str) -> FlowRun:
        """Go on with a failed or cancelled run: what succeeded stays, what failed runs again."""
        ...

    @route("GET /flow-runs/{run_id}/logs", needs=Role.viewer)
    def logs(self, run_id: str, *, call: str = "", attempt: int = 0, offset: int = 0) -> LogPiece:
        """Output of a call's attempt (the latest, and of the body, when not said), also while it runs."""
        ...

    @route("GET /flow-runs/{run_id}/why", needs=Role.viewer)
    def why(self, run_id: str, *, call: str = "") -> tuple[Reason, ...]:
        """Why each call of the run is where it is: what it waits for, why it failed or ran again."""
        ...

    @route("POST /flows", needs=Role.deployer)
    def deploy(
        self,
        bundle: bytes,
        *,
        flow: str,
        module: str,
        attribute: str,
        params: Mapping[str, Any] | None = None,
        cron: str = "",
        tz: str = "UTC",
        catchup: str = "latest",
        scheduled_param: str = "",
        parameters: tuple[str, ...] = (),
        cwd: str = "",
        python: str = "",
        deadline: str = "",
    ) -> DeployedFlow:
        """Keep a flow's code under its name, with its schedule; a schedule is pinned to this code.

        `parameters` names those that it takes, so that others are refused when it is started. A run's
        `deadline` counts from when it is due.
        """
        ...

    @route("GET /flows", needs=Role.viewer)
    def deployments(self) -> tuple[DeployedFlow, ...]:
        """All deployed flows by name."""
        ...

    @route("POST /flows/{flow}/start", needs=Role.editor)
    def start(self, flow: str, *, params: Mapping[str, Any] | None = None, key: str = "") -> FlowRun:
        """Run a deployed flow now."""
        ...

    @route("GET /flows/{flow}/advice", needs=Role.viewer)
    def advise(self, flow: str) -> FlowAdvice:
        """What all steps of a flow should ask for, from its newest 200 runs, with the evidence.

        A flow that never ran is `NotFound`, with the nearest.
        """
        ...

    @route("POST /flows/{flow}/pause", needs=Role.deployer)
    def pause_schedule(self, flow: str, *, is_paused: bool = True) -> DeployedFlow:
        """Stop a deployed flow's schedule from firing, or let it fire again."""
        ...

    @route("GET /schedules", needs=Role.viewer)
    def schedules(self) -> tuple[ScheduleInfo, ...]:
        """All schedules: when each fires next, and whether anything is there to fire it."""
        ...
