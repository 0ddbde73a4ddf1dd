"""Real worker processes that outlive their connection and their owner: nothing is lost or done twice."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.flows.conftest import Project, opened
from tests.pools.detached import Detached
from tests.pools.test_several_pools import swap
from tests.pools.wire import Wire, free_port

from fourfold.adapters.system_clock import SystemClock
from fourfold.catalog.ids import new_id
from fourfold.core.decide.pools import PoolRules
from fourfold.resources.flows import codec
from fourfold.resources.flows.crew import Settings
from fourfold.resources.flows.owner import Far
from fourfold.resources.flows.service import FlowService
from fourfold.resources.pools.pool import PoolPlan

pytestmark = pytest.mark.slow

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

    def __init__(self, project: Project) -> None:
        self.project = project
        self.jobs: dict[str, subprocess.Popen[bytes]] = {}
        self.port = free_port()
        self.wire = Wire(self.port)
        (project.folder / "hold").touch()

    def owner(self, *, away_s: float = 60.0) -> FlowService:
        """The next owner of the project."""
        home = self.project.folder / ".fourfold"
        plan = PoolPlan("lab", lambda: Detached(self.project.folder / "lab", self.jobs), outlives=True)
        self.project.flows = FlowService(
            self.project.catalog,
            self.project.blobs,
            home=home,
            pools=lambda: (*self.project.pools(), plan),
            clock=SystemClock(),
            new_id=new_id,
            environment=lambda: "env",
            settings=Settings(pools=PoolRules("local"), away_s=away_s),
            far=Far("127.0.0.1", self.port, f"127.0.0.1:{self.wire.port}", away_s=away_s),
        )
        swap(self.project)
        return self.project.flows

    def submit(self) -> str:
        return str(self.project.module("training", SOURCE).train.submit().id)

    def marks(self, what: str) -> list[str]:
        path = self.project.folder / "marks"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.removeprefix(what).strip() for line in lines if line.startswith(what)]

    def release(self) -> None:
        (self.project.folder / "hold").unlink()

    def result(self, flows: FlowService, run: str) -> object:
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


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with opened(tmp_path) as project:
        lab = Lab(project)
        with lab.wire:
            yield lab
        lab.close()


def test_a_step_on_another_machine_gets_its_code_from_the_owner(lab: Lab) -> None:
    lab.release()
    with closing(lab.owner()) as flows:
        run = lab.submit()
        assert lab.result(flows, run) == [7, 7, 7]
        attempts = {str(each.call): each for each in flows.graph(run).attempts}
        assert attempts["fit#0"].unit == "lab/node1"
        (bundle,) = (lab.project.folder / "lab" / "cache" / "fourfold" / "code").iterdir()
        assert (bundle / "training.py").exists()


def test_a_step_goes_on_while_no_owner_is_there_and_the_next_one_takes_its_result(lab: Lab) -> None:
    with closing(lab.owner()):
        run = lab.submit()
        until(lambda: lab.marks("child"), "the step begins")
    lab.release()
    until(lambda: lab.marks("end"), "the step ends with no owner there")
    with closing(lab.owner()) as flows:
        flows.start_loop()
        assert lab.result(flows, run) == [7, 7, 7]
        assert len(lab.marks("begin")) == 1, "it was not done again"
        assert [each.n for each in flows.graph(run).attempts if each.call == "fit#0"] == [1]


def test_a_step_goes_on_while_the_network_is_cut(lab: Lab) -> None:
    with closing(lab.owner()) as flows:
        run = lab.submit()
        until(lambda: lab.marks("child"), "the step begins")
        lab.wire.cut()
        lab.release()
        until(lambda: lab.marks("end"), "the step ends")
        lab.wire.mend()
        assert lab.result(flows, run) == [7, 7, 7]
        assert len(lab.marks("begin")) == 1


def test_a_worker_that_hears_nothing_for_too_long_ends_itself_and_what_it_started(lab: Lab) -> None:
    with closing(lab.owner(away_s=1.0)):
        lab.submit()
        until(lambda: lab.marks("child"), "the step begins")
    (child,) = lab.marks("child")
    (worker,) = lab.jobs.values()
    assert worker.wait(WITHIN_S) != 0
    until(lambda: is_over(child), "what it started has ended")


def test_a_worker_whose_machine_dies_is_noticed_by_its_engine_and_its_step_runs_again(lab: Lab) -> None:
    with closing(lab.owner()) as flows:
        run = lab.submit()
        until(lambda: lab.marks("child"), "the step begins")
        (worker,) = lab.jobs.values()
        lab.release()
        os.killpg(worker.pid, 9)
        assert lab.result(flows, run) == [7, 7, 7]
        assert len(flows.graph(run).attempts) >= 2


def test_a_cancelled_step_ends_though_its_worker_cannot_be_reached(lab: Lab) -> None:
    with closing(lab.owner()) as flows:
        run = lab.submit()
        until(lambda: lab.marks("child"), "the step begins")
        lab.wire.cut()
        flows.cancel(run)
        (worker,) = lab.jobs.values()
        assert worker.wait(WITHIN_S) != 0, "its engine has ended it"
        assert flows.wait(run, timeout_s=WITHIN_S).state == "cancelled"


def is_over(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
