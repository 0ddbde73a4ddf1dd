"""A step on several nodes: all its processes begin and end together, and it counts as one."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.flows.conftest import Project

from fourfold.core.errors import Refused
from fourfold.core.flows import FlowFailed, RunState
from fourfold.core.jobs import ExitKind

pytestmark = pytest.mark.slow

WITHIN_S = 60.0
SOURCE = """
import os, socket, sys, time
from fourfold.core import context
from fourfold.resources.flows.nodes import node

def mark(text):
    with open("marks", "a") as file:
        file.write(f"{text}\\n")

def exchange(own):
    "Each node tells the first one something; all get the sum."
    me = node()
    if me.is_first:
        with socket.create_server((me.address, me.port)) as listener:
            others = [listener.accept()[0] for _ in range(me.count - 1)]
            total = own + sum(int(other.recv(99)) for other in others)
            for other in others:
                other.sendall(str(total).encode())
                other.close()
        return total
    deadline = time.monotonic() + 50
    while True:
        try:
            with socket.create_connection((me.address, me.port)) as first:
                first.sendall(str(own).encode())
                return int(first.recv(99))
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.02)

@ff.step(nodes=2, retries=1, backoff=0)
def meet(x):
    me = node()
    mark(f"begin {me.rank} {os.getpid()}")
    print("hello")
    print("from the second line")
    words = "RANK WORLD_SIZE LOCAL_RANK NODE_RANK LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT".split()
    assert all(word in os.environ for word in words)
    total = exchange(x + me.rank)
    while os.path.exists("hold"):
        time.sleep(0.01)
    return [me.rank, me.count, total]

@ff.flow
def once(x: int = 10):
    return meet(x)

@ff.step(nodes=2)
def second_fails():
    if node().rank == 1:
        raise ValueError("no")
    mark(f"begin 0 {os.getpid()}")
    time.sleep(600)

@ff.flow
def failing():
    return second_fails()

@ff.step(nodes=2)
def writes():
    if node().rank == 1:
        context.write_key()
    else:
        time.sleep(600)

@ff.flow
def writing():
    return writes()

@ff.step(nodes=2, timeout="1s")
def too_long():
    mark(f"begin {node().rank} {os.getpid()}")
    time.sleep(600)

@ff.flow
def late():
    return too_long()

@ff.step(nodes=2, memory="1MiB-200MiB")
def eats():
    if node().rank == 1:
        full = bytearray(500 << 20)
        for i in range(0, len(full), 4096):
            full[i] = 1
    time.sleep(600)

@ff.flow
def eating():
    return eats()

@ff.step(nodes=3)
def never(): ...

@ff.flow
def too_many():
    return never()

@ff.step
def small(i):
    return i

@ff.flow
def crowd():
    both = [meet(1), meet(2)]
    rest = [small(i) for i in range(6)]
    return [each.result()[2] for each in both] + [each.result() for each in rest]
"""


def until(holds: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.02)


def pids(folder: Path) -> dict[str, int]:
    """The process of each rank that began last."""
    path = folder / "marks"
    words = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return {rank: int(pid) for _, rank, pid in words}


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_two_ranks_meet_and_the_first_ones_value_is_the_steps(fresh: Project) -> None:
    flows = fresh.module("nodes_meet", SOURCE)
    assert flows.once.run(show=False) == [0, 2, 21]
    (run,) = fresh.flows.list()
    graph = fresh.flows.graph(run.id)
    (attempt,) = [each for each in graph.attempts if each.call != "flow"]
    assert attempt.unit == "local,local"
    (job,) = [each for each in fresh.compute.jobs(run.id) if each.report.kind == "step"]
    assert job.report.held.cpu == 2, "one core on each node"
    assert job.account.unit_share == 1.0, "half of the machine twice"
    assert not job.report.usage.memory_peak_is_exact
    log = fresh.flows.logs(run.id, call=attempt.call).text.splitlines()
    assert sorted(line for line in log if "hello" in line) == ["[rank 0] hello", "[rank 1] hello"]
    until(lambda: not any(map(is_alive, pids(fresh.folder).values())), "a gang is not kept")


def test_the_failure_of_one_rank_is_the_steps_and_ends_the_other(fresh: Project) -> None:
    flows = fresh.module("nodes_fail", SOURCE)
    with pytest.raises(FlowFailed, match="ValueError: no") as caught:
        flows.failing.run(show=False)
    assert "on node 1" in getattr(caught.value.__cause__, "__notes__", []), "it says where"
    (run,) = fresh.flows.list()
    (call,) = [each for each in fresh.flows.graph(run.id).calls if each.key == "second_fails#0"]
    assert call.failure is not None
    assert call.failure.message == "node 1: no"
    assert not any(map(is_alive, pids(fresh.folder).values())), "its end is the last process's end"
    with pytest.raises(FlowFailed, match="may not write: only node 0 writes"):
        flows.writing.run(show=False)


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_killed_rank_ends_the_attempt_and_all_of_it_is_tried_again(fresh: Project, rank: str) -> None:
    flows = fresh.module("nodes_kill", SOURCE)
    (fresh.folder / "hold").touch()
    run = flows.once.submit()
    until(lambda: len(pids(fresh.folder)) == 2, "both begin")
    first = pids(fresh.folder)
    os.kill(first[rank], signal.SIGKILL)
    until(lambda: not any(map(is_alive, first.values())), "the other is ended")
    until(lambda: not set(first.values()) & set(pids(fresh.folder).values()), "both begin again")
    (fresh.folder / "hold").unlink()
    assert fresh.flows.wait(run.id).state is RunState.succeeded
    tries = [each for each in fresh.flows.graph(run.id).attempts if each.call != "flow"]
    assert [each.exit.kind for each in tries if each.exit] == [ExitKind.worker_lost, ExitKind.ok]


def test_a_cancelled_or_late_step_ends_on_all_its_nodes(fresh: Project) -> None:
    flows = fresh.module("nodes_end", SOURCE)
    with pytest.raises(FlowFailed, match="ran longer than 1 s"):
        flows.late.run(show=False)
    assert not any(map(is_alive, pids(fresh.folder).values()))
    (fresh.folder / "marks").unlink()
    (fresh.folder / "hold").touch()
    run = flows.once.submit()
    until(lambda: len(pids(fresh.folder)) == 2, "both begin")
    fresh.flows.cancel(run.id)
    until(lambda: not any(map(is_alive, pids(fresh.folder).values())), "both end")
    until(lambda: fresh.flows.get(run.id).state is RunState.cancelled, "the run is over")


def test_one_rank_out_of_memory_ends_the_step(fresh: Project) -> None:
    flows = fresh.module("nodes_memory", SOURCE)
    with pytest.raises(FlowFailed) as caught:
        flows.eating.run(show=False)
    assert "more memory than its limit of 200 MiB" in str(caught.value)


def test_more_nodes_than_there_can_ever_be_are_refused_at_once(fresh: Project) -> None:
    flows = fresh.module("nodes_many", SOURCE)
    with pytest.raises(Refused, match="asks for 3 nodes of 1 cpu but there are never more than 2 at once"):
        flows.too_many.submit()


def test_two_gangs_and_small_steps_share_a_machine(fresh: Project) -> None:
    flows = fresh.module("nodes_crowd", SOURCE)
    assert flows.crowd.run(show=False) == [3, 5, 0, 1, 2, 3, 4, 5]
