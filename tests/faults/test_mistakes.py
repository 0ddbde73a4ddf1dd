"""A user's mistakes, typed at a terminal: words, exit code 1, no traceback, and nothing changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Project

FLOW = """\
import fourfold as ff
import pyarrow as pa


@ff.step(memory="900TiB")
def greedy() -> int:
    return 1


@ff.flow
def wants_too_much() -> int:
    return greedy().result()


@ff.step
def wrong_schema() -> int:
    ff.table("flights").append(pa.table({"carier": ["UA"], "delay": ["late"]}))
    return 1


@ff.step
def unknown_column() -> int:
    return ff.table("flights").read(columns=["dealy"]).num_rows


@ff.flow
def writes_wrong() -> int:
    return wrong_schema().result()


@ff.flow
def reads_wrong() -> int:
    return unknown_column().result()
"""


@pytest.fixture
def flights(project: Project) -> Project:
    import pyarrow as pa

    with project.opened() as opened:
        opened.storage.append("flights", pa.table({"carrier": ["UA"], "delay": [1.5]}))
    (project.folder / "flow.py").write_text(FLOW)
    return project


@pytest.mark.slow
def test_an_unknown_column_names_the_nearest(flights: Project) -> None:
    told = flights.refused("table", "head", "flights", "--columns", "dealy")
    assert "did you mean 'delay'?" in told


@pytest.mark.slow
def test_an_unknown_column_in_a_step_names_the_nearest(flights: Project) -> None:
    told = flights.refused("flow", "run", "flow.py", "reads_wrong")
    assert "did you mean 'delay'?" in told
    assert "fourfold flow logs run_" in told


@pytest.mark.slow
def test_a_table_of_the_wrong_schema_is_refused_in_a_step_and_changes_nothing(flights: Project) -> None:
    before = flights.json("table", "show", "flights")
    told = flights.refused("flow", "run", "flow.py", "writes_wrong")
    assert "carier" in told
    assert flights.json("table", "show", "flights") == before
    (run,) = flights.json("flow", "ls")
    assert run["state"] == "failed"


def test_a_step_that_asks_for_more_than_any_unit_has_is_refused_at_the_door(flights: Project) -> None:
    told = flights.refused("flow", "run", "flow.py", "wants_too_much")
    assert "step 'greedy' of flow 'wants_too_much' asks for 900.0 TiB memory, but no unit" in told
    assert "nearest unit: local (" in told
    assert flights.json("flow", "ls") == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("0 0 31 2 *", "never"),
        ("61 * * * *", "minute 61 is not from 0 to 59"),
        ("0 3 * *", "a cron line has 5 fields, not 4"),
        ("*/0 * * * *", "'0' is not a step of 1 or more"),
    ],
)
def test_an_impossible_cron_line_is_refused_where_it_is_written(
    project: Project, line: str, says: str
) -> None:
    assert says in project.refused("cron", "next", line)
    (project.folder / "flow.py").write_text(
        f"import fourfold as ff\n@ff.flow(schedule=ff.cron({line!r}))\ndef nightly(): ...\n"
    )
    assert says in project.refused("flow", "deploy", "flow.py")
    assert project.json("cron", "ls") == []


def test_a_time_zone_that_does_not_exist_names_the_nearest(project: Project) -> None:
    assert "Europe/Berlin" in project.refused("cron", "next", "@daily", "--tz", "Europe/Berln")


@pytest.mark.slow
@pytest.mark.parametrize("path", ["../outside.ipynb", "/etc/passwd", "a/../../outside.ipynb"])
def test_a_notebook_outside_the_project_is_refused(project: Project, path: str) -> None:
    (project.folder.parent / "outside.ipynb").write_text("{}")
    told = project.refused("notebook", "run", path)
    assert path in told
    assert project.json("notebook", "ls") == []


@pytest.mark.parametrize("name", ["../token", "a/b", "..", "", "a b", "a\nb"])
def test_a_name_that_could_leave_its_folder_is_refused(project: Project, name: str) -> None:
    project.refused("table", "show", name)
    assert not (project.folder.parent / "token").exists()


def test_a_setting_with_a_typo_is_refused_before_anything_is_made(project: Project) -> None:
    (project.folder / "fourfold.toml").write_text('catalogue = "sqlite:///x"\n')
    assert "did you mean 'catalog'?" in project.refused("table", "ls")
    (project.folder / "fourfold.toml").write_text('storage = "s4://bucket"\n')
    assert "accepted: file://" in project.refused("table", "ls")
    (project.folder / "fourfold.toml").write_text("[server\n")
    assert "is not TOML" in project.refused("table", "ls")


def test_a_project_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".fourfold").write_text("not a folder")
    told = Project(tmp_path).refused("table", "ls")
    assert "cannot be used" in told
    assert (tmp_path / ".fourfold").read_text() == "not a folder"
