"""What people write: `ff.table("flights")` takes what they have and says what it will not take."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import duckdb
import pandas as pd
import pyarrow as pa
import pytest
from tests.storage.conftest import DAY_1, DAY_2, rows

from fourfold.core.errors import Refused
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
