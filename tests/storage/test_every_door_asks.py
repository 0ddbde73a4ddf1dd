"""Every public method of the services that hold tables' values asks the grants, or is told here why not."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import fourfold as ff
from fourfold.core import context
from fourfold.core.access import Access
from fourfold.core.catalog import acting_as
from fourfold.core.context import Ref
from fourfold.core.datasets import Definition
from fourfold.core.errors import Denied, NotFound, Refused
from fourfold.core.expectations import Expected
from fourfold.core.routes import Role
from fourfold.core.services.datasets import Datasets
from fourfold.core.services.storage import Storage
from fourfold.core.settings import Settings
from fourfold.foundation.storage.query import Query
from fourfold.wiring import Project

pytestmark = pytest.mark.slow

ROWS = pa.table({"id": [3]})
OF_TABLE = Definition({"t": Ref("table", "t", "")})

ASKED: dict[str, Callable[[Project], object]] = {
    "storage.append": lambda p: p.storage.append("t", ROWS),
    "storage.insert": lambda p: p.storage.insert("t", ROWS),
    "storage.flush": lambda p: p.storage.flush("t"),
    "storage.overwrite": lambda p: p.storage.overwrite("t", ROWS),
    "storage.upsert": lambda p: p.storage.upsert("t", ROWS, key=("id",)),
    "storage.delete": lambda p: p.storage.delete("t", where=()),
    "storage.evolve": lambda p: p.storage.evolve("t", add={"x": "int64"}),
    "storage.restore": lambda p: p.storage.restore("t", version=0),
    "storage.compact": lambda p: p.storage.compact("t"),
    "storage.read": lambda p: p.storage.read("t", version=0),
    "storage.scan": lambda p: p.storage.scan("t@dev/x"),
    "storage.diff": lambda p: p.storage.diff("t", before=0),
    "storage.changes": lambda p: p.storage.changes("t", before=0),
    "storage.history": lambda p: p.storage.history("t"),
    "storage.describe": lambda p: p.storage.describe("t"),
    "storage.tag": lambda p: p.storage.tag("t", "gold"),
    "storage.export": lambda p: p.storage.export("t", "lake"),
    "storage.fork": lambda p: p.storage.fork("t", "dev/y"),
    "storage.branches": lambda p: p.storage.branches("t"),
    "storage.publish": lambda p: p.storage.publish("t", "dev/x"),
    "storage.drop_branch": lambda p: p.storage.drop_branch("t", "dev/x"),
    "storage.vacuum": lambda p: p.storage.vacuum("t"),
    "storage.drop": lambda p: p.storage.drop("t"),
    "storage.forget": lambda p: p.storage.forget("t", keys=({"id": 1},)),
    "storage.forget_again": lambda p: p.storage.forget_again("t"),
    "storage.forgotten": lambda p: p.storage.forgotten("t"),
    "storage.grant_table": lambda p: p.storage.grant_table("t", "eve", Access.manage),
    "storage.revoke_table": lambda p: p.storage.revoke_table("t", "ada"),
    "datasets.statistics": lambda p: p.datasets.statistics("t"),
    "datasets.expect": lambda p: p.datasets.expect("t", Expected()),
    "datasets.expectations": lambda p: p.datasets.expectations("t"),
    "datasets.check": lambda p: p.datasets.check("t"),
    "datasets.checks": lambda p: p.datasets.checks("t"),
    "datasets.rejections": lambda p: p.datasets.rejections("t"),
    "datasets.rejected_rows": lambda p: p.datasets.rejected_rows("t", "x"),
    "datasets.discard": lambda p: p.datasets.discard("t", "x"),
    "datasets.define": lambda p: p.datasets.define("mine", OF_TABLE),
    "datasets.release": lambda p: p.datasets.release("bundle"),
    "datasets.diff_releases": lambda p: p.datasets.diff_releases("bundle", before=0),
    "datasets.check_dataset": lambda p: p.datasets.check_dataset("bundle", version=0),
    "query": lambda p: Query(p.storage).ask("select * from t"),
    "query of a branch": lambda p: Query(p.storage).ask('select * from "t@dev/x"'),
    "append_file": lambda p: ff.table("t").append_file(p.home.parent / "rows.csv"),
    "upsert_file": lambda p: ff.table("t").upsert_file(p.home.parent / "rows.csv", key="id"),
}
"""What each of them does with a table that has a list of who may use it."""

OTHERWISE: dict[str, str] = {
    "storage.list_tables": "leaves out what may not be read",
    "storage.table_grants": "says who may, so that people know whom to ask",
    "storage.put_blob": "is no table's: a digest says nothing to whom does not know it",
    "storage.get_blob": "asks for a digest, which only who knows the bytes or what cites them has",
    "storage.put_file": "as put_blob",
    "storage.materialize": "as get_blob",
    "datasets.list_datasets": "tells names, owners and labels of bundles",
    "datasets.dataset": "tells which members a bundle has, no value of theirs",
    "datasets.released": "tells versions, columns and digests, no values",
    "datasets.releases": "as released",
    "datasets.tag_release": "moves a name of a bundle",
}
"""Methods that ask for no grant on a table, and why."""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    with closing(Project(tmp_path / ".fourfold", Settings())) as opened:
        monkeypatch.setattr(context, "_opener", lambda: opened)
        (tmp_path / "rows.csv").write_text("id\n7\n")
        opened.storage.append("t", pa.table({"id": [1]}))
        opened.storage.append("t", pa.table({"id": [2]}))
        opened.storage.append("open", pa.table({"id": [1]}))
        opened.storage.fork("t", "dev/x")
        opened.storage.append("t@dev/x", ROWS)
        opened.datasets.define("bundle", OF_TABLE)
        opened.datasets.release("bundle")
        opened.storage.append("t", pa.table({"id": [4]}))
        opened.datasets.release("bundle")
        opened.catalog.grant("eve", Role.editor)
        opened.storage.grant_table("t", "ada", Access.manage)
        yield opened


def _methods(name: str, service: type) -> set[str]:
    return {f"{name}.{each}" for each, _ in inspect.getmembers(service, inspect.isfunction) if each[0] != "_"}


def test_every_method_is_on_one_of_the_lists() -> None:
    there = _methods("storage", Storage) | _methods("datasets", Datasets)
    listed = {name for name in ASKED if "." in name} | set(OTHERWISE)
    assert there - listed == set(), "who may not use a table: does this refuse him? put it on a list"
    assert listed - there == set(), "these are no more"


@pytest.mark.parametrize("name", ASKED)
def test_who_has_no_grant_is_refused_and_changes_nothing(project: Project, name: str) -> None:
    before = _told(project)
    with acting_as("eve"), pytest.raises(Denied, match=r"'eve' may not .* '?t'?"):
        ASKED[name](project)
    assert _told(project) == before


@pytest.mark.parametrize("name", ASKED)
def test_who_manages_the_table_is_not_refused_for_that(project: Project, name: str) -> None:
    project.catalog.grant("ada", Role.editor)
    is_nowhere = name in {"datasets.rejected_rows", "storage.export"}  # no such rejection, no such place
    with acting_as("ada"), pytest.raises((NotFound, Refused)) if is_nowhere else nullcontext():
        ASKED[name](project)


def test_what_asks_for_no_grant_tells_no_value_of_the_table(project: Project) -> None:
    with acting_as("eve"):
        assert [info.name for info in project.storage.list_tables()] == ["open"]
        assert project.datasets.dataset("bundle").name == "bundle"
        (member, *_) = project.datasets.released("bundle").members
        assert member.rows == 3


def _told(project: Project) -> list[Any]:
    return [
        project.storage.history("t"),
        project.storage.branches("t"),
        project.storage.describe("t"),
        project.storage.table_grants(),
        project.datasets.expectations("t"),
        [info.name for info in project.datasets.list_datasets()],
        project.datasets.releases("bundle"),
    ]
