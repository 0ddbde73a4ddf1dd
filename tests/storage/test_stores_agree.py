"""Delta on disk and the store in memory answer alike, whatever was written and whatever is asked."""

from __future__ import annotations

import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fourfold.adapters.delta import DeltaTables
from fourfold.core.errors import Refused
from fourfold.core.ports.tables import TableStore
from fourfold.core.storage import Condition
from fourfold.testing.tables import MemoryTables

pytestmark = pytest.mark.property

SCHEMA = pa.schema([
    ("n", pa.int64()),
    ("x", pa.float64()),
    ("word", pa.string()),
    ("at", pa.timestamp("us", "UTC")),
    ("day", pa.date32()),
])  # fmt: skip
VALUES: dict[str, list[Any]] = {
    "n": [None, -(2**63), -1, 0, 1, 2**63 - 1],
    "x": [None, float("nan"), float("-inf"), -0.0, 0.0, 1.5, float("inf")],
    "word": [None, "", "a", "b\n", "ü" * 70, "%20/../x"],
    "at": [None, 0, 1, 1_000_000, 253_402_300_799_999_999],
    "day": [None, date(1969, 12, 31), date(2013, 1, 1), date(2013, 1, 2)],
}


def say(value: Any) -> Any:
    """A value as a condition spells it."""
    return value.isoformat() if isinstance(value, date) else value


row = st.fixed_dictionaries({name: st.sampled_from(values) for name, values in VALUES.items()})
written = st.lists(st.lists(row, max_size=4), min_size=1, max_size=4)


@st.composite
def conditions(draw: st.DrawFn) -> tuple[Condition, ...]:
    found: list[Condition] = []
    for column in draw(st.lists(st.sampled_from(list(VALUES)), max_size=2)):
        operator = draw(st.sampled_from(["==", "!=", "<", "<=", ">", ">=", "in", "not in"]))
        if operator in {"in", "not in"}:
            values = draw(st.lists(st.sampled_from(VALUES[column][1:]), max_size=3))
            found.append((column, operator, tuple(say(value) for value in values)))
        else:
            value = draw(st.sampled_from(VALUES[column] if operator in {"==", "!="} else VALUES[column][1:]))
            found.append((column, operator, say(value)))
    return tuple(found)


def answer(store: TableStore, version: int, where: tuple[Condition, ...]) -> list[str]:
    return sorted(map(repr, store.scan("t", version=version, where=where).read_all().to_pylist()))


@example(
    [[{"n": None, "x": x, "word": None, "at": None, "day": None}] for x in (-0.0, -0.0, 0.0)],
    (),
    [(("x", "in", (0.0,)),), (("x", "not in", (0.0,)),)],
)
@example([[{"n": None, "x": -0.0, "word": None, "at": None, "day": None}]], (), [(("x", "<", float("nan")),)])
@given(written, st.sampled_from([(), ("day",)]), st.lists(conditions(), min_size=1, max_size=4))
def test_delta_and_memory_give_the_same_rows(
    batches: list[list[dict[str, Any]]],
    partition_by: tuple[str, ...],
    asked: list[tuple[Condition, ...]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        stores: list[TableStore] = [DeltaTables(Path(folder)), MemoryTables()]
        for batch in batches:
            data = pa.Table.from_pylist(batch, schema=SCHEMA)
            for store in stores:
                store.append("t", data, partition_by=partition_by)
        for version in {0, len(batches) - 1}:
            for where in [(), *asked]:
                delta, memory = (answer(store, version, where) for store in stores)
                assert delta == memory, where


@given(written, st.sampled_from(["2013-01-01", "2013-01-02", "1969-12-31"]))
def test_delta_and_memory_overwrite_the_same_partition(batches: list[list[dict[str, Any]]], day: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        stores: list[TableStore] = [DeltaTables(Path(folder)), MemoryTables()]
        told: list[list[object]] = []
        for store in stores:
            store.append("t", pa.Table.from_pylist(batches[0], schema=SCHEMA), partition_by=("day",))
            said: list[object] = []
            for batch in batches[1:]:
                data = pa.Table.from_pylist(batch, schema=SCHEMA)
                try:
                    commit = store.overwrite("t", data, where={"day": day})
                    said.append((commit.version, commit.rows, commit.rows_added))
                except Refused as error:
                    said.append(str(error))
            newest = store.snapshot("t")
            told.append([*said, newest.rows, *answer(store, newest.version, ())])
        assert told[0] == told[1]


@example([[{"n": 0, "x": -0.0, "word": None, "at": None, "day": None}]], (), (("x", "in", (0.0,)),))
@given(written, st.sampled_from([(), ("day",)]), conditions())
def test_delta_and_memory_delete_the_same_rows(
    batches: list[list[dict[str, Any]]], partition_by: tuple[str, ...], where: tuple[Condition, ...]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        stores: list[TableStore] = [DeltaTables(Path(folder)), MemoryTables()]
        told: list[list[object]] = []
        for store in stores:
            for batch in batches:
                store.append("t", pa.Table.from_pylist(batch, schema=SCHEMA), partition_by=partition_by)
            commit = store.delete("t", where=where)
            told.append([commit.rows, commit.rows_removed, *answer(store, commit.version, ())])
        assert told[0] == told[1]
