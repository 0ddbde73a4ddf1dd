"""A flow's steps run in containers by configuration alone: closed ones, over the project's own socket."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.compute.container_image import built_image, container_address, podman

pytestmark = pytest.mark.slow

SCRIPT = """
import json, os, sys
import pyarrow as pa
import fourfold as ff

@ff.step
def draw(rows):
    return pa.table({"x": range(rows)})

@ff.step
def fit(table):
    if table.num_rows == 7:
        raise ValueError("seven")
    return [sum(table["x"].to_pylist()), sorted(os.listdir("/sys/class/net")), os.getpid() < 100]

@ff.flow
def study(rows: int = 50_000):
    return fit(draw(rows)).result()

if __name__ == "__main__":
    print(json.dumps(study.run(show=False, rows=int(sys.argv[1]))))
"""


def test_a_flow_runs_in_containers_by_configuration(tmp_path: Path) -> None:
    built_image()
    source = Path(__file__).parents[2]
    seen = sorted({str(source), sys.prefix})
    address = container_address(project="rw") + "".join(f"&mount={path}" for path in seen)
    (tmp_path / "study.py").write_text(SCRIPT)
    (tmp_path / "fourfold.toml").write_text(
        f'[pools.local]\nengine = "local://"\n[pools.box]\nengine = "{address}"\ndefault = true\n'
    )
    clean = {name: text for name, text in os.environ.items() if not name.startswith("FOURFOLD_")}

    def run(rows: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "study.py", str(rows)]
        return subprocess.run(
            command, cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=90, check=False
        )

    done = run(50_000)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [sum(range(50_000)), ["lo"], True]
    failed = run(7)
    assert failed.returncode != 0
    assert "seven" in failed.stderr
    ours = [folder.name for folder in (tmp_path / ".fourfold" / "jobs").glob("*.box/fourfold-*")]
    assert ours
    live = podman("ps", "--format", "{{.Names}}").stdout.split()
    assert not set(ours) & set(live)  # a closed project leaves none running
    podman("rm", "--force", "--time", "0", "--ignore", *ours)
