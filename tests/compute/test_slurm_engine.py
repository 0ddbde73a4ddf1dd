"""The Slurm engine keeps the port's promises on a real cluster, by its commands and by its REST door."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fourfold.adapters.slurm.engine import SlurmEngine
from fourfold.testing.engine import Course, EngineKit, course_command

from .slurm_cluster import SlurmCluster, opened

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


class TestSlurmByCommandsKeepsTheKit(EngineKit):
    @pytest.fixture(autouse=True)
    def _place(self, slurm: SlurmCluster, tmp_path: Path) -> None:
        self.cluster, self.folder = slurm, tmp_path / "jobs"

    def open(self) -> SlurmEngine:
        return opened(self.cluster, self.folder)

    def command(self, course: Course) -> tuple[str, ...]:
        return python(COURSE, course_command(course)[1])


class TestSlurmByRestKeepsTheKit(TestSlurmByCommandsKeepsTheKit):
    def open(self) -> SlurmEngine:
        return opened(self.cluster, self.folder, f"slurm+rest://127.0.0.1:{self.cluster.rest_port}")
