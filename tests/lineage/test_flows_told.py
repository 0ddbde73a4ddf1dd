"""A flow of a real project, told as events while it runs, and told again from its records."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from .openlineage_2 import RUN_EVENT, lost_by_consumers
from .test_openlineage_specified import refused_by_client

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

@ff.step
def join(_):
    from fourfold import features as fs

    who = fs.Entity("who", key="who")
    events = fs.Source("events", table="events", time="t", event_id="id")

    @fs.view(entity=who, source=events)
    class Recent:
        last = fs.latest("x")
        times = fs.count("x", over="1h")

    at = pa.array([0, 3_600_000_000], pa.int64()).cast(pa.timestamp("us", "UTC"))
    ff.table("events").append(pa.table({"id": [1, 2], "who": ["a", "b"], "t": at, "x": [1.0, 2.0]}))
    fs.apply(fs.FeatureService("recent", [Recent]))
    made = fs.training_set("recent", ff.query("select who, t as at, x > 1 as late from events"))
    ff.table("train").overwrite(made.data)

@ff.step(retries=0)
def fail(_):
    raise ValueError("no rows")

@ff.flow
def good():
    join(double(build()))

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
        assert list(lost_by_consumers(event)) == []
        assert list(refused_by_client(event)) == []
    assert [(e["job"]["name"], e["eventType"]) for e in told] == [
        ("good", "START"),
        ("good.build", "START"),
        ("good.build", "COMPLETE"),
        ("good.double", "START"),
        ("good.double", "COMPLETE"),
        ("good.join", "START"),
        ("good.join", "COMPLETE"),
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

    events, made, train = _outputs(told[6], "/events", "training_set/", "tables/train")
    assert "columnLineage" not in events["facets"]
    fields = made["facets"]["columnLineage"]["fields"]
    assert [f["name"] for f in made["facets"]["schema"]["fields"]] == ["who", "at", "late", "last", "times"]
    assert {(f["name"], f["field"], _how(f)) for f in fields["late"]["inputFields"]} == {
        (events["name"], "x", "DIRECT TRANSFORMATION")
    }
    assert (events["name"], "x", "DIRECT IDENTITY") in {
        (f["name"], f["field"], _how(f)) for f in fields["last"]["inputFields"]
    }
    masked = [f for f in fields["times"]["inputFields"] if f["field"] == "x"]
    assert masked[0]["transformations"][0]["masking"] is True
    onward = train["facets"]["columnLineage"]["fields"]
    assert [(f["name"], f["field"]) for f in onward["last"]["inputFields"]] == [(made["name"], "last")]

    again = [json.loads(line) for line in fourfold("lineage", "export").stdout.splitlines()]
    assert again == told
    assert fourfold("lineage", "export", "--since", "2100-01-01T00:00:00Z").stdout == ""


def _outputs(event: Any, *names: str) -> list[Any]:
    """The event's outputs, each by a part of its name."""
    return [next(each for each in event["outputs"] if name in each["name"]) for name in names]


def _how(field: Any) -> str:
    (first, *_) = field["transformations"]
    return f"{first['type']} {first['subtype']}"
