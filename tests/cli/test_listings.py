"""What the nouns show: tables for people, JSON for programs, of the same things."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fourfold.cli.output import aligned

from .conftest import Fourfold

FILLED = {
    "table ls": "TABLE",
    "table history raw.flights": "VERSION",
    "table head raw.flights": "carrier",
    "flow ls": "RUN",
    "run ls": "RUN",
    "job ls": "JOB",
    "job advise": "STEP",
    "unit ls": "UNIT",
    "pool ls": "POOL",
    "env ls": "IDENTITY",
    "cron ls": "FLOW",
    "cron next @daily": "UTC",
    "audit": "AT",
    "doctor": "WHAT",
}
EMPTY = [
    *(
        "table ls",
        "dataset ls",
        "flow ls",
        "run ls",
        "model ls",
        "feature ls",
        "feature services",
        "feature freshness",
    ),
    *("endpoint ls", "notebook ls", "job ls", "job advise", "env ls", "token ls", "cron ls", "audit"),
]


@pytest.mark.slow
@pytest.mark.parametrize("line", FILLED)
def test_a_listing_is_the_same_in_three_forms(fourfold: Fourfold, project: Path, line: str) -> None:
    table, whole, lines = (fourfold(*line.split(), "-o", form) for form in ("table", "json", "jsonl"))
    assert [ran.code for ran in (table, whole, lines)] == [0, 0, 0], table.err
    assert FILLED[line] in table.lines[0]
    rows = whole.json
    assert isinstance(rows, list)
    if not line.startswith(("doctor", "cron next")):  # these tell of the present
        assert [json.loads(each) for each in lines.lines] == rows
    assert len(table.lines) == len(rows) + 1


@pytest.mark.parametrize("line", EMPTY)
def test_a_listing_of_nothing_says_so_beside_the_output(fourfold: Fourfold, bare: Path, line: str) -> None:
    ran = fourfold(*line.split())
    assert (ran.code, ran.out) == (0, "")
    assert ran.err.startswith(("no ", "nothing "))
    assert fourfold(*line.split(), "-o", "json").json == []


def test_a_table_shows_its_columns_and_missing_values(fourfold: Fourfold, project: Path) -> None:
    shown = fourfold("table", "show", "raw.flights").out
    assert "carrier" in shown
    assert "first=" in shown
    rows = fourfold("table", "head", "raw.flights", "--tag", "first", "-o", "json").json
    assert [row["delay"] for row in sorted(rows, key=lambda row: row["n"])] == [31.5, None, "NaN"]
    assert "null" in fourfold("table", "head", "raw.flights").out


@pytest.mark.slow
def test_a_query_sees_the_tables_and_nothing_else(fourfold: Fourfold, project: Path) -> None:
    twice = 'with f as (select * from "raw.flights") select count(*) as n from f a join f b on a.n = b.n'
    assert fourfold("table", "query", twice, "-o", "json").json == [{"n": 12}]
    for sql, says in {
        "select * from flihgts": "'flihgts' does not exist",
        'select nope from "raw.flights"': 'column "nope" not found',
        "select * from read_csv('/etc/passwd')": "disabled by configuration",
        "copy (select 1) to 'x.csv'": "disabled by configuration",
        "selec 1": "syntax error",
        "select * from known": "'known' does not exist",
    }.items():
        ran = fourfold("table", "query", sql)
        assert (ran.code, ran.out) == (1, ""), sql
        assert says in ran.err


def test_a_query_says_that_there_is_more(fourfold: Fourfold, project: Path) -> None:
    ran = fourfold("table", "query", "select * from range(10)", "--limit", "3")
    assert len(ran.lines) == 4
    assert "raise --limit above 3" in ran.err


@pytest.mark.slow
def test_runs_are_shown_and_compared(fourfold: Fourfold, project: Path) -> None:
    first, second = reversed(fourfold("run", "ls", "-o", "json").json)
    assert "auc=0.8" in fourfold("run", "ls", "--where", "metrics.auc > 0.7").out
    assert fourfold("run", "ls", "--where", "metrics.auc > 0.9", "-o", "json").json == []
    assert fourfold("run", "ls", "--where", "metric auc").code == 1
    assert "metric auc" in fourfold("run", "show", first["id"]).out
    compared = fourfold("run", "compare", first["id"], second["id"], "-o", "json").json
    assert {"what": "param depth", first["id"]: 3, second["id"]: 5} in compared


def test_lineage_is_drawn_as_a_tree(fourfold: Fourfold, project: Path) -> None:
    run = fourfold("run", "ls", "-o", "json").json[-1]["id"]
    assert fourfold("lineage", f"run:{run}").lines == [f"run:{run}", "└─ table:raw.flights@1"]
    assert fourfold("lineage", "table:raw.flights", "--down").lines == [
        "table:raw.flights@1",
        f"└─ run:{run}",
    ]
    graph = fourfold("lineage", f"run:{run}", "-o", "json").json
    assert len(graph["nodes"]) == 2
    for named, version in (("tag:first", 0), ("v0", 0), ("2999-01-01T00:00Z", 1)):
        assert fourfold("lineage", f"table:raw.flights@{named}").lines[0] == f"table:raw.flights@{version}"
    assert "no tag 'last'" in fourfold("lineage", "table:raw.flights@tag:last").err


def test_lineage_is_drawn_as_a_picture_too(
    fourfold: Fourfold, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = tmp_path / "shown"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {shown}\n')
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER", str(browser))
    drawn = fourfold("lineage", "table:raw.flights", "--down", "-o", "svg").out
    assert drawn.startswith("<svg ")
    assert "raw.flights" in drawn
    file = tmp_path / "of flights.svg"
    ran = fourfold("lineage", "table:raw.flights", "--down", "--open", str(file))
    assert (ran.code, file.read_text()) == (0, drawn)
    assert "the picture is in" in ran.err


def test_columns_are_told_where_a_query_made_them_and_said_to_be_unknown_where_not(
    fourfold: Fourfold, project: Path
) -> None:
    ran = fourfold("lineage", "table:raw.flights", "--columns")
    assert ran.code == 0
    assert "no query is recorded" in ran.err
    assert fourfold("lineage", "table:raw.flights#delay", "-o", "json").json["column"] == "delay"


def test_tokens_are_made_shown_once_and_revoked(fourfold: Fourfold, empty: Path) -> None:
    made = fourfold("token", "new", "bob", "--role", "editor", "--for", "1d", "--purpose", "ci")
    assert made.code == 0
    secret = made.out.strip()
    assert secret.startswith("fft_")
    (listed,) = fourfold("token", "ls", "-o", "json").json
    assert (listed["principal"], listed["purpose"]) == ("bob", "ci")
    assert secret not in fourfold("token", "ls", "-o", "json").out
    assert fourfold("token", "revoke", listed["id"]).code == 0
    assert fourfold("token", "ls", "-o", "json").json[0]["revoked_at"] is not None


def test_a_token_that_cannot_be_made_gives_no_role(fourfold: Fourfold, empty: Path) -> None:
    refused = fourfold("token", "new", "eve", "--role", "admin", "--for", "0s")
    assert refused.code == 1
    assert "a token cannot live 0s" in refused.err
    entries = fourfold("audit", "-o", "json").json
    assert [each for each in entries if each["action"] == "role.grant" and each["ref"]["name"] == "eve"] == []


def test_init_makes_a_project_and_keeps_what_is_there(fourfold: Fourfold, tmp_path: Path) -> None:
    folder = tmp_path / "new place"
    assert fourfold("init", str(folder)).code == 0
    (folder / "flow.py").write_text("mine")
    again = fourfold("init", str(folder))
    assert "kept flow.py" in again.err
    assert (folder / "flow.py").read_text() == "mine"
    assert 'project = "new-place"' in (folder / "fourfold.toml").read_text()


def test_names_cannot_steer_a_terminal() -> None:
    from fourfold.cli.output import pairs

    assert pairs({"x": "\x1b[31mred\nline"}) == "x=\\x1b[31mred\\nline"
    assert aligned(["a", "b"], [["東京", "1"], ["x", "22"]], [False, True])[1:] == ["東京   1", "x     22"]
