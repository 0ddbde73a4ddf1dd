"""The command as a person has it: a line in, what is printed and the exit code out."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from fourfold.cli.main import run

FLOW = """\
import fourfold as ff


@ff.step
def square(n: int) -> int:
    print("squaring", n)
    return n * n


@ff.step
def total(numbers: list) -> int:
    return sum(numbers)


@ff.flow(schedule=ff.cron("0 3 * * *", tz="America/New_York"))
def squares(count: int = 3, name: str = "all") -> int:
    return total([square(n) for n in range(count)]).result()


@ff.flow
def falls(n: int = 0) -> float:
    return 1 / square(n).result()
"""


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


Fourfold = Callable[..., Ran]


@pytest.fixture
def fourfold(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Fourfold:
    """Carries out one command line in this process; `answers` is what is typed."""

    def carry_out(*arguments: str, answers: str | None = None) -> Ran:
        capsys.readouterr()
        with monkeypatch.context() as patched:
            if answers is not None:
                patched.setattr("sys.stdin", io.StringIO(answers))
            code = run(list(arguments))
        told = capsys.readouterr()
        assert "Traceback" not in told.err
        return Ran(code, told.out, told.err)

    return carry_out


@pytest.fixture
def empty(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with nothing in it, entered."""
    monkeypatch.chdir(home.parent)
    return home.parent


@pytest.fixture(scope="session")
def bare_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `bare`, with flow files that hold mistakes."""
    folder = tmp_path_factory.mktemp("bare")
    (folder / ".fourfold").mkdir()
    (folder / "flow.py").write_text(FLOW)
    (folder / "broken.py").write_text("import fourfold\nx = nothing_like_it\n")
    (folder / "plain.py").write_text("x = 1\n")
    (folder / "bad_cron.py").write_text("import fourfold as ff\nff.cron('dayly')\n")
    return folder


@pytest.fixture
def bare(bare_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with nothing in it, entered, for all tests that leave it so: making one takes a while."""
    monkeypatch.setenv("FOURFOLD_HOME", str(bare_folder / ".fourfold"))
    monkeypatch.chdir(bare_folder)
    return bare_folder


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with tables, runs, a deployed flow and runs of it. Read it; do not change it."""
    from fourfold import wiring
    from fourfold.cli.flow_file import load
    from fourfold.core import context
    from fourfold.core.context import Ref
    from fourfold.core.lineage import Edge
    from fourfold.core.models import Metric, NewRun, RunStatus
    from fourfold.resources.flows import calls

    folder = tmp_path_factory.mktemp("filled")
    (folder / "flow.py").write_text(FLOW)
    home = folder / ".fourfold"
    project = wiring.Project(home, wiring.read_settings(home, {"FOURFOLD_PROJECT": "filled"}))
    opener = context._opener
    context.set_opener(lambda: project)
    try:
        with closing(project):
            flights = pa.table(
                {"carrier": ["UA", "AA", None], "delay": [31.5, None, float("nan")], "n": [1, 2, 3]}
            )
            project.storage.append("raw.flights", flights)
            project.storage.tag("raw.flights", "first", why="to show")
            made = project.storage.append("raw.flights", flights)
            run = project.models.create_run(NewRun(name="late", params={"depth": 3}, tags={"team": "green"}))
            now = project.clock.now()
            project.models.log(
                run.id, metrics=(Metric("auc", 0.75, at=now), Metric("auc", 0.8, at=now, step=1))
            )
            project.models.end_run(run.id, status=RunStatus.finished)
            project.models.create_run(NewRun(name="later", params={"depth": 5}))
            edge = Edge(Ref("table", "raw.flights", str(made.version)), Ref("run", run.id), None, now)
            project.catalog.record_edges((edge,))
            squares, falls = load(str(folder / "flow.py"), "squares"), load(str(folder / "flow.py"), "falls")
            calls.deploy(squares)
            for flow, params in ((squares, {"count": 5}), (falls, {"n": 0})):
                started = calls.submit(flow, params)
                assert not project.flows.wait(started.id, timeout_s=60).state.is_open
    finally:
        context._opener = opener
    return folder


@pytest.fixture
def project(filled: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The filled project, entered."""
    monkeypatch.setenv("FOURFOLD_HOME", str(filled / ".fourfold"))
    monkeypatch.chdir(filled)
    return filled
