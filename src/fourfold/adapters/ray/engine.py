"""Runs jobs on a Ray cluster, each as a submission of its Jobs API.

A key's submission id is made of the project's label and the key, and Ray takes an id only once: so a key
submitted twice, also by another process or after a lost answer, starts one job. What Ray does not do, its
keeper on the node does (`keeper.py`): limits, whole process trees, exact output, use.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import shlex
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fourfold.adapters.ray import reading
from fourfold.adapters.ray.api import RayApi
from fourfold.adapters.ray.ending import Ending
from fourfold.adapters.ray.output import PIECE_BYTES
from fourfold.adapters.ray.package import Package
from fourfold.adapters.ray.settings import RaySettings
from fourfold.core.decide.match import check_abilities, match, refusal
from fourfold.core.errors import Refused, TooMuch
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
from fourfold.core.quantities import Range

LABEL = "fourfold_project"
KEY = "fourfold_key"
LISTENS = "fourfold_listens"
MOST_LAUNCH_BYTES = 96 * 1024
"""Of a command and its environment together: Linux takes 128 KiB in one variable."""
FIRST_LOOK_S = 0.1
LAST_LOOK_S = 1.0
ALONE_LOOK_S = 0.05
"""The first pause where one job is asked for, which costs Ray little."""
LOOK_SHARE = 0.05
"""A pause is this share of the wait so far: an end is known five percent late, and looks grow rare."""
NODES_FRESH_S = 3.0
ENDED_WAIT_S = 3600
"""What Ray is told to wait after its polite word: the keeper ends the job long before."""
REAPED_WITHIN_S = 30.0


class RayEngine:
    """The engine of `ray://`."""

    def __init__(self, settings: RaySettings, *, label: str, price_usd_per_hour: float = 0.0) -> None:
        """`label` tells our jobs from those of others on the cluster; `reap` ends no others.

        Two engines with one label are one engine: use a label for each project and use.
        """
        self._settings = settings
        self._label = label
        self._price_usd_per_hour = price_usd_per_hour
        self._api = RayApi(settings)
        self._package = Package(self._api)
        self._ending = Ending(self._job_by_id, self._knock)
        self._lock = threading.Lock()
        self._live: set[str] = set()  # submission ids, as far as we know
        self._nodes: list[dict[str, Any]] = []
        self._nodes_at: float | None = None
        self._addresses: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"<RayEngine {self._settings.url}: {len(self._live)} running>"

    def capabilities(self) -> Capabilities:
        return Capabilities(
            services=True,
            memory_limit="polled",
            time_limit=True,
            gpus=True,
            survives_control_restart=True,
            listens=True,
            nodes=True,
            images=False,
            shares_files=self._settings.shares_files,
        )

    def offers(self, request: Resources) -> tuple[Offer, ...]:
        return match(request, self._all_offers(fresh_s=0.0))

    def submit(self, launch: Launch) -> None:
        check_abilities(launch, self.capabilities(), engine=self._settings.url)
        who = f"job '{launch.key}'"
        everything = self._all_offers(fresh_s=NODES_FRESH_S)
        met = match(launch.resources, everything)
        if not met:
            raise refusal(launch.resources, everything, who=who)
        if launch.nodes > len(met):
            raise Refused(
                f"{who} asks for {launch.nodes} nodes, but only {len(met)} can give what is asked of each",
                ways_on=[f"the cluster has {len(everything)} nodes", "ask for fewer nodes, or less of each"],
            )
        request = self._request(launch, met[0])
        self._keep_the_bound(launch.key)
        self._api.submit(request)
        with self._lock:
            self._live.add(str(request["submission_id"]))

    def status(self, keys: Collection[str]) -> Mapping[str, JobStatus]:
        if not keys:
            return {}
        by_id = {self._id(key): key for key in keys}
        if len(by_id) == 1:
            (id_,) = by_id
            job = self._api.job(id_)
            found = {} if job is None else {id_: job}
        else:
            found = self._list()
        return {key: self._status(key, id_, found.get(id_)) for id_, key in by_id.items()}

    def wait(self, keys: Collection[str], timeout_s: float) -> Mapping[str, JobStatus]:
        """Ray tells nobody of an end, so this looks: soon at first, then once a second."""
        began = time.monotonic()
        deadline = began + timeout_s
        while True:
            found = self.status(keys)
            left = deadline - time.monotonic()
            if left <= 0 or any(job.phase in (Phase.ended, Phase.unknown) for job in found.values()):
                return found
            time.sleep(min(left, pause_s(time.monotonic() - began, len(found))))

    def logs(self, key: str, offset: int = 0, limit_bytes: int = 1 << 20) -> LogChunk:
        id_ = self._id(key)
        job = self._api.job(id_)
        node_id = str((job or {}).get("driver_node_id") or "")
        if job is None or not node_id:
            return LogChunk(b"", offset, job is None or job["status"] in reading.ENDED)
        state = self._state(id_, job)  # asked before reading
        pieces, at = [], offset
        while at < offset + limit_bytes:
            piece = self._api.file(node_id, f"fourfold/{id_}/out.{at // PIECE_BYTES:06d}")
            part = (piece or b"")[at % PIECE_BYTES :][: offset + limit_bytes - at]
            if not part:
                break
            pieces.append(part)
            at += len(part)
        size = (state or {}).get("output_bytes")
        is_whole = (
            at >= size if size is not None else job["status"] in reading.ENDED and at < offset + limit_bytes
        )
        return LogChunk(b"".join(pieces), at, is_whole)

    def stop(self, key: str, grace_s: float = 5.0) -> None:
        self._stop(self._id(key), grace_s)

    def usage(self, key: str) -> Usage:
        id_ = self._id(key)
        job = self._api.job(id_)
        state = None if job is None else self._on_node(id_, job) or reading.end_state(job)
        return Usage() if state is None else reading.usage_of(state)

    def reap(self, keep: Collection[str]) -> tuple[str, ...]:
        kept = {self._id(key) for key in keep}
        ours = {id_: job for id_, job in self._list().items() if self._is_ours(job) and id_ not in kept}
        running = {id_: job for id_, job in ours.items() if job["status"] not in reading.ENDED}
        for id_ in running:
            self._stop(id_, 0)
        now_ms = time.time() * 1000
        for id_, job in ours.items():
            if (
                id_ not in running
                and now_ms - (job.get("end_time") or now_ms) > self._settings.ended_kept_s * 1000
            ):
                self._api.delete(id_)
        keys = sorted(str(job["metadata"][KEY]) for job in running.values())
        deadline = time.monotonic() + REAPED_WITHIN_S
        while running and time.monotonic() < deadline:
            time.sleep(FIRST_LOOK_S)
            found = self._list()
            running = {
                id_: found[id_] for id_ in running if id_ in found and found[id_]["status"] == "RUNNING"
            }
        return tuple(keys)

    def batches_launch(self, key: str, folder: str, count: int) -> Launch:
        """Fulfils `MapsBatches` with Ray Data; the folder is to be seen by all nodes."""
        script = Path(__file__).with_name("data.py").read_text()
        argv = (self._settings.ray_python, "-c", script, folder, str(count))
        return Launch(key, argv, resources=Resources(cpu=Range(0)))

    def close(self) -> None:
        """Jobs go on: they are the cluster's."""
        self._ending.close()
        self._api.close()

    # How.

    def _id(self, key: str) -> str:
        return "fourfold-" + hashlib.sha256(b"\0".join((self._label.encode(), key.encode()))).hexdigest()[:32]

    def _is_ours(self, job: Mapping[str, Any]) -> bool:
        return (job.get("metadata") or {}).get(LABEL) == self._label

    def _request(self, launch: Launch, offer: Offer) -> dict[str, object]:
        """What Ray is asked: a driver that is our keeper, and what its node is to have."""
        settings, resources, id_ = self._settings, launch.resources, self._id(launch.key)
        spec: dict[str, object] = {
            "format": 1,
            "job": id_,
            "key": launch.key,
            "argv": launch.argv,
            "env": dict(launch.env),
            "cwd": launch.cwd,
            "time_limit_s": resources.time_limit_s,
            "memory_limit_bytes": resources.memory_bytes.high,
            "threads": max(1, int(min(resources.cpu.high or resources.cpu.low, offer.cpu))),
            "listens": launch.listens,
            "grace_s": settings.grace_s,
            "most_output_bytes": settings.most_output_bytes,
            "kept_s": settings.ended_kept_s,
        }
        wants: dict[str, object] = {
            "entrypoint_num_cpus": resources.cpu.low,
            "entrypoint_num_gpus": resources.gpu.low,
            "entrypoint_memory": math.ceil(resources.memory_bytes.low),
        }
        if resources.gpu_name:
            wants["entrypoint_resources"] = {f"{reading.ACCELERATOR}{offer.gpu_name}": 0.001}
        if launch.nodes > 1:  # the driver itself holds nothing: each node's process is kept there
            spec = _of_a_gang(spec, launch, wants, settings)
            wants = {}
        text = base64.b64encode(json.dumps(spec).encode()).decode()
        if len(text) > MOST_LAUNCH_BYTES:
            raise Refused(
                f"job '{launch.key}' has a command and an environment of {len(text)} bytes",
                ways_on=[f"Ray takes {MOST_LAUNCH_BYTES}", "put what is large into a file or a blob"],
            )
        if any("\0" in word for word in (*launch.argv, *launch.env, *launch.env.values(), launch.cwd)):
            raise Refused(f"job '{launch.key}' has a zero byte in its command or environment")
        metadata = {LABEL: self._label, KEY: launch.key, **({LISTENS: "1"} if launch.listens else {})}
        return {
            "entrypoint": f"exec {shlex.quote(settings.python)} -I -S keeper.py",
            "submission_id": id_,
            "metadata": metadata,
            "runtime_env": {
                "working_dir": self._package.uri(),
                "env_vars": {"FOURFOLD_LAUNCH": text, "RAY_JOB_STOP_WAIT_TIME_S": str(ENDED_WAIT_S)},
            },
            **{name: value for name, value in wants.items() if value},
        }

    def _keep_the_bound(self, key: str) -> None:
        """Ray holds a process for each job, so there is a bound to how many."""
        id_, most = self._id(key), self._settings.most_jobs
        with self._lock:
            is_free = len(self._live) < most or id_ in self._live
        if is_free:
            return
        self._list()
        with self._lock:
            if len(self._live) >= most and id_ not in self._live:
                raise TooMuch(
                    f"job '{key}' was not started: {len(self._live)} of '{self._label}' are on the cluster",
                    ways_on=[
                        "wait until one has ended",
                        f"or raise most_jobs (now {most}) in the pool's address",
                    ],
                )

    def _list(self) -> dict[str, dict[str, Any]]:
        found = self._api.jobs()
        live = {
            id_ for id_, job in found.items() if self._is_ours(job) and job["status"] not in reading.ENDED
        }
        with self._lock:
            self._live = live
        return found

    def _status(self, key: str, id_: str, job: Mapping[str, Any] | None) -> JobStatus:
        if job is None:
            with self._lock:
                self._live.discard(id_)
            self._package.forget()
            return JobStatus(key, Phase.unknown)
        status = reading.job_status(key, job, self._units(job))
        if status.phase is Phase.ended:
            with self._lock:
                self._live.discard(id_)
                self._addresses.pop(id_, None)
            if job.get("error_type") == "RUNTIME_ENV_SETUP_FAILURE":
                self._package.forget()
        elif status.phase is Phase.running and LISTENS in (job.get("metadata") or {}):
            return replace(status, address=self._address(id_, job))
        return status

    def _address(self, id_: str, job: Mapping[str, Any]) -> str:
        """Where a listening job is reached; it is told once its command has been started."""
        with self._lock:
            known = self._addresses.get(id_, "")
        if known:
            return known
        state = self._state(id_, job) or {}
        node = next((n for n in self._nodes if n["node_id"] == job.get("driver_node_id")), None)
        address = str(state.get("address") or "")
        if not address and "port" in state and node is not None:
            address = f"{node['node_ip']}:{state['port']}"
        if address:
            with self._lock:
                self._addresses[id_] = address
        return address

    def _state(self, id_: str, job: Mapping[str, Any]) -> dict[str, Any] | None:
        """What the job's keeper wrote last: of one that failed Ray gives it, else it is on the node."""
        return reading.end_state(job) or self._on_node(id_, job)

    def _on_node(self, id_: str, job: Mapping[str, Any]) -> dict[str, Any] | None:
        data = self._api.file(str(job.get("driver_node_id") or ""), f"fourfold/{id_}/state.json")
        try:
            state = json.loads(data or b"null")
        except ValueError:  # caught between two writes, which a rename makes rare
            return None
        return state if isinstance(state, dict) else None

    def _job_by_id(self, id_: str) -> Mapping[str, Any] | None:
        return self._api.job(id_)

    def _stop(self, id_: str, grace_s: float) -> None:
        self._api.stop(id_)
        self._ending.after(id_, grace_s)

    def _knock(self, id_: str, node_id: str) -> None:
        self._api.file(node_id, f"fourfold/{id_}/end-now")

    def _all_offers(self, *, fresh_s: float) -> list[Offer]:
        return reading.offers(self._seen_nodes(fresh_s), price_usd_per_hour=self._price_usd_per_hour)

    def _units(self, job: Mapping[str, Any]) -> dict[str, str]:
        """Names of nodes; asked anew only when the job is on one that we have not seen."""
        node_id = job.get("driver_node_id")
        names = reading.unit_names(self._nodes)
        if node_id and node_id not in names:
            names = reading.unit_names(self._seen_nodes(NODES_FRESH_S))
        return names

    def _seen_nodes(self, fresh_s: float) -> list[dict[str, Any]]:
        now = time.monotonic()
        if self._nodes_at is None or now - self._nodes_at > fresh_s:
            self._nodes, self._nodes_at = self._api.nodes(), now
        return self._nodes


