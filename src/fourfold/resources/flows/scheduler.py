"""Deployed flows, and the ticks of their schedules as the loop sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from fourfold.core.decide import schedule as rules
from fourfold.core.errors import NotFound, did_you_mean
from fourfold.core.flows import DeployedFlow, FlowRun
from fourfold.core.times import Instant

NewRun = Callable[[DeployedFlow, Instant | None, Mapping[str, Any], str], FlowRun]


class Scheduler:
    """Holds the deployments; fires ticks only once `is_firing` is set (by `fourfold up`)."""

    def __init__(self) -> None:
        self.is_firing = False
        self._deployments: dict[str, DeployedFlow] = {}
        self._next: dict[str, Instant | None] = {}
        self._changed: dict[str, DeployedFlow] = {}

    def load(self, deployments: Iterable[DeployedFlow]) -> None:
        self._deployments = {deployment.flow: deployment for deployment in deployments}
        self._next.clear()

    def put(self, deployment: DeployedFlow, now: Instant) -> DeployedFlow:
        """Keep a deployed flow; its schedule goes on after the ticks that were dealt with. What is kept."""
        known = self._deployments.get(deployment.flow)
        if known is not None and known.cron == deployment.cron and known.tz == deployment.tz:
            latest = max(known.last_tick or now, deployment.last_tick or now)
            deployment = replace(deployment, last_tick=latest)
        self._deployments[deployment.flow] = deployment
        self._next.pop(deployment.flow, None)
        return deployment

    def get(self, flow: str) -> DeployedFlow:
        found = self._deployments.get(flow)
        if found is None:
            ways_on = (
                *did_you_mean(flow, self._deployments, what="deployed"),
                "deploy it: fourfold flow deploy FILE",
            )
            raise NotFound(f"no flow {flow!r} is deployed", ways_on=ways_on)
        return found

    def due(self, now: Instant, new_run: NewRun) -> list[FlowRun]:
        """The runs of the ticks that are due now: each tick once, ever, by its key."""
        runs: list[FlowRun] = []
        if not self.is_firing:
            return runs
        for flow, deployment in sorted(self._deployments.items()):
            if not deployment.cron or deployment.is_paused:
                continue
            at = self._next_of(flow, now)
            if at is None or at > now:
                continue
            decision = rules.due(deployment, now)
            runs += [new_run(deployment, tick, {}, "") for tick in decision.fire]
            deployment = replace(deployment, last_tick=decision.last_tick)
            self._deployments[flow] = self._changed[flow] = deployment
            self._next[flow] = decision.next_at
        return runs

    def drain(self) -> list[DeployedFlow]:
        """Deployments whose ticks were just dealt with, to be committed with the runs of those ticks."""
        changed, self._changed = list(self._changed.values()), {}
        return changed

    def next_at(self) -> Instant | None:
        """When the next tick is due."""
        if not self.is_firing:
            return None
        times = [
            at
            for flow, deployment in self._deployments.items()
            if deployment.cron and not deployment.is_paused
            if (at := self._next_of(flow, deployment.created_at)) is not None
        ]
        return min(times, default=None)

    def _next_of(self, flow: str, now: Instant) -> Instant | None:
        if flow not in self._next:
            deployment = self._deployments[flow]
            self._next[flow] = rules.next_tick(deployment, deployment.last_tick or now)
        return self._next[flow]
