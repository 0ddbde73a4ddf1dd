"""A flow's steps run on the small Kubernetes by configuration alone, and outlive their owner."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.compute.kubernetes_cluster import Clients, secured
from tests.compute.test_same_everywhere import Project, until

pytestmark = pytest.mark.slow


@pytest.fixture
def clients(tmp_path: Path) -> Iterator[Clients]:
    (tmp_path / "cluster").mkdir()
    with secured(tmp_path / "cluster") as cluster:
        yield Clients(cluster, tmp_path / "cluster")


@pytest.fixture
def project(tmp_path: Path, clients: Clients) -> Project:
    (tmp_path / "project").mkdir()
    address = f"kubernetes://?kubeconfig={clients.config}&image=example/any:1&shares_files=1"
    return Project(tmp_path / "project", f'[pools.lab]\nengine = "{address}"\n', {})


def test_the_same_on_kubernetes_and_here_also_after_the_owner_was_killed(
    project: Project, clients: Clients
) -> None:
    here = project.result(project.start("local", seed=3, key="a"))
    assert isinstance(here, list)
    (project.folder / "hold").touch()
    first = project.start("lab", seed=3, waits=True, key="b")
    until(lambda: project.marks("begin"), "the step begins")
    first.kill()
    first.communicate()
    (project.folder / "hold").unlink()
    until(lambda: project.marks("end"), "the step ends while nobody owns the project")
    there = project.result(project.start("lab", seed=3, waits=True, key="b"))
    assert isinstance(there, list)
    assert there[:2] == here[:2], "the same numbers, to the last digit"
    assert project.pools_used() == {"lab"}
    assert len(project.marks("begin")) == 1
    assert "job.batch/fourfold-" in clients.kubectl("get", "jobs", "-o", "name")
    live = ("get", "pods", "--field-selector", "status.phase=Running", "-o", "name")
    until(lambda: clients.kubectl(*live) == "", "a closed project leaves no worker running")
