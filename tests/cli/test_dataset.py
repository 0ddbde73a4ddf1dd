"""`fourfold dataset`: defined, released, compared, checked."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest

from fourfold import wiring

from .conftest import Fourfold

pytestmark = pytest.mark.slow


@pytest.fixture
def tables(empty: Path) -> Path:
    """A project with two tables."""
    home = empty / ".fourfold"
    with closing(wiring.Project(home, wiring.read_settings(home, {}))) as project:
        project.storage.append("flights", pa.table({"id": [1, 2], "delay": [1.0, 2.0]}))
        project.storage.append("weather", pa.table({"hour": [1]}))
    return empty


def test_a_dataset_is_defined_released_and_compared(fourfold: Fourfold, tables: Path) -> None:
    line = ("dataset", "define", "training", "--table", "flights", "--table", "weather@0")
    said = fourfold(*line, "--owner", "ada", "--description", "Late or not?", "--label", "delays")
    assert (said.code, "2 members" in said.err) == (0, True)
    assert "none yet" in fourfold("dataset", "show", "training").out
    made = fourfold("dataset", "release", "training", "--why", "first", "-o", "json").json
    assert [member["ref"]["version"] for member in made["members"]] == ["0", "0"]
    again = fourfold("dataset", "release", "training")
    assert (again.code, "nothing changed" in again.err) == (0, True)
    home = tables / ".fourfold"
    with closing(wiring.Project(home, wiring.read_settings(home, {}))) as project:
        project.storage.overwrite(
            "flights", pa.table({"id": [1, 2], "late": [True, False], "delay": [9.0, None]})
        )
    assert fourfold("dataset", "release", "training", "--why", "second").lines[0].split() == ["version", "1"]
    shown = fourfold("dataset", "diff", "training", "0").lines
    assert shown[1].split()[:3] == ["~", "flights", "table:flights@0,"]
    assert shown[1].endswith("+late")
    assert shown[-1].split() == ["flights.delay", "100%", "0%", "to", "50%", "2", "to", "1"]
    assert [row["version"] for row in fourfold("dataset", "history", "training", "-o", "json").json] == [1, 0]
    assert fourfold("dataset", "tag", "training", "gold", "--version", "0").code == 0
    told = fourfold("dataset", "show", "training", "--tag", "gold")
    assert "table:flights@0, 2 rows" in told.out
    assert "gold=0" in told.out
    (listed,) = fourfold("dataset", "ls", "-o", "json").json
    assert (listed["name"], listed["newest"]["version"], listed["definition"]["owner"]) == (
        "training",
        1,
        "ada",
    )
    assert "table:flights@1" in fourfold("lineage", "dataset:training@1").out


def test_a_check_of_a_dataset_ends_with_1_where_a_table_is_not_as_expected(
    fourfold: Fourfold, tables: Path
) -> None:
    assert fourfold("dataset", "define", "training", "--table", "flights").code == 0
    assert "nothing is expected" in fourfold("dataset", "check", "training").err
    (tables / "expected.toml").write_text('[[expect]]\nbetween = "delay"\ngreatest = 1')
    fourfold("table", "expect", "flights", "expected.toml")
    checked = fourfold("dataset", "check", "training")
    assert (checked.code, checked.lines[1].split()[:3]) == (1, ["flights@0", "NOT", "SO"])
    refused = fourfold("dataset", "release", "training")
    assert (refused.code, "not as expected" in refused.err) == (1, True)
    assert "did you mean 'flights'" in fourfold("dataset", "define", "training", "--table", "flihgts").err
