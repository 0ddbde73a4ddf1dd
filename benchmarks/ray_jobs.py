"""What our engine adds to a job on Ray, beside Ray's own Jobs API on the same cluster in the same run.

    .venv/bin/python -m benchmarks.ray_jobs [--quick] [--json]

Starts a cluster of three nodes on this machine, in Ray's own environment. Both ways take turns, reserve one
core, run `/bin/true`, and look for the end in the same rhythm. The exit status is 1 when a claim
did not hold.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import uuid
from dataclasses import asdict

from benchmarks.compute import Row, at_most
from tests.compute.conftest import ray_cluster_running

from fourfold.adapters.ray import RayEngine, RaySettings
from fourfold.adapters.ray.api import RayApi
from fourfold.adapters.ray.engine import pause_s
from fourfold.core.ports.engine import Launch, Phase

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


def ours(engine: RayEngine) -> float:
    """Seconds from submission to the known end."""
    began, key = time.perf_counter(), uuid.uuid4().hex
    engine.submit(Launch(key, ("/bin/true",)))
    assert engine.wait([key], 120)[key].phase is Phase.ended
    return time.perf_counter() - began


def peer(api: RayApi) -> float:
    """The same with nothing but Ray's API."""
    began, id_ = time.perf_counter(), uuid.uuid4().hex
    api.submit({"entrypoint": "/bin/true", "submission_id": id_, "entrypoint_num_cpus": 1})
    while (api.job(id_) or {})["status"] not in ENDED:
        time.sleep(pause_s(time.perf_counter() - began, 1))
    return time.perf_counter() - began


def calls_for_many(engine: RayEngine, count: int) -> int:
    """HTTP calls for the status of so many keys."""
    api = engine._api
    asked = 0
    ask = api._ask

    def counting(verb: str, path: str, *, body: bytes | None = None) -> tuple[int, bytes]:
        nonlocal asked
        asked += 1
        return ask(verb, path, body=body)

    api._ask = counting  # type: ignore[method-assign]
    engine.status([f"job/{index}" for index in range(count)])
    return asked


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--json", action="store_true", help="rows as JSON")
    given = parser.parse_args()
    with ray_cluster_running() as cluster:
        settings = RaySettings.parse(cluster.address)
        engine, api = RayEngine(settings, label="bench"), RayApi(settings)
        ours(engine), peer(api)  # the package is on its node, the nodes are warm
        mine, theirs = [], []
        for _ in range(5 if given.quick else 25):
            mine.append(ours(engine))
            theirs.append(peer(api))
        calls = calls_for_many(engine, 10_000)
        rows = [
            at_most(
                "a job from submission to its end, s (peer: Ray's own Jobs API)", mine, theirs, times=1.1
            ),
            Row(
                "HTTP calls for the status of 10,000 jobs", calls, 10_000, 1, calls / 10_000, "1", calls == 1
            ),
        ]
        engine.close()
        api.close()
    if given.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
    else:
        for row in rows:
            print(
                f"{row.claim}\n    ours {row.ours:.4g}, peer {row.peer:.4g}, ratio {row.ratio:.2f}; ", end=""
            )
            print(f"aim {row.aim}: {'held' if row.held else 'NOT HELD'}")
    return 0 if all(row.held for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
