"""Inserted rows by command: what waits is told, flushed, and what was set aside shown and let go."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from fourfold import wiring

from .conftest import Fourfold


def test_what_waits_is_told_and_flushed(fourfold: Fourfold, empty: Path) -> None:
    wiring.open_project().storage.insert("events", pa.table({"n": [1, 2]}))
    (listed,) = fourfold("table", "ls", "-o", "json").json
    assert (listed["rows"], listed["waiting_rows"]) == (0, 2)
    assert "2, seen by readers, in no version yet" in fourfold("table", "show", "events").out
    assert [row["n"] for row in fourfold("table", "head", "events", "-o", "json").json] == [1, 2]
    query = fourfold("table", "query", "select max(n) as s from events", "-o", "json")
    assert query.json == [{"s": 2}]
    (listed,) = fourfold("table", "ls", "-o", "json").json
    assert (listed["rows"], listed["waiting_rows"]) == (2, 0), "a query reads a version, so it made one"
    wiring.open_project().storage.insert("events", pa.table({"n": [3]}))
    assert "events is at version 2, 3 rows" in fourfold("table", "flush").err
    assert fourfold("table", "flush").err == ""
    assert "events is at version 2" in fourfold("table", "flush", "events").err


def test_what_was_set_aside_is_shown_and_let_go(fourfold: Fourfold, empty: Path) -> None:
    project = wiring.open_project()
    project.storage.insert("events", pa.table({"n": [1]}))
    project.tables.overwrite("events", pa.table({"m": [7]}))
    fourfold("table", "flush")
    assert "1 set aside (see: fourfold table aside events)" in fourfold("table", "show", "events").out
    (aside,) = fourfold("table", "aside", "events", "-o", "json").json
    assert (aside["number"], aside["rows"]) == (0, 1)
    assert "the data does not have the columns" in aside["why"]
    assert fourfold("table", "aside", "events", "--number", "0", "-o", "json").json == [{"n": 1}]
    assert "1 rows were let go" in fourfold("table", "aside", "events", "--forget").err
    assert fourfold("table", "aside", "events", "-o", "json").json == []
