"""`fourfold flow`: run a file, look at what came of it, and go on."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import FLOW, Fourfold


def test_show_tells_state_use_and_cost_of_each_step_and_what_it_waited_for(
    fourfold: Fourfold, project: Path
) -> None:
    run = fourfold("flow", "ls", "--flow", "squares", "-o", "json").json[0]["id"]
    shown = fourfold("flow", "show", run)
    assert shown.code == 0
    header = next(line for line in shown.lines if line.startswith("CALL"))
    assert header.split("  ")[0] == "CALL"
    for column in ("STATE", "WALL", "CPU", "PEAK", "UTIL", "COST", "AFTER"):
        assert column in header
    (last,) = [line for line in shown.lines if line.startswith("total") and "succeeded" in line]
    assert "square#0, square#1, square#2 and 2 more" in last
    assert "total: 7 calls" in shown.lines[-1]
    graph = fourfold("flow", "show", run, "-o", "json").json
    calls = {call["key"]: call for call in graph["calls"]}
    assert len(calls["total#0"]["deps"]) == 5
    assert all(a["usage"]["cpu_s"] is not None for a in graph["attempts"])


def test_all_steps_of_a_flow_are_advised_at_once(fourfold: Fourfold, project: Path) -> None:
    told = fourfold("job", "advise", "--flow", "squares")
    assert told.code == 0
    assert {line.split()[0] for line in told.lines[1:]} == {"square", "total"}
    assert "steps ran often enough to propose a size" in told.err
    whole = fourfold("job", "advise", "--flow", "squares", "-o", "json").json
    assert [step["name"] for step in whole["steps"]] == ["square", "total"]
    nearest = fourfold("job", "advise", "--flow", "sqares")
    assert (nearest.code, "did you mean 'squares'?" in nearest.err) == (1, True)
    both = fourfold("job", "advise", "square", "--flow", "squares")
    assert "not both" in both.err


BUSY = """
import time
import fourfold as ff

@ff.step
def work() -> int:
    end, kept = time.perf_counter() + 1.5, bytearray(64 << 20)
    while time.perf_counter() < end:
        sum(range(1000))
    return len(kept)

@ff.flow
def busy() -> int:
    return work().result()
"""


@pytest.mark.slow
def test_a_step_that_takes_long_enough_is_shown_over_time(fourfold: Fourfold, empty: Path) -> None:
    (empty / "busy.py").write_text(BUSY)
    assert fourfold("flow", "run", "busy.py", "--quiet").code == 0
    (listed,) = fourfold("flow", "ls", "-o", "json").json
    shown = fourfold("flow", "show", listed["id"])
    header = next(line for line in shown.lines if line.startswith("CALL"))
    assert "CORES OVER TIME" in header
    assert "MEMORY OVER TIME" in header
    (row,) = [line for line in shown.lines if line.startswith("work#0")]
    assert "█" in row
    assert any(line.startswith("cores over time: ") for line in shown.lines)
    attempts = fourfold("flow", "show", listed["id"], "-o", "json").json["attempts"]
    (trace,) = [each["usage"]["trace"] for each in attempts if each["call"] == "work#0"]
    assert len(trace) > 1
    assert max(point[2] for point in trace) > 64 << 20


@pytest.mark.slow
def test_a_failed_run_says_why_and_where_to_look(fourfold: Fourfold, project: Path) -> None:
    (run,) = fourfold("flow", "ls", "--state", "failed", "-o", "json").json
    shown = fourfold("flow", "show", run["id"]).out
    assert "ZeroDivisionError: " in shown
    assert "squaring 0" in fourfold("flow", "logs", run["id"], "square#0").out
    why = {each["call"]: each for each in fourfold("why", run["id"], "-o", "json").json}
    assert why["flow"]["state"] == "failed"
    assert fourfold("why", f"{run['id']}/square#0").lines[1].startswith("square#0")
    ran = fourfold("flow", "logs", run["id"], "sqare#0")
    assert (ran.code, "did you mean 'square#0'?" in ran.err) == (1, True)


def test_schedules_say_that_nothing_fires_them_now(fourfold: Fourfold, project: Path) -> None:
    listed = fourfold("cron", "ls")
    assert "America/New_York" in listed.out
    assert "waits for: fourfold up" in listed.out
    assert "schedules fire only while this runs: fourfold up" in listed.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["flow.py", "squares", "-p", "cuont=3"],
            "flow 'squares' has no parameter 'cuont'\n  did you mean 'count'?",
        ),
        (
            ["flow.py", "squares", "-p", "count=many"],
            "parameter 'count' of flow 'squares' takes int, not 'many'",
        ),
        (["flow.py", "squares", "-p", "count"], "'count' is not a parameter"),
        (["flow.py", "squares", "-p", "count=1", "-p", "count=2"], "parameter 'count' is given twice"),
        (["flow.py"], "flow.py holds 2 flows\n  name one: falls, squares"),
        (["flow.py", "squars"], "flow.py has no flow 'squars'\n  did you mean 'squares'?"),
        (["broken.py"], "broken.py cannot be imported: NameError"),
        (["flaw.py"], "there is no file"),
        (["no.such.module"], "'no.such.module' is neither a Python file nor a module"),
        (["plain.py"], "plain.py holds no flow"),
        (["bad_cron.py"], "a cron line has 5 fields, not 1: 'dayly'"),
    ],
)
def test_a_mistake_is_refused_before_anything_starts(
    fourfold: Fourfold, bare: Path, arguments: list[str], says: str
) -> None:
    ran = fourfold("flow", "run", *arguments)
    assert (ran.code, ran.out) == (1, "")
    assert says in ran.err
    assert fourfold("flow", "ls", "-o", "json").json == []


@pytest.mark.slow
def test_a_flow_is_run_deployed_started_and_cancelled(fourfold: Fourfold, empty: Path) -> None:
    (empty / "flow.py").write_text(FLOW)
    ran = fourfold("flow", "run", "flow.py", "squares", "-p", "count=4", "--key", "monday")
    assert (ran.code, ran.out) == (0, "14\n")
    assert "✓ total#0" in ran.err
    assert "squares succeeded in" in ran.err
    again = fourfold("flow", "run", "flow.py", "squares", "-p", "count=4", "--key", "monday", "-q")
    assert (again.out, again.err) == ("14\n", "")
    assert len(fourfold("flow", "ls", "-o", "json").json) == 1

    failed = fourfold("flow", "run", "flow.py", "falls")
    assert failed.code == 1
    assert "error: flow 'falls' failed: ZeroDivisionError" in failed.err
    assert "fourfold flow logs run_" in failed.err

    assert "fires at '0 3 * * *' America/New_York" in fourfold("flow", "deploy", "flow.py", "squares").err
    assert fourfold("cron", "pause", "squares").code == 0
    assert "paused" in fourfold("cron", "ls").out
    started = fourfold("flow", "start", "squares", "-p", "count=2")
    assert "fourfold up" in started.err
    assert fourfold("flow", "watch", started.out.strip()).code == 0

    detached = fourfold("flow", "run", "flow.py", "squares", "--detach").out.strip()
    cancelled = fourfold("flow", "cancel", detached, "--why", "not today")
    assert cancelled.err.strip().endswith("cancelled")
    assert fourfold("flow", "resume", detached).code == 0
