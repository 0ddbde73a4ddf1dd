"""Runs jobs on a Kubernetes cluster: each key is a Job (a service: a Deployment) whose name is made of it.

The cluster's objects are the truth, and outlive us. Three watches keep a mirror of ours, so that any number
of jobs is told without asking for each. Output is kept here, because a cluster throws it away.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fourfold.adapters.kubernetes import body, reading
from fourfold.adapters.kubernetes.access import access_to
from fourfold.adapters.kubernetes.api import KubeApi
from fourfold.adapters.kubernetes.mirror import Mirror
from fourfold.adapters.kubernetes.output import Output
from fourfold.adapters.kubernetes.reading import PROJECT, STOPPED, WHY, Pod, Record
from fourfold.adapters.kubernetes.settings import KubernetesSettings
from fourfold.core.decide.match import check_abilities, match, refusal
from fourfold.core.errors import FourfoldError
from fourfold.core.ports.engine import (
    Capabilities,
    JobStatus,
    Launch,
    LogChunk,
    Offer,
    Phase,
    Resources,
    Usage,
)
from fourfold.core.times import SECOND_US, Instant, iso, seconds_between

FRESH_S = 10.0
"""A mirror that has heard nothing for so long is held against a list."""
NODES_FRESH_S = 3.0
CALM_S = 2.0
"""The longest pause between two looks while the cluster is watched; where it is not, they are lists."""
LOOK_S = 0.25
LOOK_SHARE = 0.1
LEAST_GRACE_S = 1
"""With less, a cluster forgets a pod before its node has ended it."""
MOST_KNOWN = 10_000
MOST_FOLLOWED = 32
"""So many stopped jobs' last words are followed at once."""
FOLLOW_WITHIN_S = 2.0
FOLLOW_SILENT_S = 300.0
SECRET_KEPT_S = 3600.0


