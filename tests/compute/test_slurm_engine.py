"""The Slurm engine keeps the port's promises on a real cluster, by its commands and by its REST door."""

from __future__ import annotations

from pathlib import Path

import pytest

from fourfold.adapters.slurm.engine import SlurmEngine
from fourfold.testing.engine import EngineKit

from .slurm_cluster import SlurmCluster, opened

pytestmark = pytest.mark.slow


class TestSlurmByCommandsKeepsTheKit(EngineKit):
    @pytest.fixture(autouse=True)
    def _place(self, slurm: SlurmCluster, tmp_path: Path) -> None:
        self.cluster, self.folder = slurm, tmp_path / "jobs"

    most_output_bytes = 16 << 20

    def open(self) -> SlurmEngine:
        return self.open_in(self.folder)

    def open_in(self, folder: Path) -> SlurmEngine:
        return opened(self.cluster, folder, f"{self.address()}most_output_bytes={self.most_output_bytes}")

    def address(self) -> str:
        return "slurm://?"


class TestSlurmByRestKeepsTheKit(TestSlurmByCommandsKeepsTheKit):
    def address(self) -> str:
        return f"slurm+rest://127.0.0.1:{self.cluster.rest_port}?"
