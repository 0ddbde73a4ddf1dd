"""A flow of a real project, told as events while it runs, and told again from its records."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from .openlineage_2 import RUN_EVENT

FLOW = """
import pyarrow as pa
import fourfold as ff

@ff.step
def build():
    ff.table("raw").append(pa.table({"n": [1, 2, 3]}))

@ff.step
def double(_):
    raw = ff.table("raw").read()
    ff.table("doubled").append(raw.append_column("m", raw["n"]))

@ff.step(retries=0)
def fail(_):
    raise ValueError("no rows")

@ff.flow
def good():
    double(build())

@ff.flow
def bad():
    fail(build())
"""
COMMAND = [sys.executable, "-c", "from fourfold.cli.main import main; main()"]


@pytest.mark.slow
def test_what_a_flow_read_and_wrote_is_told_while_it_runs_and_again_when_asked(tmp_path: Path) -> None:
    (tmp_path / "fourfold.toml").write_text('project = "lab"\nopenlineage = "file://told/events.jsonl"\n')
    (tmp_path / "flow.py").write_text(FLOW)

    def fourfold(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *words], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        )

    assert fourfold("flow", "run", "flow.py", "good").returncode == 0
    assert fourfold("flow", "run", "flow.py", "bad").returncode == 1
    told = [json.loads(line) for line in (tmp_path / "told" / "events.jsonl").read_text().splitlines()]
    for event in told:
        Draft202012Validator(RUN_EVENT).validate(event)
    assert [(e["job"]["name"], e["eventType"]) for e in told] == [
        ("good", "START"),
        ("good.build", "START"),
        ("good.build", "COMPLETE"),
        ("good.double", "START"),
        ("good.double", "COMPLETE"),
        ("good", "COMPLETE"),
        ("bad", "START"),
        ("bad.build", "START"),
        ("bad.build", "COMPLETE"),
        ("bad.fail", "START"),
        ("bad.fail", "FAIL"),
        ("bad", "FAIL"),
    ]
    double = told[4]
    store = tmp_path / ".fourfold" / "tables"
    assert [(d["namespace"], d["name"]) for d in double["inputs"]] == [("file", str(store / "raw"))]
    (out,) = double["outputs"]
    assert out["outputFacets"]["outputStatistics"]["rowCount"] == 3
    assert [f["name"] for f in out["facets"]["schema"]["fields"]] == ["n", "m"]
    assert double["run"]["facets"]["parent"]["run"]["runId"] == told[0]["run"]["runId"]
    assert "no rows" in told[-2]["run"]["facets"]["errorMessage"]["message"]

    again = [json.loads(line) for line in fourfold("lineage", "export").stdout.splitlines()]
    assert again == told
    assert fourfold("lineage", "export", "--since", "2100-01-01T00:00:00Z").stdout == ""
