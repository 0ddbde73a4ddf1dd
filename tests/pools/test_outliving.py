"""Real worker processes that outlive their connection and their owner: nothing is lost or done twice."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.flows.conftest import opened
from tests.pools.lab import WITHIN_S, Lab, is_over, until

pytestmark = pytest.mark.slow


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


@pytest.mark.parametrize("environ", [{"FOURFOLD_UNIT": "node3"}, {}], ids=["it-tells", "its-engine-is-asked"])
def test_the_unit_that_an_engine_chose_by_itself_is_on_record(lab: Lab, environ: dict[str, str]) -> None:
    lab.units, lab.environ = ("node1", "node2", "node3"), environ
    with closing(lab.owner()) as flows:
        owner = flows.start_loop()
        run = lab.submit()

        def unit() -> str:
            return {str(each.call): each.unit for each in flows.graph(run).attempts}.get("fit#0", "")

        until(lambda: unit() == "lab/node3", "it is on record where it runs")
        assert {lease.unit for lease in owner.loop.leases.values()} == {"lab/node3"}
        until(lambda: lab.marks("child"), "the step begins")
        lab.release()
        assert lab.result(flows, run) == [7, 7, 7]
        assert unit() == "lab/node3"


@pytest.mark.parametrize(
    ("is_awaited", "told"), [(True, "this worker was given up"), (False, "it was to end")]
)
def test_a_worker_that_was_given_up_out_of_reach_kills_its_work_when_it_is_back(
    lab: Lab, is_awaited: bool, told: str
) -> None:
    lab.is_out_of_reach = True  # its engine can do nothing: the fence must
    with closing(lab.owner()) as flows:
        run = lab.submit()
        until(lambda: lab.marks("child"), "the step begins")
        (child,), (worker,) = lab.marks("child"), lab.jobs.values()
        lab.wire.cut()
        flows.cancel(run)
        if is_awaited:
            owner = flows.start_loop()
            until(lambda: not [each for each in owner.loop.workers if each.spec.kind == "step"], "given up")
        assert worker.poll() is None, "it goes on, and knows of nothing"
        lab.wire.mend()
        assert worker.wait(WITHIN_S) != 0
        until(lambda: is_over(child), "what it started has ended")
        assert f"the owner refused it: {told}" in lab.log()
        assert flows.wait(run, timeout_s=WITHIN_S).state == "cancelled"


SAYS = """
import os, sys, time

@ff.step(pool="lab")
def fit(n):
    os.write(1, b"caf\\xe9 first\\n")
    open("begun", "w").close()
    while os.path.exists("hold"):
        time.sleep(0.01)
    print("während niemand da ist")
    open("told", "w").close()
    while os.path.exists("hold more"):
        time.sleep(0.01)
    print("last")

@ff.flow
def train():
    return fit(1).result()
"""


def test_what_is_printed_while_no_owner_is_there_is_read_afterwards_without_gap_or_repetition(
    lab: Lab,
) -> None:
    folder = lab.project.folder
    (folder / "hold more").touch()
    with closing(lab.owner()) as flows:
        run = lab.submit(SAYS)
        until((folder / "begun").exists, "the step has printed")
        first = flows.logs(run, call="fit#0")
        assert (first.text, first.is_end) == ("caf\N{REPLACEMENT CHARACTER} first\n", False)
    lab.release()
    until((folder / "told").exists, "it has printed while nobody is there")
    with closing(lab.owner()) as flows:
        flows.start_loop()
        (folder / "hold more").unlink()
        lab.result(flows, run)
        rest = flows.logs(run, call="fit#0", offset=first.next_offset)
        assert rest.text == "während niemand da ist\nlast\n"
        assert rest.is_end
