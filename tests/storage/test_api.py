"""What people write: `ff.table("flights")` takes what they have and says what it will not take."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone

import duckdb
import pandas as pd
import pyarrow as pa
import pytest
from tests.storage.conftest import DAY_1, DAY_2, rows

from fourfold.core.errors import NotFound, Refused
from fourfold.foundation.storage.api import Table
from fourfold.foundation.storage.service import Storage
from fourfold.testing.clock import MovableClock


@pytest.fixture
def table(storage: Storage) -> Table:
    return Table("t", storage=storage)


def n(data: pa.Table) -> list[int]:
    return sorted(data["n"].to_pylist())


def test_a_table_takes_whatever_speaks_arrow(table: Table) -> None:
    data = rows(1)
    for given in (
        data,
        data.to_batches()[0],
        data.to_reader(),
        data.to_pandas(date_as_object=True),
        duckdb.connect().from_arrow(data),
    ):
        table.append(given)
    assert n(table.read()) == [1] * 5
    assert table.read().schema == data.schema
    with pytest.raises(Refused, match="a list is not a table"):
        table.append([{"n": 1}])


def test_a_data_frames_index_is_no_column(table: Table) -> None:
    table.append(pd.DataFrame({"n": [1, 2]}, index=["a", "b"]))
    assert [column.name for column in table.describe().columns] == ["n"]


def test_dates_and_times_are_given_as_python_has_them(table: Table) -> None:
    table.append(pa.concat_tables([rows(1), rows(2, day=DAY_2)]), partition_by=["day"])
    assert n(table.read(where=[("day", ">=", DAY_2)])) == [2]
    assert n(table.read(where=[("day", "in", [DAY_1, date(1999, 1, 1)])])) == [1]
    table.overwrite(rows(3), where={"day": DAY_1})
    assert n(table.read()) == [2, 3]


def test_a_pinned_handle_reads_one_version_and_writes_none(table: Table, clock: MovableClock) -> None:
    table.append(rows(1))
    table.tag("first")
    clock.advance(3600)
    table.append(rows(2))
    new_york = timezone(timedelta(hours=-5))
    for pinned in (
        table.version(0),
        table.tagged("first"),
        table.at("2026-01-01T00:30:00Z"),
        table.at(datetime(2025, 12, 31, 19, 30, tzinfo=new_york)),
        table.at(datetime(2026, 1, 1, tzinfo=UTC)),
    ):
        assert n(pinned.read()) == [1]
        with pytest.raises(Refused, match="cannot append to an older version"):
            pinned.append(rows(3))
    assert table.version(0).tag("again").version == 0
    with pytest.raises(Refused, match="name the version by number"):
        table.tagged("first").tag("other")
    with pytest.raises(Refused, match="has no zone"):
        table.at(datetime(2026, 1, 1))  # noqa: DTZ001
    assert len(table.history()) == 2


def test_a_query_runs_on_the_rows(table: Table) -> None:
    table.append(rows(1, 2, 3))
    assert table.duckdb(where=[("n", ">", 1)]).sum("n").fetchall() == [(5,)]
    assert sum(batch.num_rows for batch in table.scan(columns=["n"])) == 3


def test_a_slip_of_the_pen_is_refused(table: Table) -> None:
    table.append(rows(1))
    with pytest.raises(Refused, match=r"write columns=\['n'\]"):
        table.read(columns="n")
    with pytest.raises(Refused, match="is not a condition"):
        table.read(where=[("n", 1)])  # type: ignore[list-item]
    with pytest.raises(Refused, match="cannot name a table"):
        Table("../t")


@pytest.mark.slow
def test_a_stream_and_an_arrow_stream_of_others_are_taken_without_a_whole_copy(table: Table) -> None:
    polars = pytest.importorskip("polars")
    data = rows(1, 2)
    table.append(iter([*data.to_batches(), *data.to_batches()]))
    table.append(polars.from_arrow(data))
    table.append(duckdb.connect().from_arrow(data).filter("n > 1"))
    assert n(table.read()) == [1, 1, 1, 2, 2, 2, 2]
    other = Table("u", storage=table._storage)
    other.append(table)
    assert n(other.read()) == n(table.read())
    assert polars.DataFrame(table)["n"].sum() == 11
    wrongs: list[object] = ["text", {"n": [1]}, iter([]), [1], 7]
    for wrong in wrongs:
        with pytest.raises(Refused, match="is not a table"):
            table.append(wrong)


def test_a_table_is_changed_by_its_handle(table: Table, clock: MovableClock) -> None:
    table.append(rows(1, 2))
    table.upsert(rows(2, 3, day=DAY_2), key="n")
    table.delete(where=[("day", "==", DAY_1)])
    assert n(table.read()) == [2, 3]
    table.evolve(add={"x": pa.float32(), "gate": "string"}, widen={}, rename={"n": "number"})
    table.evolve(widen={"x": "double"})
    assert [column.name for column in table.describe().columns] == ["number", "day", "x", "gate"]
    assert table.version(1).restore().operation == "restore"
    assert n(table.read()) == [1, 2, 3]
    assert table.compact() is None or table.compact(cluster_by="n") is not None
    found = table.diff(1, 2, key=["n"])
    assert (found.added, found.removed) == (0, 1)
    assert table.changes(1, 2).read_all()["change"].to_pylist() == ["removed"]
    clock.advance(86_400)
    assert table.vacuum(older_than=timedelta(hours=2), dry_run=True).versions != ()
    with pytest.raises(Refused, match="cannot vacuum an older version"):
        table.version(0).vacuum()


def test_a_branch_is_a_handle_like_any(table: Table) -> None:
    table.append(rows(1))
    trial = table.branch("dev/try-1")
    assert repr(trial) == "<Table t@dev/try-1>"
    trial.begin(why="to try")
    trial.append(rows(2))
    assert [branch.name for branch in table.branches()] == ["dev/try-1"]
    assert n(table.read()) == [1]
    assert n(Table("t@dev/try-1", storage=table._storage).read()) == [1, 2]
    trial.publish(why="looks good")
    trial.drop()
    assert n(table.read()) == [1, 2]
    calls: tuple[tuple[Callable[[], object], str], ...] = (
        (table.begin, "it is no branch"),
        (lambda: trial.branch("deeper"), "is a branch, and has none"),
        (lambda: table.version(0).branch("x"), "cannot branch from an older version"),
        (lambda: table.branch("a b"), "cannot name a branch"),
    )
    for call, says in calls:
        with pytest.raises(Refused, match=says):
            call()
    table.drop()
    with pytest.raises(NotFound, match="was dropped"):
        table.read()
