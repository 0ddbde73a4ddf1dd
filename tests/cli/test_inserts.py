"""Inserted rows by command: what waits is told and flushed, what fits no more shown and discarded."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from fourfold import wiring

from .conftest import Fourfold

pytestmark = pytest.mark.slow


def test_what_waits_is_told_and_flushed(fourfold: Fourfold, empty: Path) -> None:
    wiring.open_project().storage.insert("events", pa.table({"n": [1, 2]}))
    (listed,) = fourfold("table", "ls", "-o", "json").json
    assert (listed["rows"], listed["waiting_rows"]) == (0, 2)
    assert "2 rows, in no version yet" in fourfold("table", "show", "events").out
    assert [row["n"] for row in fourfold("table", "head", "events", "-o", "json").json] == [1, 2]
    query = fourfold("table", "query", "select max(n) as s from events", "-o", "json")
    assert query.json == [{"s": 2}]
    (listed,) = fourfold("table", "ls", "-o", "json").json
    assert (listed["rows"], listed["waiting_rows"]) == (2, 0), "a query reads a version, so it made one"
    wiring.open_project().storage.insert("events", pa.table({"n": [3]}))
    assert "events is at version 2, 3 rows" in fourfold("table", "flush").err
    assert fourfold("table", "flush").err == ""
    assert "events is at version 2" in fourfold("table", "flush", "events").err


def test_what_fits_no_more_is_shown_and_discarded(fourfold: Fourfold, empty: Path) -> None:
    project = wiring.open_project()
    project.storage.insert("events", pa.table({"n": [1]}))
    project.tables.overwrite("events", pa.table({"m": [7]}))
    fourfold("table", "flush")
    (rejected,) = fourfold("table", "rejected", "events", "-o", "json").json
    assert "the data does not have the columns" in fourfold("table", "rejected", "events").out
    assert fourfold("table", "rejected", "events", rejected["id"], "-o", "json").json == [{"n": 1}]
    fourfold("table", "discard", "events", rejected["id"])
    assert fourfold("table", "rejected", "events", "-o", "json").json == []
