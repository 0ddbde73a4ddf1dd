"""Runs on the cluster: starts a command once on each of several nodes, all of them or none.

It is itself a job's command, under a keeper, with Ray's library. A placement group holds what each node is
to give, on nodes of their own, before anything starts. On each an actor starts a keeper, which starts the
command. Output comes together here; when one of them fails the others are ended.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from typing import Any

import ray
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

OTHERS_GRACE_S = 5.0
LOOK_S = 0.5
READ_BYTES = 1 << 18
SUMMED = ("cpu_s", "memory_peak_bytes", "memory_mean_bytes", "read_bytes", "written_bytes")


@ray.remote(max_concurrency=2, max_restarts=0)
class Rank:
    """One process of the gang, on its node."""

    def where(self) -> tuple[str, int]:
        """This node's address, and a port that is free on it."""
        with socket.socket() as listener:
            listener.bind(("", 0))
            return ray.util.get_node_ip_address(), int(listener.getsockname()[1])

    def start(self, python: str, spec: dict[str, Any]) -> None:
        self.folder = tempfile.mkdtemp(prefix="fourfold-rank-")
        spec = {**spec, "folder": os.path.join(self.folder, "job")}
        text = base64.b64encode(json.dumps(spec).encode()).decode()
        self.process = subprocess.Popen(
            [python, "-I", "-S", "keeper.py"],
            env={**os.environ, "FOURFOLD_LAUNCH": text},
            stdin=subprocess.PIPE,  # closes with us: then the keeper ends the job
            stdout=subprocess.PIPE,
        )
        self.rest = b""

    def read(self) -> tuple[bytes, dict[str, Any] | None]:
        """More output, in whole lines where it has lines; with the last of it how the process ended."""
        assert self.process.stdout is not None
        data = os.read(self.process.stdout.fileno(), READ_BYTES)
        if data:
            whole, newline, self.rest = (self.rest + data).rpartition(b"\n")
            if not newline and len(self.rest) >= READ_BYTES:
                whole, self.rest = self.rest, b""
            return whole + newline, None
        self.process.wait()
        rest, self.rest = self.rest, b""
        return rest, self.state()

    def state(self) -> dict[str, Any]:
        try:
            with open(os.path.join(self.folder, "job", "state.json")) as file:
                state = dict(json.load(file))
        except (OSError, ValueError):
            state = {"exit": None, "usage": {}}
        if state["exit"] is not None or self.process.poll() is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
        if state["exit"] is None:
            state["exit"] = {"kind": "worker_lost", "reason": "its keeper did not run", "code": None}
        return state

    def stop(self) -> None:
        self.process.terminate()


class Gang:
    """All ranks, until the last has ended."""

    def __init__(self, gang: dict[str, Any], folder: str) -> None:
        self._gang = gang
        self._folder = folder
        self._is_told_to_stop = False
        self._states: dict[int, dict[str, Any]] = {}
        self._first: tuple[int, dict[str, Any]] | None = None

    def stop_soon(self, *_: object) -> None:
        self._is_told_to_stop = True

    def run(self) -> int:
        count = self._gang["nodes"]
        bundle = self._gang["bundle"] or {"CPU": 0.001}
        group = placement_group([bundle] * count, strategy="STRICT_SPREAD")
        ready = group.ready()
        while not ray.wait([ready], timeout=LOOK_S)[0]:
            if self._is_told_to_stop:
                return 70
        self._ranks = [self._rank(group, bundle, index) for index in range(count)]
        (host, port), *_ = ray.get([rank.where.remote() for rank in self._ranks])
        spec = self._gang["spec"]
        starts = []
        for index, rank in enumerate(self._ranks):
            env = {
                "RANK": str(index),
                "WORLD_SIZE": str(count),
                "LOCAL_RANK": "0",
                "MASTER_ADDR": host,
                "MASTER_PORT": str(port),
            }
            own = {**spec, "env": {**env, **spec["env"]}, "grace_s": OTHERS_GRACE_S, "streams": True}
            if spec["listens"]:
                own["port"] = ray.get(rank.where.remote())[1]
                if index == 0:
                    self._tell_address(f"{host}:{own['port']}")
            starts.append(rank.start.remote(self._gang["python"], own))
        ray.get(starts)
        self._follow()
        return self._conclude()

    def _rank(self, group: Any, bundle: dict[str, float], index: int) -> Any:
        others = {name: amount for name, amount in bundle.items() if name not in ("CPU", "GPU", "memory")}
        return Rank.options(  # type: ignore[attr-defined]
            num_cpus=bundle.get("CPU", 0),
            num_gpus=bundle.get("GPU", 0),
            memory=bundle.get("memory", 0),
            resources=others,
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index),
        ).remote()

    def _follow(self) -> None:
        """Pass output on until the last rank has ended."""
        reads = {rank.read.remote(): index for index, rank in enumerate(self._ranks)}
        is_stopping = False
        while reads:
            done, _ = ray.wait(list(reads), timeout=LOOK_S)
            for ref in done:
                index = reads.pop(ref)
                try:
                    data, state = ray.get(ref)
                except ray.exceptions.RayError as error:
                    reason = f"its node was lost: {str(error).splitlines()[0]}"
                    data, state = b"", {"exit": {"kind": "worker_lost", "reason": reason, "code": None}}
                write(data)
                if state is None:
                    reads[self._ranks[index].read.remote()] = index
                    continue
                self._states[index] = state
                if state["exit"]["kind"] != "ok" and self._first is None:
                    self._first = index, state["exit"]
            if not is_stopping and (self._is_told_to_stop or self._first is not None):
                is_stopping = True
                for index in reads.values():
                    self._ranks[index].stop.remote()

    def _conclude(self) -> int:
        used = [state.get("usage") or {} for state in self._states.values()]
        usage: dict[str, Any] = {name: sum(each.get(name) or 0 for each in used) for name in SUMMED}
        usage["wall_s"] = max((each.get("wall_s", 0.0) for each in used), default=0.0)
        usage["memory_peak_is_exact"] = False  # of several nodes, added up
        exit_: dict[str, Any] = {"kind": "ok", "reason": "", "code": 0}
        if self._first is not None:
            index, exit_ = self._first
            exit_ = {**exit_, "reason": f"rank {index}: {exit_['reason']}"}
        path = os.path.join(self._folder, "verdict.json")
        with open(path, "w") as file:
            json.dump({"exit": exit_, "usage": usage}, file)
        code = exit_["code"]
        return 0 if exit_["kind"] == "ok" else code if code and 0 < code < 256 else 70

    def _tell_address(self, address: str) -> None:
        path = os.path.join(self._folder, "address")
        with open(path + ".new", "w") as file:
            file.write(address)
        os.rename(path + ".new", path)


def write(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


def main() -> None:
    gang = Gang(json.loads(base64.b64decode(os.environ["FOURFOLD_GANG"])), os.environ["FOURFOLD_JOB"])
    signal.signal(signal.SIGTERM, gang.stop_soon)
    ray.init(log_to_driver=False, logging_level="ERROR")
    signal.signal(signal.SIGTERM, gang.stop_soon)  # Ray sets its own
    sys.exit(gang.run())


if __name__ == "__main__":
    main()
