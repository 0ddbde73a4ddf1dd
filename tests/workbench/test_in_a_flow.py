"""A notebook as a step of a flow, with the whole of Fourfold behind it: loop, engine, runner, kernel."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

SCRIPT = """
import json, os
import fourfold as ff
import pyarrow as pa
from fourfold.core import context

@ff.step
def land() -> None:
    ff.table("days").append(pa.table({"day": ["2013-06-01"]}))

@ff.step
def report(day: str, after: object) -> str:
    with open("pids", "a") as file:
        file.write(f"step {os.getpid()}\\n")
    ff.meter.flops(2e9)
    return ff.notebook("report.ipynb", day=day).html_digest

@ff.flow
def main(day: str = "2013-06-01"):
    return report(day, land()).result()

if __name__ == "__main__":
    digest = main.run(key="the run", show=False)
    here = context.services()
    run = here.flows.list()[0]
    (notebook,) = here.workbench.notebook_runs()
    jobs = {f"{job.report.kind} {job.report.name}": job for job in here.compute.jobs(run.id)}
    lineage = here.catalog.lineage("blob", digest)
    print(json.dumps({
        "digest": digest,
        "page": here.workbench.notebook_html(notebook.id).decode(),
        "notebook": [notebook.html_digest, notebook.flow_run == run.id, notebook.parameters],
        "environments": [run.environment, notebook.environment]
        + [job.report.environment for job in jobs.values()],
        "present": here.compute.present_environment().identity,
        "jobs": sorted(jobs),
        "flops": jobs["step report"].report.usage.flops,
        "sentence": jobs["step report"].account.sentence,
        "lineage": str(lineage),
    }))
"""
HOLDING_CELL = """
import os, time
with open('pids', 'a') as file: file.write(f'cell {os.getpid()}\\n')
while os.path.exists('hold'): time.sleep(0.01)
"""
READING_CELL = "import fourfold as ff\nprint('rows of', day, ff.table('days').read().num_rows)"
CELLS: tuple[tuple[str, list[str]], ...] = (
    ("day = 'none'", ["parameters"]),
    (HOLDING_CELL, []),
    (READING_CELL, []),
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    cells: list[dict[str, object]] = [
        {"cell_type": "code", "id": f"c{i}", "source": source, "outputs": [], "execution_count": None}
        | {"metadata": {"tags": tags}}
        for i, (source, tags) in enumerate(CELLS)
    ]
    notebook = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "report.ipynb").write_text(json.dumps(notebook))
    (tmp_path / "script.py").write_text(SCRIPT)
    return tmp_path


def start(project: Path) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("FOURFOLD")}
    return subprocess.Popen(
        [sys.executable, "script.py"],
        cwd=project,
        env=environment | {"FOURFOLD_HOME": str(project / ".fourfold")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def outcome(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, complaint = process.communicate(timeout=120)
    assert process.returncode == 0, complaint
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def eventually(claim: Callable[[], object], *, within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not claim():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)  # other processes: there is no event to await


def pids(project: Path, what: str) -> list[int]:
    path = project / "pids"
    lines = path.read_text().splitlines() if path.exists() else []
    return [int(line.split()[1]) for line in lines if line.startswith(what)]


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def test_a_notebook_is_a_step_with_its_page_lineage_and_account(project: Path) -> None:
    found = outcome(start(project))
    assert "rows of 2013-06-01 1" in found["page"]
    assert found["notebook"] == [found["digest"], True, {"day": "2013-06-01"}]
    assert set(found["environments"]) == {found["present"]}  # everything that ran, ran in one environment
    assert {"step land", "step report", "notebook report"} <= set(found["jobs"])
    assert "days" in found["lineage"]  # what a cell read is what the step read
    assert found["flops"] == 2e9
    assert "peak is unknown" in found["sentence"]


def test_a_step_killed_in_mid_notebook_takes_the_notebook_along_and_is_tried_again(project: Path) -> None:
    (project / "hold").touch()
    process = start(project)
    eventually(lambda: pids(project, "cell"))
    (step,), (cell,) = pids(project, "step"), pids(project, "cell")
    os.kill(step, signal.SIGKILL)
    eventually(lambda: is_gone(cell))
    (project / "hold").unlink()
    assert "rows of 2013-06-01 1" in outcome(process)["page"]
    assert len(pids(project, "step")) == 2
    assert list((project / ".fourfold" / "notebooks").glob("nb_*")) == []  # nor is its folder left
