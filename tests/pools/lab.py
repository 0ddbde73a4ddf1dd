"""A project with a pool on other machines, and the network between."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.flows.conftest import Project
from tests.pools.detached import Detached
from tests.pools.test_several_pools import swap
from tests.pools.wire import Wire, free_port

from fourfold.adapters.system_clock import SystemClock
from fourfold.catalog.ids import new_id
from fourfold.core.compute import EnvironmentRecord
from fourfold.core.decide.pools import PoolRules
from fourfold.core.times import Instant
from fourfold.foundation.compute.environments import identify_lock
from fourfold.resources.flows import codec
from fourfold.resources.flows.crew import Settings
from fourfold.resources.flows.owner import Far
from fourfold.resources.flows.service import FlowService
from fourfold.resources.flows.starters import Brought
from fourfold.resources.pools.pool import PoolPlan

WITHIN_S = 60.0
SOURCE = """
import os, subprocess, time

def mark(text):
    with open("marks", "a") as file:
        file.write(text + "\\n")

@ff.step(pool="lab")
def fit(n):
    mark(f"begin {os.getpid()}")
    child = subprocess.Popen(["sleep", "600"])
    mark(f"child {child.pid}")
    while os.path.exists("hold"):
        time.sleep(0.01)
    child.kill()
    mark("end")
    return [n] * 3

@ff.flow
def train(n: int = 7):
    return fit(n).result()
"""


class Lab:
    """A project with a pool on other machines, its owners one after the other, and the network between."""

    def __init__(self, project: Project, *, bare: Path | None = None, lock: str = "") -> None:
        """With `bare` the lab's machine has that Python, none of ours and a cache of its own, and runs are
        pinned to the environment of `lock`."""
        self.project = project
        self._bare = bare
        self.locked = identify_lock(lock)
        self._lock = lock
        self.jobs: dict[str, subprocess.Popen[bytes]] = {}
        self.port = free_port()
        self.wire = Wire(self.port)
        self.cache_bytes = 0
        self.cache_at = ""
        self.environ: dict[str, str] = {}
        self.units: tuple[str, ...] = ("node1",)
        self.is_out_of_reach = False
        (project.folder / "hold").touch()

    def engine(self) -> Detached:
        made = Detached(self.project.folder / "lab", self.jobs, bare=self._bare, environ=self.environ)
        made.units, made.is_out_of_reach = self.units, self.is_out_of_reach
        return made

    @property
    def cache(self) -> Path:
        """What the lab's machine keeps."""
        return Path(self.cache_at or self.project.folder / "lab" / "cache" / "fourfold")

    def log(self) -> str:
        """What all workers there have printed."""
        return "".join((self.project.folder / "lab" / key).read_text() for key in tuple(self.jobs))

    def owner(self, *, away_s: float = 60.0) -> FlowService:
        """The next owner of the project."""
        home = self.project.folder / ".fourfold"
        plan = PoolPlan("lab", self.engine, outlives=True, cache=self.cache_at, cache_bytes=self.cache_bytes)
        self.project.flows = FlowService(
            self.project.catalog,
            self.project.blobs,
            home=home,
            pools=lambda: (*self.project.pools(), plan),
            clock=SystemClock(),
            new_id=new_id,
            environment=lambda: self.locked.identity,
            brought=None if self._bare is None else Brought(self._record),
            settings=Settings(pools=PoolRules("local"), away_s=away_s),
            far=Far("127.0.0.1", self.port, f"127.0.0.1:{self.wire.port}", away_s=away_s),
        )
        swap(self.project)
        return self.project.flows

    def _record(self, identity: str) -> EnvironmentRecord:
        assert identity == self.locked.identity
        of = self.locked
        return EnvironmentRecord(
            of.identity, of.python, of.platform, len(of.packages), "lock", Instant(0), self._lock
        )

    def submit(self, source: str = SOURCE, *, flow: str = "train", **given: object) -> str:
        return str(getattr(self.project.module("training", source), flow).submit(**given).id)

    def marks(self, what: str) -> list[str]:
        path = self.project.folder / "marks"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.removeprefix(what).strip() for line in lines if line.startswith(what)]

    def release(self) -> None:
        (self.project.folder / "hold").unlink()

    def result(self, flows: FlowService, run: str) -> Any:
        ended = flows.wait(run, timeout_s=WITHIN_S)
        assert ended.state == "succeeded", (ended.reason, ended.failure)
        return codec.decode(flows.result(run))

    def close(self) -> None:
        for job in self.jobs.values():
            if job.poll() is None:
                os.killpg(job.pid, 9)
                job.wait(10)


def until(holds: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.01)


def is_over(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