def pause_s(waited_s: float, key_count: int) -> float:
    """How long to pause before the next look at so many jobs.

    >>> pause_s(0.0, 1), pause_s(10.0, 1), pause_s(600.0, 50)
    (0.05, 0.5, 1.0)
    """
    first_s = ALONE_LOOK_S if key_count == 1 else FIRST_LOOK_S
    return min(LAST_LOOK_S, max(first_s, waited_s * LOOK_SHARE))


def _of_a_gang(
    spec: dict[str, object], launch: Launch, wants: Mapping[str, object], settings: RaySettings
) -> dict[str, object]:
    """The keeper of the driver starts `gang.py`, which starts a keeper on each node."""
    bundle = {
        "CPU": wants["entrypoint_num_cpus"],
        "GPU": wants["entrypoint_num_gpus"],
        "memory": wants["entrypoint_memory"],
        **(wants.get("entrypoint_resources") or {}),  # type: ignore[dict-item]
    }
    gang = {
        "nodes": launch.nodes,
        "bundle": {name: amount for name, amount in bundle.items() if amount},
        "spec": spec,
        "python": settings.python,
    }
    return {
        **spec,
        "argv": [settings.ray_python, "gang.py"],
        "env": {"FOURFOLD_GANG": base64.b64encode(json.dumps(gang).encode()).decode()},
        "cwd": ".",
        "time_limit_s": None,  # the nodes' keepers hold the limits: waiting for nodes counts for neither
        "memory_limit_bytes": None,
        "listens": False,
        "verdict": "verdict.json",
    }
