"""Flows end to end: the real loop, the real engine, real worker processes."""

from __future__ import annotations

from fourfold.core.flows import CallKey, RunState

from .conftest import Project

SUMS = """
import fourfold.resources.flows.api as ff

@ff.step
def add(a, b):
    print("adding", a, b)
    return a + b

@ff.step
def total(numbers):
    return sum(numbers)

@ff.flow
def sums(n: int = 3):
    parts = [add(i, 1) for i in range(n)]
    whole = total(parts)
    if whole.result() > 5:
        return add(whole, 100)
    return whole.result()
"""


def test_a_flow_of_steps_loops_and_conditions_gives_its_result(project: Project) -> None:
    flow = project.module("sums_flow", SUMS).sums
    assert flow.run(n=3) == 106
    assert flow.run(n=1) == 1
    run = project.flows.list("sums")[1]
    assert run.state is RunState.succeeded
    assert project.calls(run.id) == {
        "flow": "succeeded",
        "add#0": "succeeded",
        "add#1": "succeeded",
        "add#2": "succeeded",
        "total#0": "succeeded",
        "add#3": "succeeded",
    }
    graph = project.flows.graph(run.id)
    assert {call.key: call.deps for call in graph.calls}[CallKey("total#0")] == ("add#0", "add#1", "add#2")
    assert all(attempt.usage.wall_s >= 0 and attempt.ended_at for attempt in graph.attempts)
    assert project.flows.logs(run.id, call="add#1").text == "adding 1 1\n"
