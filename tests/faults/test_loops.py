"""Two loops of one project at once: the second is refused or becomes a client; nothing runs twice."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from .conftest import PATIENCE_S, Project

pytestmark = pytest.mark.slow

FLOW = """\
import time
from pathlib import Path

import fourfold as ff


@ff.step
def gate(name: str) -> str:
    with open("calls", "a") as file:
        file.write(name)
    while not Path(f"go-{name}").exists():
        time.sleep(0.02)
    return name


@ff.flow
def gated(name: str) -> str:
    return gate(name).result()
"""


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_server_beside_a_script_that_waits_is_refused_with_who_has_the_loop(project: Project) -> None:
    (project.folder / "flow.py").write_text(FLOW)
    with project.process("flow", "run", "flow.py", "-p", "name=a", "-q") as first:
        until((project.folder / "calls").exists)
        told = project.refused("up", "--port", "0")
        assert f"process {first.pid} runs this project's loop already" in told
        assert not (project.home / "server.json").exists()
        # A second script is no second loop: the first one's carries its run out.
        with project.process("flow", "run", "flow.py", "-p", "name=b", "-q") as second:
            until(lambda: sorted((project.folder / "calls").read_text()) == ["a", "b"])
            (project.folder / "go-b").touch()
            told_second = second.communicate(timeout=PATIENCE_S)
        (project.folder / "go-a").touch()  # the first, and its loop, leave when nobody needs them
        told_first = first.communicate(timeout=PATIENCE_S)
    assert (first.returncode, told_first) == (0, ("a\n", ""))
    assert (second.returncode, told_second) == (0, ("b\n", ""))
    assert sorted((project.folder / "calls").read_text()) == ["a", "b"]
