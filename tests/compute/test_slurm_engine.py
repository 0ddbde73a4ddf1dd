"""The Slurm engine keeps the port's promises on a real cluster, by its commands and by its REST door."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fourfold.adapters.slurm.address import SlurmAddress
from fourfold.adapters.slurm.engine import SlurmEngine
from fourfold.adapters.slurm.opening import open_cluster
from fourfold.testing.engine import Course, EngineKit, course_command

from .slurm_cluster import SlurmCluster, slurm_cluster

pytestmark = pytest.mark.slow


def python(script: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", "-c", script, *arguments)


COURSE = """
import json, signal, sys, time
course = json.loads(sys.argv[1])
if course["ignores_stop"]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
block = bytearray(course["memory_bytes"])
sys.stdout.write(course["output"]); sys.stdout.flush()
time.sleep(course["duration_s"])
sys.exit(course["exit_code"])
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    with slurm_cluster() as cluster:
        yield cluster


Opener = Callable[..., SlurmEngine]


def opened(cluster: SlurmCluster, folder: Path, address: str = "slurm://") -> SlurmEngine:
    parsed = SlurmAddress.parse(address)
    return SlurmEngine(
        folder,
        cluster=open_cluster(
            parsed, {**cluster.environment, "SLURM_JWT": cluster.token(), "USER": cluster.user}
        ),
        partition=parsed.partition,
        cwd=folder.parent,
    )


class TestSlurmByCommandsKeepsTheKit(EngineKit):
    @pytest.fixture(autouse=True)
    def _place(self, cluster: SlurmCluster, tmp_path: Path) -> None:
        self.cluster, self.folder = cluster, tmp_path / "jobs"

    def open(self) -> SlurmEngine:
        return opened(self.cluster, self.folder)

    def command(self, course: Course) -> tuple[str, ...]:
        return python(COURSE, course_command(course)[1])


class TestSlurmByRestKeepsTheKit(TestSlurmByCommandsKeepsTheKit):
    def open(self) -> SlurmEngine:
        return opened(self.cluster, self.folder, f"slurm+rest://127.0.0.1:{self.cluster.rest_port}")
