"""Datasets: defined, released, read back exactly, compared; what they pin stays."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.storage.conftest import Attempt

import fourfold as ff
from fourfold.core import context
from fourfold.core.access import Access
from fourfold.core.catalog import acting_as
from fourfold.core.context import Ref
from fourfold.core.datasets import DatasetVersion
from fourfold.core.decide.drift import distance
from fourfold.core.errors import Denied, NotFound, Refused
from fourfold.core.settings import Settings
from fourfold.core.statistics import ColumnStatistics
from fourfold.foundation.storage.statistics.sketch import TableSketch
from fourfold.wiring import Project

pytestmark = pytest.mark.slow


@pytest.fixture
def project(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """A project with two tables and some files."""
    project = Project(home, Settings())
    monkeypatch.setattr(context, "_opener", lambda: project)
    ff.table("flights").append(pa.table({"id": [1, 2], "delay": [1.0, 2.0]}))
    ff.table("weather").append(pa.table({"hour": [1]}))
    (home.parent / "maps").mkdir()
    (home.parent / "maps" / "a").write_bytes(b"first")
    ff.files("maps").save(home.parent / "maps")
    yield project
    project.close()


def training() -> ff.Dataset:
    made = ff.dataset("training")
    made.define(
        ["flights", ff.table("weather"), ff.files("maps")],
        owner="ada",
        description="Late or not?",
        labels=["delays"],
    )
    return made


def test_a_version_pins_its_members_and_reads_them_back_as_they_were(project: Project) -> None:
    made = training().release(why="first")
    assert [(m.name, str(m.ref)) for m in made.members] == [
        ("flights", "table:flights@0"),
        ("maps", "files:maps@0"),
        ("weather", "table:weather@0"),
    ]
    assert (made.version, made.why, made.member("flights").rows) == (0, "first", 2)
    assert [column.name for column in made.member("flights").columns] == ["id", "delay"]
    ff.table("flights").append(pa.table({"id": [3], "delay": [3.0]}))
    (project.home.parent / "maps" / "a").write_bytes(b"second")
    ff.files("maps").save(project.home.parent / "maps")
    later = ff.dataset("training").release(why="second")
    assert later.version == 1
    first = ff.dataset("training").version(0)
    assert sorted(first.table("flights").read()["id"].to_pylist()) == [1, 2]
    assert first.files("maps").read("a") == b"first"
    assert sorted(ff.dataset("training").table("flights").read()["id"].to_pylist()) == [1, 2, 3]
    ff.dataset("training").version(0).tag("report", why="as sent")
    assert ff.dataset("training").tagged("report").released() == made
    info = ff.dataset("training").describe()
    assert (info.definition.owner, info.definition.labels, info.tags) == ("ada", ("delays",), {"report": 0})
    assert info.newest == later
    assert [v.version for v in ff.dataset("training").history()] == [1, 0]
    assert project.datasets.list_datasets() == (info,)


def test_the_same_members_are_the_same_version_and_a_repeated_attempt_answers_as_the_first(
    project: Project,
) -> None:
    training()
    first = ff.dataset("training").release(why="first")
    assert ff.dataset("training").release(why="again") == first
    ff.table("weather").append(pa.table({"hour": [2]}))
    versions, attempts = [], [Attempt(number=1), Attempt(number=2)]
    for attempt in attempts:
        with context.within(attempt):
            versions.append(ff.dataset("training").release())
        ff.table("weather").append(pa.table({"hour": [3]}))
    assert [v.version for v in versions] == [1, 1]
    assert attempts[1].writes == [Ref("dataset", "training", "1")]
    assert Ref("table", "flights", "0") in attempts[1].reads


def test_a_pinned_member_stays_and_members_may_have_names_of_their_own(project: Project) -> None:
    ff.table("flights").append(pa.table({"id": [3], "delay": [3.0]}))
    made = ff.dataset("both")
    made.define({"old": ff.table("flights").version(0), "new": "flights", "run": Ref("run", "r1", "1")})
    pinned = made.release()
    assert [str(m.ref) for m in pinned.members] == ["table:flights@1", "table:flights@0", "run:r1@1"]
    assert made.table("old").read().num_rows == 2
    with pytest.raises(Refused, match="is a run, not a table"):
        made.table("run")
    with pytest.raises(NotFound, match="did you mean 'old'"):
        made.table("odl")


def test_lineage_leads_through_a_dataset_and_a_vacuum_keeps_what_it_pins(project: Project) -> None:
    training().release()
    ff.table("flights").overwrite(pa.table({"id": [9], "delay": [0.0]}))
    ff.table("flights").overwrite(pa.table({"id": [8], "delay": [0.0]}))
    graph = project.catalog.lineage("dataset", "training", version="0")
    assert {str(edge.source) for edge in graph.edges} == {
        "table:flights@0",
        "table:weather@0",
        "files:maps@0",
    }
    told = project.storage.vacuum("flights", older_than_s=3600, dry_run=True)
    assert told.versions == ()
    assert project.storage._retiring._cited("flights") == {0: "dataset:training@0"}


def test_two_versions_are_compared_by_members_columns_and_how_far_they_moved(project: Project) -> None:
    training().release()
    ff.table("flights").overwrite(pa.table({"id": [1, 2], "delay": [101.0, None], "tail": ["N1", "N2"]}))
    ff.dataset("training").define(["flights", "weather"])
    ff.dataset("training").release()
    found = ff.dataset("training").diff(0)
    assert [(c.name, c.before is None, c.after is None) for c in found.changes] == [
        ("flights", False, False),
        ("maps", False, True),
    ]
    assert [column.name for column in found.changes[0].columns_added] == ["tail"]
    (moved,) = found.drift
    assert (moved.column, moved.nulls_before, moved.nulls_after, moved.distance) == ("delay", 0.0, 0.5, 1.0)
    assert ff.dataset("training").diff(1, 1).changes == ()


def test_a_dataset_whose_tables_are_not_as_expected_is_not_released(project: Project) -> None:
    training()
    ff.table("flights").expect(ff.expect.between("delay", 0, 1))
    with pytest.raises(Refused, match=r"flights \(table:flights@0\): delay is between 0 and 1"):
        ff.dataset("training").release()
    checks = ff.dataset("training").check()
    assert [(c.table, c.passed) for c in checks] == [("flights", False), ("weather", True)]
    ff.table("flights").overwrite(pa.table({"id": [1], "delay": [0.5]}))
    assert ff.dataset("training").release().version == 0


def test_tables_of_a_dataset_are_counted_as_they_are_written(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    training()
    ff.table("flights").overwrite(pa.table({"id": [1], "delay": [0.5]}))
    ff.table("flights").append(pa.table({"id": [2], "delay": [1.5]}))
    monkeypatch.setattr(TableSketch, "of", None)
    assert ff.table("flights").stats().column("id").greatest == 2
    assert ff.table("flights").expectations().statistics


def test_of_two_that_release_at_once_both_are_numbered_or_one_is_the_other(project: Project) -> None:
    training()
    made: list[DatasetVersion] = []
    threads = [threading.Thread(target=lambda: made.append(ff.dataset("training").release())) for _ in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each.version for each in made] == [0, 0, 0]


def test_what_cannot_be_a_dataset_is_refused(project: Project) -> None:
    made = ff.dataset("training")
    for members, says in (
        ([], "has no members"),
        (["flihgts"], "did you mean 'flights'"),
        ("flights", "write \\['flights'\\]"),
        (["flights", ff.table("flights").version(0)], "two members are called 'flights'"),
        ([Ref("run", "r1")], "its version is not said"),
        ([ff.table("flights").version(7)], "version"),
        ([Ref("table", "flights", "x")], "is no version of table"),
        ({"a/b": "flights"}, "cannot name a dataset"),
    ):
        with pytest.raises((Refused, NotFound), match=says):
            made.define(members)  # type: ignore[arg-type]
    with pytest.raises(NotFound, match="does not exist"):
        made.release()
    training()
    with pytest.raises(NotFound, match="has no version yet"):
        made.released()
    made.release()
    with pytest.raises(NotFound, match="versions: 0 to 0"):
        made.version(3).released()
    with pytest.raises(NotFound, match="has no tag"):
        made.tagged("gold").released()
    with pytest.raises(Refused, match="cannot release an older version"):
        made.version(0).release()


# Rows that are inserted


def test_inserted_rows_are_looked_at_before_they_wait(project: Project) -> None:
    flights = ff.table("flights")
    flights.expect(ff.expect.between("delay", 0, 5), on_failure="quarantine")
    with pytest.raises(Refused, match="delay is between 0 and 5: not so for 1 of 2 rows"):
        flights.insert(pa.table({"id": [3, 4], "delay": [1.0, 9.0]}))
    assert flights.read().num_rows == 2
    (rejection,) = flights.rejections()
    assert (rejection.operation, rejection.is_quarantined, rejection.kept_rows) == ("insert", False, 1)
    flights.insert(pa.table({"id": [3], "delay": [1.0]}))
    assert flights.read().num_rows == 3
    flights.expect(ff.expect.unique("id"))
    with pytest.raises(Refused, match="looked at as a whole"):
        flights.insert(pa.table({"id": [4], "delay": [1.0]}))
    with pytest.raises(Refused, match="id is unique"):
        flights.append(pa.table({"id": [3], "delay": [1.0]}))


def test_a_release_pins_rows_that_waited(project: Project) -> None:
    training()
    ff.table("flights").insert(pa.table({"id": [3], "delay": [1.0]}))
    made = ff.dataset("training").release()
    assert (str(made.member("flights").ref), made.member("flights").rows) == ("table:flights@1", 3)


def test_of_a_dropped_table_no_values_are_kept(project: Project) -> None:
    flights = ff.table("flights")
    flights.expect(ff.expect.between("delay", 0, 5))
    flights.stats()
    with pytest.raises(Refused):
        flights.append(pa.table({"id": [3], "delay": [9.0]}))
    records = project.datasets._records
    assert len(records.rejections("flights", 9)) == 1
    project.storage.drop("flights")
    assert records.rejections("flights", 9) == ()
    assert records.expected("flights") is None
    assert project.datasets._statistics._records.summary("flights", 0) is None


def test_who_may_not_read_a_table_is_told_none_of_its_values(project: Project) -> None:
    flights = ff.table("flights")
    training().release()
    flights.expect(ff.expect.between("delay", 0, 5))
    with pytest.raises(Refused):
        flights.append(pa.table({"id": [3], "delay": [9.0]}))
    flights.overwrite(pa.table({"id": [3], "delay": [1.0]}))
    ff.dataset("training").release()
    (rejection,) = flights.rejections()
    project.storage.grant_table("flights", "ada", Access.manage)
    reads: list[Callable[[], object]] = [
        flights.stats,
        flights.check,
        flights.rejections,
        lambda: flights.rejected(rejection.id),
        lambda: flights.expect(ff.expect.not_null("id")),
        lambda: project.datasets.discard("flights", rejection.id),
        lambda: ff.dataset("training").diff(0),
        ff.dataset("training").release,
    ]
    for read in reads:
        with acting_as("eve"), pytest.raises(Denied, match="'eve' may not"):
            read()
    with acting_as("ada"):
        assert flights.rejected(rejection.id)["id"].to_pylist() == [3]
        flights.stats()


# How far a column moved


def column(values: list[float]) -> ColumnStatistics:
    table = pa.table({"x": pa.array(values, pa.float64())})
    return TableSketch.of(table.to_batches(), table.schema).statistics("t", 0).columns[0]


@pytest.mark.property
@given(
    st.lists(st.floats(-100, 100), min_size=1, max_size=40),
    st.lists(st.floats(-100, 100), min_size=1, max_size=40),
)
def test_a_distance_is_a_share_the_same_both_ways_and_none_from_itself(
    some: list[float], other: list[float]
) -> None:
    one, two = column(some), column(other)
    there, back = distance(one, two), distance(two, one)
    assert there is not None
    assert there == back
    assert 0 <= there <= 1
    assert distance(one, one) == 0
    if max(some) < min(other):
        assert there == 1


def test_columns_without_quantiles_have_no_distance() -> None:
    assert distance(column([]), column([1.0])) is None
