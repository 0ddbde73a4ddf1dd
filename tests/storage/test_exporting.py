"""A version of a table, exported to Iceberg."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from pyiceberg.catalog.sql import SqlCatalog

import fourfold as ff
from fourfold import wiring
from fourfold.core.errors import Refused
from fourfold.core.settings import Settings
from fourfold.testing.raising import raising

pytestmark = pytest.mark.slow


@pytest.fixture
def project(home: Path) -> Iterator[wiring.Project]:
    (home.parent / "fourfold.toml").write_text('[exports]\nlake = "iceberg+sqlite:///lake.db"\n')
    project = wiring.open_project()
    yield project
    project.close()


def in_lake(home: Path, name: str) -> list[dict[str, object]]:
    """The rows as other programs read them."""
    catalog = SqlCatalog("fourfold", uri=f"sqlite:///{home.parent}/lake.db")
    found: list[dict[str, object]] = catalog.load_table(f"fourfold.{name}").scan().to_arrow().to_pylist()
    return found


def test_a_version_is_exported_once_and_another_takes_its_place(project: wiring.Project, home: Path) -> None:
    table = ff.table("t")
    table.append(pa.table({"day": ["a", "b"], "n": pa.array([1, 2], pa.int8())}), partition_by=["day"])
    table.append(pa.table({"day": ["c"], "n": pa.array([3], pa.int8())}))
    first = table.export("lake")
    assert (first.name, first.version, first.to, first.made, first.rows) == ("t", 1, "lake", 0, 3)
    assert table.export("lake") == first
    assert sorted(row["n"] for row in in_lake(home, "t")) == [1, 2, 3]  # type: ignore[type-var]
    older = table.version(0).export("lake")
    assert (older.version, older.made, older.rows) == (0, 1, 2)
    assert len(in_lake(home, "t")) == 2
    assert table.export("lake").made == 2
    table.evolve(rename={"n": "number"})
    assert table.export("lake").made == 3
    assert set(in_lake(home, "t")[0]) == {"day", "number"}


def test_what_was_inserted_is_exported_too(project: wiring.Project, home: Path) -> None:
    ff.table("t").insert({"n": 1})
    assert ff.table("t").export("lake").rows == 1


def test_a_place_that_the_settings_do_not_name_is_refused(project: wiring.Project) -> None:
    ff.table("t").append(pa.table({"n": [1]}))
    with raising(Refused, naming="did you mean 'lake'?"):
        ff.table("t").export("lakes")
    with raising(Refused, naming="iceberg+sqlite://…"):
        Settings.parse({"exports": {"lake": "s3://bucket"}}, {})
    assert Settings.parse({}, {"FOURFOLD_EXPORTS_LAKE": "iceberg+https://x"}).exports["lake"]
