"""`fourfold table expect`, `check`, `rejected`, `stats`: what is expected, what is not so, what there is."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest

from fourfold import wiring
from fourfold.core.errors import Refused

from .conftest import Fourfold

EXPECTED = """
[[expect]]
not_null = "id"
[[expect]]
between = "delay"
least = 0
at_most = "60%"
[[expect]]
one_of = "tail"
values = ["N1"]
severity = "warn"
"""


@pytest.fixture
def flights(empty: Path) -> Path:
    """A project with a table of three flights."""
    with closing(
        wiring.Project(empty / ".fourfold", wiring.read_settings(empty / ".fourfold", {}))
    ) as project:
        project.storage.append(
            "flights", pa.table({"id": [1, None, 3], "delay": [-1.5, 2.5, 2.5], "tail": ["N1", "N2", "N1"]})
        )
    return empty


def test_what_is_expected_is_said_in_toml_checked_and_its_rows_shown(
    fourfold: Fourfold, flights: Path
) -> None:
    (flights / "expected.toml").write_text(EXPECTED)
    assert "nothing is expected of flights" in fourfold("table", "expectations", "flights").err
    said = fourfold("table", "expect", "flights", "expected.toml")
    assert (said.code, "3 expectations from now on" in said.err) == (0, True)
    listed = fourfold("table", "expectations", "flights")
    assert [" ".join(line.split()) for line in listed.lines[1:]] == [
        "id is not null refuse",
        "delay is at least 0 60% refuse",
        "tail is one of N1 warn",
    ]
    checked = fourfold("table", "check", "flights")
    assert checked.code == 1
    assert checked.lines[1:] == [
        "NOT SO   id is not null: not so for 1 of 3 rows",
        "ok       delay is at least 0: not so for 1 of 3 rows, at most 60% may",
        "warning  tail is one of N1: not so for 1 of 3 rows",
    ]
    assert "nothing that was written to flights was rejected" in fourfold("table", "rejected", "flights").err
    with (
        closing(
            wiring.Project(flights / ".fourfold", wiring.read_settings(flights / ".fourfold", {}))
        ) as project,
        pytest.raises(Refused),
    ):
        project.storage.append(
            "flights", pa.table({"id": pa.array([None], pa.int64()), "delay": [1.0], "tail": ["é"]})
        )
    (rejection,) = fourfold("table", "rejected", "flights", "-o", "json").json
    assert fourfold("table", "rejected", "flights").lines[1].split()[3:7] == ["append", "1", "1", "refused"]
    (row,) = fourfold("table", "rejected", "flights", rejection["id"], "-o", "json").json
    assert row == {"expected": "id is not null; tail is one of N1", "id": None, "delay": 1.0, "tail": "é"}
    assert fourfold("table", "discard", "flights", rejection["id"]).code == 0
    assert "no rejection" in fourfold("table", "rejected", "flights", rejection["id"]).err


def test_a_file_that_says_nothing_that_can_be_expected_is_refused(fourfold: Fourfold, flights: Path) -> None:
    for text, says in (("[[expect]", "is not TOML"), ("[[expect]]\nunique = 'idd'", "did you mean 'id'")):
        (flights / "expected.toml").write_text(text)
        ran = fourfold("table", "expect", "flights", "expected.toml")
        assert (ran.code, says in ran.err) == (1, True), ran.err


def test_figures_are_shown_as_lines_as_json_and_as_a_page(fourfold: Fourfold, flights: Path) -> None:
    shown = fourfold("table", "stats", "flights")
    assert "flights at version 0: 3 rows" in shown.err
    assert [line.split() for line in shown.lines[1:]] == [
        ["id", "int64", "33%", "2", "1", "1", "3", "█", "█"],
        ["delay", "double", "2", "-1.5", "2.5", "2.5", "2.5", "67%"],
        ["tail", "string", "2", "N1", "N2", "N1", "67%"],
    ]
    told = fourfold("table", "stats", "flights", "-o", "json").json
    assert [column["nulls"] for column in told["columns"]] == [1, 0, 0]
    assert fourfold("table", "stats", "flights", "--html", "page.html").code == 0
    assert "<svg" in (flights / "page.html").read_text()
