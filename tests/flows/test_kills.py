"""A project's processes are killed in mid-run, each in turn; whoever comes next finishes the run.

Scripts of their own folder run the whole of Fourfold: wiring, catalog, engine, runner. What a step does is
counted in a file, so that a step that was redone or lost shows.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

COMMAND = (sys.executable, "-c", "import sys; from fourfold.cli.main import main; sys.exit(main())")

SCRIPT = """
import os, sys, time
import fourfold as ff

def mark(text):
    with open("marks", "a") as file:
        file.write(text + "\\n")

@ff.step
def work(i):
    mark(f"begin {i} {os.getpid()}")
    while i == 2 and os.path.exists("hold"):
        time.sleep(0.01)
    mark(f"end {i} {os.getpid()}")
    return i

@ff.step
def total(numbers):
    mark("total 0 0")
    return sum(numbers)

@ff.flow
def many(n: int = 4):
    mark(f"body 0 {os.getpid()}")
    began = ff.now()
    first = [work(i) for i in range(2)]
    assert sum(f.result() for f in first) == 1
    last = [work(i) for i in range(2, n)]
    return [total([*first, *last]).result(), began.isoformat()]

if __name__ == "__main__":
    print(many.run(key="the run", show=False)[0])
"""


class Folder:
    """A project's folder with the script, and what its steps have marked so far."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.started: list[subprocess.Popen[str]] = []
        (path / "many.py").write_text(SCRIPT)
        (path / "hold").touch()

    def start(self, *argv: str) -> subprocess.Popen[str]:
        env = {key: value for key, value in os.environ.items() if not key.startswith("FOURFOLD_")}
        process = subprocess.Popen(
            argv, cwd=self.path, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.started.append(process)
        return process

    def script(self) -> subprocess.Popen[str]:
        return self.start(sys.executable, "many.py")

    def fourfold(self, *argv: str) -> Any:
        process = self.start(*COMMAND, *argv)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        return out

    def marks(self) -> list[list[str]]:
        path = self.path / "marks"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def pid(self, what: str, i: str) -> int:
        """The process that marked this last."""
        return int(next(pid for name, number, pid in reversed(self.marks()) if (name, number) == (what, i)))

    def counts(self) -> Counter[str]:
        return Counter(f"{what} {i}" for what, i, _ in self.marks())

    def states(self) -> dict[str, str]:
        """The calls of the run as the catalog has them."""
        with closing(sqlite3.connect(f"file:{self.path}/.fourfold/catalog.db?mode=ro", uri=True)) as catalog:
            return dict(catalog.execute("SELECT key, state FROM flow_call").fetchall())

    def connections(self) -> int:
        """How many connections the loop's socket has."""
        return Path("/proc/net/unix").read_text().count(str(self.path / ".fourfold" / "run" / "control.sock"))

    def reaches_step_2(self) -> None:
        """Wait until all but step 2 is done and on record, and step 2 has begun."""
        until(lambda: self.counts()["end 3"] and self.counts()["begin 2"], "step 2 begins")
        until(lambda: self.states()["work#3"] == "succeeded", "step 3 is on record")

    def release(self) -> None:
        (self.path / "hold").unlink()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    folder = Folder(tmp_path)
    yield folder
    for process in folder.started:
        process.kill()
        process.communicate()


def until(holds: Callable[[], object], what: str, within_s: float = 40.0) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.01)


def finished(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out.strip()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


ONCE = {
    "begin 0": 1,
    "end 0": 1,
    "begin 1": 1,
    "end 1": 1,
    "begin 3": 1,
    "end 3": 1,
    "end 2": 1,
    "total 0": 1,
}


def test_after_the_loop_is_killed_running_again_finishes_the_run(folder: Folder) -> None:
    script = folder.script()
    folder.reaches_step_2()
    processes = [int(pid) for what, _, pid in folder.marks() if what in ("begin", "body")]
    script.send_signal(signal.SIGKILL)
    script.wait()
    until(lambda: not any(is_alive(pid) for pid in processes), "its processes die with it", 5.0)
    folder.release()
    assert finished(folder.script()) == "6"
    assert folder.counts() == {**ONCE, "begin 2": 2, "body 0": 2}
    (run,) = json.loads(folder.fourfold("flow", "ls", "-o", "json"))
    assert run["state"] == "succeeded"
    attempts = json.loads(folder.fourfold("flow", "show", run["id"], "-o", "json"))["attempts"]
    assert Counter(each["call"] for each in attempts) == {
        "flow": 2, "work#0": 1, "work#1": 1, "work#2": 2, "work#3": 1, "total#0": 1,
    }  # fmt: skip


def test_after_the_loop_is_killed_fourfold_up_finishes_the_run(folder: Folder) -> None:
    script = folder.script()
    folder.reaches_step_2()
    script.send_signal(signal.SIGKILL)
    script.wait()
    folder.release()
    up = folder.start(*COMMAND, "up", "--port", "0")
    until(lambda: folder.counts()["total 0"], "the run goes on by itself")
    (run,) = json.loads(folder.fourfold("flow", "ls", "-o", "json"))
    folder.fourfold("flow", "watch", run["id"])
    assert folder.counts() == {**ONCE, "begin 2": 2, "body 0": 2}
    up.terminate()
    up.wait(20)


def test_after_the_body_is_killed_another_goes_on(folder: Folder) -> None:
    script = folder.script()
    folder.reaches_step_2()
    os.kill(folder.pid("body", "0"), signal.SIGKILL)
    until(lambda: folder.counts()["body 0"] == 2, "the body is run again")
    folder.release()
    assert finished(script) == "6"
    assert folder.counts() == {**ONCE, "begin 2": 1, "body 0": 2}


def test_after_a_step_is_killed_it_alone_is_run_again(folder: Folder) -> None:
    script = folder.script()
    folder.reaches_step_2()
    os.kill(folder.pid("begin", "2"), signal.SIGKILL)
    until(lambda: folder.counts()["begin 2"] == 2, "the step is run again")
    folder.release()
    assert finished(script) == "6"
    assert folder.counts() == {**ONCE, "begin 2": 2, "body 0": 1}


def test_a_second_process_waits_for_the_same_run_and_takes_over(folder: Folder) -> None:
    first = folder.script()
    folder.reaches_step_2()
    before = folder.connections()
    second = folder.script()
    until(lambda: folder.connections() > before, "the second asks the first")
    first.send_signal(signal.SIGKILL)
    first.wait()
    folder.release()
    assert finished(second) == "6"
    assert folder.counts() == {**ONCE, "begin 2": 2, "body 0": 2}
