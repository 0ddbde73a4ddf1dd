"""The table of engines in the docs is what the engines declare."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.compute.test_local_engine import UNIT
from tests.compute.test_slurm_parts import Paper

from fourfold.adapters.containers import ContainerEngine, ContainerSettings
from fourfold.adapters.kubernetes import KubernetesEngine, KubernetesSettings
from fourfold.adapters.local_engine import LocalEngine
from fourfold.adapters.ray import RayEngine, RaySettings
from fourfold.adapters.slurm import SlurmEngine
from fourfold.testing.clock import MovableClock
from fourfold.testing.engine import FakeEngine, capability_table

NOWHERE = """{
"current-context": "x",
"contexts": [{"name": "x", "context": {"cluster": "x"}}],
"clusters": [{"name": "x", "cluster": {"server": "https://127.0.0.1:1"}}]}"""
PAGE = Path(__file__).parents[2] / "docs" / "internals" / "compute.md"


def test_the_docs_show_what_the_engines_declare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = LocalEngine(tmp_path, unit=UNIT, may_group=False).capabilities()
    slurm = SlurmEngine(tmp_path / "slurm", cluster=Paper()).capabilities()
    containers = ContainerEngine(
        tmp_path,
        ContainerSettings.parse("podman://?project=rw"),
        label="x",
        unit=UNIT,
        project=tmp_path,
    ).capabilities()
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    (tmp_path / "kubeconfig").write_text(NOWHERE)
    kubernetes = KubernetesEngine(
        KubernetesSettings.parse("kubernetes://"), label="x", folder=tmp_path
    ).capabilities()
    table = capability_table(
        {
            "`kubernetes://`": kubernetes,
            "`local://` with control groups": replace(local, memory_limit="enforced"),
            "`local://` without": local,
            "`podman://`": containers,
            "`ray://`": RayEngine(RaySettings.parse("ray://head"), label="x").capabilities(),
            "`slurm://` that keeps memory by cgroups": replace(slurm, memory_limit="enforced"),
            "`slurm://` that does not": slurm,
            "`FakeEngine`": FakeEngine(MovableClock()).capabilities(),
        }
    )
    assert table in PAGE.read_text(), f"put this into {PAGE.name}:\n{table}"
