"""`fourfold backup`, `restore` and `project`, as a person has them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from fourfold import wiring
from fourfold.foundation.storage.backup import BACKED_UP

from .conftest import Fourfold


@pytest.fixture
def used(empty: Path) -> Path:
    """A project with one table, entered."""
    project = wiring.open_project()
    project.storage.append("flights", pa.table({"n": [1, 2]}))
    project.close()
    return empty


@pytest.mark.slow
def test_a_project_is_backed_up_lost_and_brought_back(fourfold: Fourfold, used: Path, tmp_path: Path) -> None:
    place = str(tmp_path / "backups")
    assert "never" in fourfold("doctor").out
    first = fourfold("backup", place)
    assert (first.code, first.out) == (0, "")
    assert "backup 1 of project 'default'" in first.err
    assert "owner's token" in first.err
    assert place in fourfold("doctor").out
    assert [row["number"] for row in fourfold("backup", "ls", place, "-o", "json").json] == [1]
    assert "is whole: " in fourfold("backup", "verify", place).err
    refused = fourfold("restore", place)
    assert refused.code == 1
    assert "not empty" in refused.err
    token = fourfold("token", "owner").out
    forced = fourfold("restore", place, "--force")
    assert forced.code == 0, forced.err
    assert ".fourfold.before-" in forced.err
    assert fourfold("table", "ls", "-o", "json").json[0]["rows"] == 2
    assert fourfold("token", "owner").out != token
    assert fourfold("audit", "--action", BACKED_UP, "-o", "json").json == [], "it was not yet taken then"


@pytest.mark.slow
def test_a_project_is_carried_in_one_file(
    fourfold: Fourfold, used: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = str(tmp_path / "flights.zip")
    assert fourfold("project", "export", file).code == 0
    again = fourfold("project", "export", file)
    assert (again.code, "is there already" in again.err) == (1, True)
    monkeypatch.setenv("FOURFOLD_HOME", str(tmp_path / "other" / ".fourfold"))
    assert fourfold("project", "import", file).code == 0
    assert fourfold("table", "ls", "-o", "json").json[0]["rows"] == 2


def test_what_a_project_is_called_is_noted_and_shown(fourfold: Fourfold, empty: Path) -> None:
    assert "nothing is noted" in fourfold("project", "show").err + fourfold("project", "show").out
    assert fourfold("project", "set", "owners", "ada, bob").code == 0
    assert fourfold("project", "show", "-o", "json").json == [{"fact": "owners", "value": "ada, bob"}]
    assert "owners: ada, bob" in fourfold("doctor").out


@pytest.mark.parametrize(
    "line", ["backup {0}/b", "restore {0}", "project export {0}/x.zip", "project import {0}"]
)
def test_only_who_works_beside_the_project_may_copy_it(
    fourfold: Fourfold, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.setenv("FOURFOLD_URL", "http://127.0.0.1:1")
    ran = fourfold(*line.format(tmp_path).split())
    assert ran.code == 1
    assert "FOURFOLD_URL names a server" in ran.err


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("backup {0}/.fourfold/b", "own folder"),
        ("backup ls {0}", "holds no backup"),
        ("restore {0}", "holds no backup"),
        ("restore {0} --force", "holds no backup"),
        ("project export {0}/x.tar", "does not end in .zip"),
        ("backup {0}", "holds something else than backups"),
    ],
)
def test_a_place_that_cannot_be_is_refused_before_anything_is_done(
    fourfold: Fourfold, bare: Path, line: str, says: str
) -> None:
    ran = fourfold(*line.format(bare).split())
    assert ran.code == 1
    assert says in ran.err
    assert (bare / ".fourfold").is_dir()


def test_force_is_refused_where_parts_lie_elsewhere_or_somebody_works(
    fourfold: Fourfold, used: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fourfold.resources.flows.owner import Lock

    fourfold("backup", str(tmp_path / "b"))
    with monkeypatch.context() as patch:
        patch.setenv("FOURFOLD_STORAGE", f"file://{tmp_path}/data")
        assert "put elsewhere: storage" in fourfold("restore", str(tmp_path / "b"), "--force").err
    lock = Lock(used / ".fourfold")
    assert lock.take()
    try:
        assert "works on this project" in fourfold("restore", str(tmp_path / "b"), "--force").err
    finally:
        lock.release()
    assert fourfold("table", "ls", "-o", "json").json[0]["rows"] == 2
