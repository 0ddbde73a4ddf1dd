"""A step on several nodes of a real Slurm and a real Ray cluster: its ranks meet, and end together."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from tests.compute.conftest import RayCluster
from tests.compute.slurm_cluster import slurm_cluster
from tests.compute.test_same_everywhere import Project, until

pytestmark = pytest.mark.slow

SCRIPT = """
import json, os, socket, sys, time
import fourfold as ff

FOLDER = os.path.dirname(os.path.abspath(__file__)) if __name__ == "__main__" else ""

@ff.step(nodes=2, cpu=1)
def meet(folder, own):
    me = ff.node()
    with open(f"{folder}/marks", "a") as file:
        file.write(f"begin {me.rank} {os.getpid()}\\n")
    if me.is_first:
        with socket.create_server(("", me.port)) as listener:
            other, _ = listener.accept()
            with other:
                total = own + int(other.recv(99))
                other.sendall(b"done")
    else:
        deadline = time.monotonic() + 120
        while True:
            try:
                with socket.create_connection((me.address, me.port)) as first:
                    first.sendall(str(own + me.rank).encode())
                    assert first.recv(99) == b"done"
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        total = 0
    while os.path.exists(f"{folder}/hold"):
        time.sleep(0.02)
    return [me.rank, me.count, total]

@ff.flow
def gang(folder: str, own: int = 20):
    return meet(folder, own)

if __name__ == "__main__":
    print(json.dumps(gang.run(show=False, folder=os.getcwd(), **json.loads(sys.argv[1]))))
"""


def check(project: Project) -> None:
    """Two ranks exchange something; then one is killed, and the whole of it is done again."""
    folder = project.folder
    (folder / "study.py").write_text(SCRIPT)
    assert project.result(project.start("lab", key="a")) == [0, 2, 41]
    (folder / "marks").unlink()
    (folder / "hold").touch()
    running = project.start("lab", key="b")
    until(lambda: len(project.marks("begin")) == 2, "both begin")
    pids = {rank: int(pid) for _, rank, pid in map(str.split, project.marks("begin"))}
    os.kill(pids["1"], signal.SIGKILL)
    until(lambda: len(project.marks("begin")) == 4, "both begin again")
    (folder / "hold").unlink()
    assert project.result(running) == [0, 2, 41]
    jobs = project.fourfold("job", "ls", "--limit", "6")
    assert isinstance(jobs, list)
    ends = {job["report"]["exit"]["kind"] for job in jobs if job["report"]["kind"] == "step"}
    assert ends == {"ok", "worker_lost"}
    units = [job["report"]["unit"] for job in jobs if job["report"]["kind"] == "step"]
    assert all(len(set(each.split(","))) == 2 for each in units), "each node is a unit of its own"


def check_adoption(project: Project) -> None:
    """The owner is killed while both ranks work; the next one goes on with both."""
    (project.folder / "marks").unlink()
    (project.folder / "hold").touch()
    first = project.start("lab", key="c")
    until(lambda: len(project.marks("begin")) == 2, "both begin")
    first.kill()
    first.communicate()
    second = project.start("lab", key="c")
    (project.folder / "hold").unlink()
    assert project.result(second) == [0, 2, 41]
    assert len(project.marks("begin")) == 2, "nothing was done again"


def test_two_nodes_of_a_slurm_cluster(tmp_path: Path) -> None:
    with slurm_cluster() as cluster:
        project = Project(tmp_path, '[pools.lab]\nengine = "slurm://"\n', cluster.environment)
        check(project)
        check_adoption(project)


def test_two_nodes_of_a_ray_cluster(ray_cluster: RayCluster, tmp_path: Path) -> None:
    check(Project(tmp_path, f'[pools.lab]\nengine = "{ray_cluster.address}"\n', {}))