class KubernetesEngine:
    """The engine of `kubernetes://`."""

    def __init__(
        self,
        settings: KubernetesSettings,
        *,
        label: str,
        folder: Path,
        price_usd_per_hour: float = 0.0,
    ) -> None:
        """`label` tells our jobs from those of others in the namespace; `folder` keeps their output.

        Two engines with one label are one engine: use a label for each project and use.
        """
        self._settings = settings
        self._label = label
        self._price_usd_per_hour = price_usd_per_hour
        access = access_to(settings, os.environ)
        self._namespace = access.namespace
        self._api = KubeApi(access, settings.timeout_s)
        base = f"namespaces/{quote(self._namespace, safe='')}"
        self._core = f"/api/v1/{base}"
        selector = f"{PROJECT}={body.project_of(label)}"
        self._selector = selector
        jobs, deployments = f"/apis/batch/v1/{base}/jobs", f"/apis/apps/v1/{base}/deployments"
        self._jobs = Mirror(self._api, jobs, selector, reading.record_of, self._notify)
        self._services = Mirror(self._api, deployments, selector, reading.record_of, self._notify)
        self._pods = Mirror(
            self._api, f"{self._core}/pods", selector, reading.pod_of, self._notify, changed=self._pod_changed
        )
        self._output = Output(
            self._api,
            folder,
            self._pods.path,
            most_bytes=settings.most_output_bytes,
            silent_s=FOLLOW_SILENT_S,
        )
        self._changed = threading.Condition()
        self._changes = 0
        self._seen: dict[str, list[float]] = {}  # pods, by when we saw that they run, and that they ended
        self._ended: dict[str, JobStatus] = {}
        self._following: dict[str, threading.Thread] = {}
        self._nodes: list[dict[str, Any]] = []
        self._nodes_at: float | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<KubernetesEngine {self._api.url} {self._namespace}>"

    def capabilities(self) -> Capabilities:
        return Capabilities(
            services=True,
            memory_limit="enforced",
            time_limit=True,
            gpus=True,
            survives_control_restart=True,
            listens=True,
            nodes=False,
            images=True,
            shares_files=self._settings.shares_files,
        )

    def offers(self, request: Resources) -> tuple[Offer, ...]:
        return match(request, self._offers(fresh_s=0.0))

    def submit(self, launch: Launch) -> None:
        check_abilities(launch, self.capabilities(), engine="kubernetes")
        who = f"job '{launch.key}'"
        everything = self._offers(fresh_s=NODES_FRESH_S)
        met = match(launch.resources, everything)
        if not met:
            raise refusal(launch.resources, everything, who=who)
        body.check(launch, who)
        name = body.name_of(self._label, launch.key)
        records, make = (
            (self._services, body.deployment) if launch.kind == "service" else (self._jobs, body.job)
        )
        wanted = make(launch, name, self._label, self._settings, met)
        self._watch()
        item = self._api.get(f"{records.path}/{name}")
        if item is None:
            item = self._made(launch, name, records.path, wanted)
        records.put(item)
        self._complete(launch, name, item)

    def status(self, keys: Collection[str]) -> Mapping[str, JobStatus]:
        if not keys:
            return {}
        self._refresh(FRESH_S)
        newest = self._newest()
        return {key: self._status(key, newest) for key in keys}

    def wait(self, keys: Collection[str], timeout_s: float) -> Mapping[str, JobStatus]:
        """Sleeps until the watches tell a change; where the cluster cannot be watched, it is asked."""
        self._watch()
        began = time.monotonic()
        deadline = began + timeout_s
        while True:
            with self._changed:
                seen = self._changes
            found = self.status(keys)
            now = time.monotonic()
            if now >= deadline or any(job.phase in (Phase.ended, Phase.unknown) for job in found.values()):
                return found
            calm_s = CALM_S if self._is_watching() else max(LOOK_S, min(CALM_S, (now - began) * LOOK_SHARE))
            with self._changed:
                if self._changes == seen:
                    self._changed.wait(min(deadline - now, calm_s))

    def logs(self, key: str, offset: int = 0, limit_bytes: int = 1 << 20) -> LogChunk:
        name = body.name_of(self._label, key)
        data, size = self._output.read(name, offset, limit_bytes)
        if self._output.has_all_of(name) or offset + len(data) < size:
            return LogChunk(data, offset + len(data), offset + len(data) >= size)
        status = self.status([key])[key]
        has_ended = status.phase in (Phase.ended, Phase.unknown)
        if has_ended and (following := self._following.get(name)) is not None:
            following.join(self._settings.timeout_s)
        pod = self._newest().get(name)
        is_whole = has_ended and name not in self._following
        if pod is not None and name not in self._following:
            is_whole = self._output.pull(name, pod.name) and has_ended
        if is_whole and status.phase is Phase.ended:
            self._output.mark_whole(name)
        data, size = self._output.read(name, offset, limit_bytes)
        at = offset + len(data)
        return LogChunk(data, at, is_whole and at >= size)

    def stop(self, key: str, grace_s: float = 5.0) -> None:
        name = body.name_of(self._label, key)
        if self.status([key])[key].phase not in (Phase.ended, Phase.unknown):
            self._stop(name, grace_s)

    def usage(self, key: str) -> Usage:
        status = self.status([key])[key]
        began, over = status.started_at, status.ended_at
        if began is None:
            return Usage()
        if over is None:
            return Usage(max(0.0, time.time() - began / SECOND_US))
        wall_s = seconds_between(began, over)
        pod = self._newest().get(body.name_of(self._label, key))
        seen = self._seen.get(pod.name, []) if pod is not None else []
        if len(seen) == 2:
            # A cluster tells whole seconds; within the one that this leaves open, our own eyes count.
            wall_s = min(max(seen[1] - seen[0], wall_s - 1), wall_s + 1)
        return Usage(max(0.0, wall_s))

    def reap(self, keep: Collection[str]) -> tuple[str, ...]:
        self._refresh(0.0)
        kept = {body.name_of(self._label, key) for key in keep}
        newest, now, ended = self._newest(), time.time(), []
        for record in (*self._jobs.all(), *self._services.all()):
            is_live = self._status(record.key, newest).phase in (Phase.starting, Phase.running)
            if record.is_stopped and record.is_held:
                stopped_at = record.stopped_at or Instant(0)
                if not is_live and now - stopped_at / SECOND_US > self._settings.ended_kept_s:
                    self._api.delete(self._path(record), propagationPolicy="Background")
            elif is_live and record.name not in kept:
                self._stop(record.name, 0.0)
                if not record.is_stopped:
                    ended.append(record.key)
        self._drop_orphans()
        self._output.forget_old(self._settings.ended_kept_s)
        return tuple(sorted(ended))

    def close(self) -> None:
        """Jobs go on: they are the cluster's."""
        for mirror in self._mirrors():
            mirror.close()
        self._api.close()
        for mirror in self._mirrors():
            mirror.join()

    # What the cluster has.

    def _mirrors(self) -> tuple[Mirror[Any], ...]:
        return (self._jobs, self._services, self._pods)

    def _watch(self) -> None:
        for mirror in self._mirrors():
            mirror.watch()

    def _is_watching(self) -> bool:
        return all(mirror.is_watching for mirror in self._mirrors())

    def _refresh(self, within_s: float) -> None:
        # Pods after their owners: a pod that is gone from the list has left its end with its owner.
        for mirror in (self._pods, self._jobs, self._services):
            mirror.refresh(within_s=within_s)

    def _newest(self) -> dict[str, Pod]:
        """Of each name its newest pod."""
        newest: dict[str, Pod] = {}
        for pod in self._pods.all():
            other = newest.get(pod.of)
            if other is None or (other.made_at, other.name) < (pod.made_at, pod.name):
                newest[pod.of] = pod
        return newest

    def _record(self, name: str) -> Record | None:
        return self._jobs.find(name) or self._services.find(name)

    def _pods_of(self, name: str) -> list[Pod]:
        """The pods of one record, as they are now."""
        rows, _ = self._api.list(self._pods.path, f"{self._selector},{reading.NAME}={name}")
        for row in rows:
            self._pods.put(row)
        return [reading.pod_of(row) for row in rows]

    def _path(self, record: Record) -> str:
        return f"{(self._services if record.is_service else self._jobs).path}/{record.name}"

    def _status(self, key: str, newest: Mapping[str, Pod]) -> JobStatus:
        name = body.name_of(self._label, key)
        record, pod = self._record(name), newest.get(name)
        if record is None:
            with self._lock:
                return self._ended.get(name) or JobStatus(key, Phase.unknown)
        with self._lock:
            if name in self._ended and not record.is_service:
                return self._ended[name]
        if record.end and (pod is None or pod.is_live):
            # Of two watches one is quicker: the job may be told before the pod that ended it.
            pod = max(self._pods_of(name), key=lambda each: (each.made_at, each.name), default=None)
        if why := reading.cannot_begin(record, pod):
            self._give_up(record, why)
            record = self._record(name) or record
        status = reading.job_status(key, record, pod)
        if status.phase is Phase.ended and not record.is_service:
            with self._lock:
                while len(self._ended) >= MOST_KNOWN:
                    del self._ended[next(iter(self._ended))]
                self._ended[name] = status
            if pod is not None and not self._output.has_all_of(name):
                self._follow(name, pod.name)
        return status

    def _notify(self) -> None:
        with self._changed:
            self._changes += 1
            self._changed.notify_all()

    def _pod_changed(self, old: Pod | None, new: Pod) -> None:
        """Note when we saw that a pod runs, and that it ended."""
        if not self._pods.is_watching:
            return
        if new.phase == "Running" and (old is None or old.phase != "Running"):
            while len(self._seen) >= MOST_KNOWN:
                del self._seen[next(iter(self._seen))]
            self._seen[new.name] = [time.time()]
        elif new.has_ended and len(self._seen.get(new.name, ())) == 1:
            self._seen[new.name].append(time.time())

    def _offers(self, *, fresh_s: float) -> list[Offer]:
        now = time.monotonic()
        if self._nodes_at is None or now - self._nodes_at > fresh_s:
            self._nodes, _ = self._api.list("/api/v1/nodes")
            self._nodes_at = now
        return reading.offers(
            self._nodes,
            labels=self._settings.labels,
            gpu_resource=self._settings.gpu_resource,
            price_usd_per_hour=self._price_usd_per_hour,
        )

    # What it is told.

    def _made(self, launch: Launch, name: str, path: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Make the environment and the record of a key that the cluster does not have."""
        with self._lock:
            self._ended.pop(name, None)  # of an earlier job of this key, which somebody deleted
        self._output.forget(name)
        secrets = f"{self._core}/secrets"
        kept = self._api.create(secrets, body.secret(launch, name, self._label))
        if kept.status != 409:
            self._api.good(kept)
        answer = self._api.create(path, wanted)
        if answer.status == 409:  # another was quicker, or an answer was lost
            return dict(self._api.good(self._api.ask("GET", f"{path}/{name}")))
        if 400 <= answer.status < 500:  # the key is not used up
            with contextlib.suppress(FourfoldError):
                self._api.delete(f"{secrets}/{name}")
        return dict(self._api.good(answer))

    def _complete(self, launch: Launch, name: str, item: Mapping[str, Any]) -> None:
        """Give the environment to its record, and a service its name, also after a try that was cut off."""
        owned = body.owned(item)
        with contextlib.suppress(FourfoldError):  # `reap` removes what belongs to nobody
            self._api.patch(f"{self._core}/secrets/{name}", owned)
            if launch.kind == "service" and launch.listens:
                service = body.service(launch, name, self._label, self._settings)
                service["metadata"] |= owned["metadata"]
                self._api.create(f"{self._core}/services", service)

    def _stop(self, name: str, grace_s: float, why: str = "") -> None:
        """End what a record started, for good: it is marked first, so that its end is understood."""
        record = self._record(name)
        if record is None:
            return
        notes = {STOPPED: iso(Instant(round(time.time()) * SECOND_US)), **({WHY: why} if why else {})}
        if not record.is_stopped:
            self._told(record, {"metadata": {"annotations": notes}})
        grace = max(LEAST_GRACE_S, math.ceil(grace_s))
        for pod in self._pods_of(name):
            if pod.is_live:
                if pod.phase == "Running":
                    self._follow(name, pod.name).wait(FOLLOW_WITHIN_S)
                self._api.delete(f"{self._pods.path}/{pod.name}", gracePeriodSeconds=grace)
        self._told(record, {"spec": {"replicas": 0} if record.is_service else {"suspend": True}})

    def _told(self, record: Record, change: Mapping[str, Any]) -> None:
        item = self._api.patch(self._path(record), change)
        if item is not None:
            (self._services if record.is_service else self._jobs).put(item)

    def _give_up(self, record: Record, why: str) -> None:
        """End what waits for ever, so that it does not start when nobody expects it."""
        with contextlib.suppress(FourfoldError):  # it is tried again with the next look
            self._stop(record.name, 0.0, why)

    def _follow(self, name: str, pod: str) -> threading.Event:
        """Keep what a pod prints up to its end, beside us: it goes with the pod. Set once that has begun."""
        begun = threading.Event()

        def follow() -> None:
            try:
                with contextlib.suppress(FourfoldError):
                    if self._output.pull(name, pod, follows=True, begun=begun.set):
                        self._output.mark_whole(name)
            finally:
                begun.set()
                self._following.pop(name, None)

        with self._lock:
            if name in self._following or len(self._following) >= MOST_FOLLOWED:
                begun.set()
                return begun
            thread = threading.Thread(target=follow, name="kubernetes-output", daemon=True)
            self._following[name] = thread
            thread.start()
        return begun

    def _drop_orphans(self) -> None:
        """Remove environments whose job was never made."""
        rows, _ = self._api.list(f"{self._core}/secrets", self._selector)
        for row in rows:
            metadata = row["metadata"]
            made_at = reading.made_at(row)
            is_old = time.time() - made_at / SECOND_US > SECRET_KEPT_S
            if is_old and not metadata.get("ownerReferences") and self._record(metadata["name"]) is None:
                self._api.delete(f"{self._core}/secrets/{metadata['name']}")
