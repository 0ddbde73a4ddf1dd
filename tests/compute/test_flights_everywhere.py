"""The flights example, unchanged, here and on Slurm: moved by configuration alone, with equal results."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.compute.slurm_cluster import slurm_cluster
from tests.pools.wire import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

ROOT = Path(__file__).parents[2]
WITHIN_S = 1200.0
SMALL = ("--quick", "--rounds", "3", "--leaves", "7", "--day", "2013-04-01")

FACTS = """
import hashlib, json, sys
from fourfold.core import context
from fourfold.core.models import Artifact

services = context.services()
OTHER = {"prediction_id", "latency_ms", "scored_at", "model_version"}  # at every run
RUNS = {"experiment.json", "code/code.json"}  # which name the run

def rows(name):
    table = services.storage.read(name)
    table = table.read_all() if hasattr(table, "read_all") else table
    table = table.drop_columns([column for column in table.column_names if column in OTHER])
    lines = sorted(json.dumps(row, default=str, sort_keys=True) for row in table.to_pylist())
    return [len(lines), hashlib.sha256(chr(10).join(lines).encode()).hexdigest()]

def model(version):
    files = services.models.manifest(version.name, version.number).files
    made = {file.path: file.sha256 for file in files if file.path not in RUNS}
    return {"files": made, "metrics": {k: v for k, v in version.metrics.items() if k != "fit_s"}}

names = [table.name for table in services.storage.list_tables() if table.name.startswith("flights.")]
tables = {name.rstrip("0123456789_"): rows(name) for name in names}
models = {v.tags["made_as"]: model(v) for v in services.models.list_versions("flight-delays")}
json.dump({"tables": tables, "models": models}, sys.stdout)
"""


class Clone:
    """A folder with the example, where it runs on one pool."""

    def __init__(self, folder: Path, pool: str, engine: str, environ: Mapping[str, str]) -> None:
        for name in ("examples", "locks"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        settings = (ROOT / "fourfold.toml").read_text()
        settings += f'\n[pools.lab]\nengine = "{engine}"\n[control]\nlisten = ":{free_port()}"\n'
        (folder / "fourfold.toml").write_text(settings)
        clean = {name: text for name, text in os.environ.items() if not name.startswith("FOURFOLD_")}
        path = f"{environ.get('PATH', '')}{os.pathsep}{clean['PATH']}"
        self._folder = folder
        self._environ = {**clean, **environ, "PATH": path, "FOURFOLD_FLOWS_POOL": pool}
        self._pool = pool
        self._output = (folder / "output").open("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "examples.flights", *SMALL],
            cwd=folder, env=self._environ, stdout=self._output, stderr=self._output, start_new_session=True,
        )  # fmt: skip

    def outcome(self) -> dict[str, Any]:
        """All that it found, without what differs from run to run: times, names, the order of versions."""
        code = self._process.wait(WITHIN_S)
        self._output.seek(0)
        assert code == 0, self._output.read()[-4000:]
        found = json.loads((self._folder / ".fourfold" / "flights" / "summary.json").read_text())
        jobs = self._json("-c", "from fourfold.cli.main import main; main()", "job", "ls", "-o", "json")
        used = {job["report"]["unit"].partition("/")[0] for job in jobs if job["report"]["kind"] == "step"}
        assert used == {self._pool}
        facts = self._json("-c", FACTS)
        return {"summary": _lasting(found), **facts}

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait(60)
        self._output.close()

    def _json(self, *argv: str) -> Any:
        done = subprocess.run(
            [sys.executable, *argv],
            cwd=self._folder, env=self._environ, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


def _lasting(found: dict[str, Any]) -> dict[str, Any]:
    """The figures of a summary."""
    kept = ("data", "features", "evaluation", "leak", "challenger", "parity", "sweep", "training_sets")
    return {name: _without_times(found[name]) for name in kept}


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        left_out = ("model", "seconds", "fit_s", "reason")
        return {name: _without_times(each) for name, each in value.items() if name not in left_out}
    return [_without_times(each) for each in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    clone = Clone(tmp_path_factory.mktemp("here"), "local", "local://", {})
    yield clone
    clone.close()


@pytest.fixture(scope="module")
def expected(here: Clone) -> dict[str, Any]:
    """What the example finds on this machine."""
    return here.outcome()


def test_the_flights_example_finds_the_same_on_slurm(here: Clone, tmp_path: Path, request: Any) -> None:
    with slurm_cluster(node_mib=4000) as cluster:
        clone = Clone(tmp_path, "lab", "slurm://", cluster.environment)  # beside the one here
        try:
            found = clone.outcome()
        finally:
            clone.close()
    same(found, request.getfixturevalue("expected"))


def same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Equal to the last digit: row for row, metric for metric, and the fitted models byte for byte."""
    assert found["tables"].keys() == expected["tables"].keys()
    assert len(expected["tables"]) >= 9
    for name, rows in expected["tables"].items():
        assert found["tables"][name] == rows, name
    assert found["models"] == expected["models"]
    assert found["summary"] == expected["summary"]
