"""A project with two pools: configuration says where steps run, and one that is down stops no other."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from tests.flows.conftest import UNIT, Project, opened

from fourfold.adapters.local_engine import LocalEngine
from fourfold.adapters.system_clock import SystemClock
from fourfold.catalog.ids import new_id
from fourfold.core.decide.pools import PoolRules
from fourfold.core.errors import Refused, Unavailable
from fourfold.resources.flows.crew import Settings
from fourfold.resources.flows.service import FlowService
from fourfold.resources.pools import pool as pools
from fourfold.resources.pools.pool import PoolPlan

pytestmark = pytest.mark.slow

SOURCE = """
@ff.step
def fetch(n):
    return list(range(n))

@ff.step({asks})
def total(numbers):
    return sum(numbers)

@ff.flow
def report(n: int = 4):
    return total(fetch(n)).result()
"""


class Switch:
    """Whether the lab can be reached."""

    def __init__(self) -> None:
        self.is_down = False


def service(project: Project, rules: PoolRules, switch: Switch | None = None) -> FlowService:
    """The project's flows over two pools of this machine, the second of which can be switched off."""
    home, at = project.folder / ".fourfold", switch or Switch()

    def lab() -> LocalEngine:
        if at.is_down:
            raise Unavailable("the lab's controller does not answer")
        return LocalEngine(home / "jobs.lab", unit=replace(UNIT, name="node1"), cwd=project.folder)

    return FlowService(
        project.catalog,
        project.blobs,
        home=home,
        pools=lambda: (*project.pools(), PoolPlan("lab", lab, engine="lab://", price_usd_per_hour=2.0)),
        clock=SystemClock(),
        new_id=new_id,
        environment=lambda: "env",
        accounts=project.compute,
        settings=Settings(pools=rules),
    )


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    with opened(tmp_path) as project:
        yield project


def units(project: Project, run: str) -> dict[str, str]:
    return {str(each.call): each.unit for each in project.flows.graph(run).attempts}


def run(project: Project, rules: PoolRules, asks: str = "") -> tuple[int, dict[str, str]]:
    """A run's result, and the unit of each call, under these rules."""
    module = project.module("reports", SOURCE.format(asks=asks))
    with closing(service(project, rules)) as flows:
        project.flows = flows
        swap(project)
        submitted = module.report.submit(n=4)
        ended = flows.wait(submitted.id, timeout_s=60)
        assert ended.state == "succeeded", ended.reason
        from fourfold.resources.flows import codec

        return codec.decode(flows.result(submitted.id)), units(project, submitted.id)


def swap(project: Project) -> None:
    from types import SimpleNamespace
    from typing import Any

    from fourfold.core import context

    services: Any = SimpleNamespace(flows=project.flows)
    context.set_opener(lambda: services)


def test_configuration_alone_moves_steps_and_the_result_is_the_same(project: Project) -> None:
    at_home = {"flow": "", "fetch#0": "local", "total#0": "local"}
    assert run(project, PoolRules("local")) == (6, at_home)
    one = run(project, PoolRules("local", patterns=[("report/total", "lab")]))
    assert one == (6, at_home | {"total#0": "lab/node1"})
    everything = run(project, PoolRules("local", everything="lab"))
    assert everything == (6, {"flow": "", "fetch#0": "lab/node1", "total#0": "lab/node1"})
    by_code = run(project, PoolRules("local"), asks='pool="lab"')
    assert by_code == (6, at_home | {"total#0": "lab/node1"})


def test_a_pool_that_is_not_there_is_refused_before_anything_runs(project: Project) -> None:
    module = project.module("reports", SOURCE.format(asks='pool="lap"'))
    with closing(service(project, PoolRules("local"))) as project.flows:
        swap(project)
        with pytest.raises(Refused, match=r"step 'total' of flow 'report' asks for pool 'lap'"):
            module.report.submit()
        assert project.flows.list() == ()


def test_a_pool_that_is_down_stops_no_other_and_its_steps_go_on_when_it_is_back(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "RETRY_S", 0.05)
    module = project.module("reports", SOURCE.format(asks='pool="lab"'))
    switch = Switch()
    switch.is_down = True
    with closing(service(project, PoolRules("local"), switch)) as flows:
        project.flows = flows
        swap(project)
        submitted = module.report.submit()
        seen = threading.Event()

        def until_it_waits() -> str:
            for event in flows.follow(submitted.id):
                if event.call == "fetch#0" and event.state == "succeeded":
                    seen.set()
                    return next(each.reason for each in flows.why(submitted.id) if each.call == "total#0")
            return ""

        waits = until_it_waits()
        assert seen.is_set(), "the other pool went on"
        assert waits == "pool 'lab' cannot be used now: the lab's controller does not answer"
        listed = {pool.name: pool for pool in flows.pools()}
        assert (listed["lab"].load.fault, listed["lab"].load.queued_count) == (
            "the lab's controller does not answer",
            1,
        )
        assert listed["local"].load.fault == ""
        switch.is_down = False
        assert flows.wait(submitted.id, timeout_s=60).state == "succeeded"
        assert units(project, submitted.id)["total#0"] == "lab/node1"
        assert len(flows.graph(submitted.id).attempts) == 3, "waiting used up no try"


def test_output_is_read_from_the_pool_where_a_step_ran(project: Project) -> None:
    module = project.module(
        "talks",
        '@ff.step(pool="lab")\ndef say():\n    print("from the lab")\n\n'
        "@ff.flow\ndef talk():\n    say().result()\n",
    )
    with closing(service(project, PoolRules("local"))) as flows:
        project.flows = flows
        swap(project)
        submitted = module.talk.submit()
        flows.wait(submitted.id, timeout_s=60)
        assert flows.logs(submitted.id, call="say#0").text == "from the lab\n"
