"""One flow here, on a Slurm cluster and on a Ray cluster, by configuration alone: equal results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from tests.compute.conftest import RayCluster
from tests.compute.slurm_cluster import SlurmCluster, free_ports, slurm_cluster

pytestmark = pytest.mark.slow

WITHIN_S = 240.0
SCRIPT = """
import json, os, sys, time
import numpy as np
import pyarrow as pa
import fourfold as ff

def mark(text):
    with open("marks", "a") as file:
        file.write(text + "\\n")

@ff.step
def draw(seed, rows):
    rng = np.random.default_rng(seed)
    table = pa.table({"x": rng.normal(size=rows), "y": rng.normal(size=rows)})
    ff.table(f"drawn_{seed}").append(table)
    return table

@ff.step(cpu=1)
def fit(table, degree):
    x, y = table["x"].to_numpy(), table["y"].to_numpy()
    return np.polyfit(x, y, degree).tolist()

@ff.step
def where(n):
    return os.environ["SLURMD_NODENAME"]

@ff.flow
def look(n: int = 1):
    return where(n).result()

@ff.step
def hold(n):
    mark(f"begin {os.getpid()}")
    while os.path.exists("hold"):
        time.sleep(0.02)
    mark("end")
    return n

@ff.flow
def study(seed: int = 1, waits: bool = False):
    data = draw(seed, 20_000)  # larger than what travels inline
    fits = [fit(data, degree) for degree in (1, 2, 3)]
    held = hold(seed).result() if waits else seed
    return [held, [f.result() for f in fits], ff.table(f"drawn_{seed}").read().num_rows]

if __name__ == "__main__":
    flow = look if sys.argv[2:] else study
    print(json.dumps(flow.run(show=False, **json.loads(sys.argv[1]))))
"""


class Project:
    """A project's folder with three pools, and processes that run its flow."""

    def __init__(self, folder: Path, pools: str, environment: Mapping[str, str]) -> None:
        self.folder = folder
        (port,) = free_ports(1)
        (folder / "study.py").write_text(SCRIPT)
        (folder / "fourfold.toml").write_text(
            f'[control]\nlisten = ":{port}"\n[pools.local]\nengine = "local://"\n{pools}'
        )
        clean = {key: value for key, value in os.environ.items() if not key.startswith("FOURFOLD_")}
        self.environment = {**clean, **environment}
        self.environment["PATH"] = environment.get("PATH", "") + os.pathsep + clean["PATH"]

    def start(self, pool: str, *more: str, **given: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "study.py", json.dumps(given), *more],
            cwd=self.folder,
            env={**self.environment, "FOURFOLD_FLOWS_POOL": pool},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def result(self, process: subprocess.Popen[str]) -> object:
        out, err = process.communicate(timeout=WITHIN_S)
        assert process.returncode == 0, err
        return json.loads(out)

    def fourfold(self, *argv: str) -> object:
        command = [sys.executable, "-c", "from fourfold.cli.main import main; main()", *argv, "-o", "json"]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=True
        )
        return json.loads(done.stdout)

    def pools_used(self) -> set[str]:
        """The pools on whose units the newest run's steps ran."""
        jobs = self.fourfold("job", "ls", "--limit", "4")
        assert isinstance(jobs, list)
        return {job["report"]["unit"].partition("/")[0] for job in jobs if job["report"]["kind"] == "step"}

    def marks(self, what: str) -> list[str]:
        path = self.folder / "marks"
        return [line for line in path.read_text().splitlines() if what in line] if path.exists() else []


def until(holds: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def slurm() -> Iterator[SlurmCluster]:
    with slurm_cluster() as cluster:
        yield cluster


def test_the_same_on_slurm_and_here(slurm: SlurmCluster, tmp_path: Path) -> None:
    project = Project(tmp_path, '[pools.lab]\nengine = "slurm://"\n', slurm.environment)
    here = project.result(project.start("local", seed=1, key="a"))
    assert project.pools_used() == {"local"}
    there = project.result(project.start("lab", seed=2, key="b"))
    assert project.pools_used() == {"lab"}
    again = project.result(project.start("lab", seed=1, key="c"))
    assert isinstance(here, list)
    assert isinstance(again, list)
    assert again[:2] == here[:2], "the same numbers, to the last digit"
    assert there != here


def test_the_node_that_slurm_chose_is_on_record(slurm: SlurmCluster, tmp_path: Path) -> None:
    project = Project(tmp_path, '[pools.lab]\nengine = "slurm://"\n', slurm.environment)
    other = slurm.run("sbatch", "--parsable", "-w", "n1", "-c", "2", "-o", "/dev/null", "--wrap", "sleep 600")
    try:
        until(lambda: "n1 allocated" in slurm.run("sinfo", "-h", "-N", "-o", "%N %T"), "n1 is taken")
        node = project.result(project.start("lab", "look"))
        assert node != "n1", "where our rule would have it, who does not know of others' jobs"
        jobs = project.fourfold("job", "ls", "--limit", "4")
        assert isinstance(jobs, list)
        units = {job["report"]["unit"] for job in jobs if job["report"]["kind"] == "step"}
        assert units == {f"lab/{node}"}
    finally:
        slurm.run("scancel", other.strip())


def test_a_step_on_slurm_outlives_a_killed_owner_and_is_not_done_again(
    slurm: SlurmCluster, tmp_path: Path
) -> None:
    outlives_its_owner(Project(tmp_path, '[pools.lab]\nengine = "slurm://"\n', slurm.environment))


def test_a_step_on_ray_outlives_a_killed_owner_and_is_not_done_again(
    ray_cluster: RayCluster, tmp_path: Path
) -> None:
    outlives_its_owner(Project(tmp_path, f'[pools.lab]\nengine = "{ray_cluster.address}"\n', {}))


def outlives_its_owner(project: Project) -> None:
    """A step goes on and ends while nobody owns the project; the next owner takes its result."""
    hold = project.folder / "hold"
    hold.touch()
    first = project.start("lab", seed=3, waits=True, key="held")
    until(lambda: project.marks("begin"), "the step begins")
    first.kill()
    first.communicate()
    hold.unlink()
    until(lambda: project.marks("end"), "the step ends while nobody owns the project")
    result = project.result(project.start("lab", seed=3, waits=True, key="held"))
    assert isinstance(result, list)
    assert result[0] == 3
    assert len(project.marks("begin")) == 1


def test_the_same_on_ray_and_here(ray_cluster: RayCluster, tmp_path: Path) -> None:
    project = Project(tmp_path, f'[pools.lab]\nengine = "{ray_cluster.address}"\n', {})
    here = project.result(project.start("local", seed=1, key="a"))
    there = project.result(project.start("lab", seed=1, key="b"))
    assert project.pools_used() == {"lab"}
    assert isinstance(here, list)
    assert isinstance(there, list)
    assert there[:2] == here[:2]
