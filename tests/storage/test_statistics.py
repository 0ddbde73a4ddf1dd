"""Statistics: what is exact is exact, what is estimated is within its bound, and parts merge to the whole."""

from __future__ import annotations

import datetime as dt
import math
from decimal import Decimal
from typing import Any

import datasketches
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.storage.conftest import datasets_over, rows

from fourfold.catalog.database import Catalog
from fourfold.cli.figures import shape
from fourfold.cli.stats_page import html
from fourfold.core.errors import Corrupted, NotFound
from fourfold.core.statistics import QUANTILES, ColumnStatistics, TableStatistics
from fourfold.core.wire import number
from fourfold.foundation.storage.datasets.service import Datasets
from fourfold.foundation.storage.service import Storage
from fourfold.foundation.storage.statistics.distinct import LG_K, Distinct, number_keys, text_keys
from fourfold.foundation.storage.statistics.keeper import StatisticsKeeper
from fourfold.foundation.storage.statistics.sketch import TableSketch
from fourfold.foundation.storage.statistics.tables import KEPT_SKETCHES, StatisticsRecords
from fourfold.testing.blobs import MemoryBlobs
from fourfold.testing.clock import MovableClock
from fourfold.testing.tables import MemoryTables

KINDS: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "int": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "small": (pa.int8(), st.integers(-3, 3)),
    "float": (pa.float64(), st.floats()),
    "narrow": (pa.float32(), st.floats(width=32)),
    "text": (pa.string(), st.text(max_size=12)),
    "bytes": (pa.binary(), st.binary(max_size=9)),
    "flag": (pa.bool_(), st.booleans()),
    "day": (pa.date32(), st.dates()),
    "time": (pa.timestamp("us", "UTC"), st.datetimes(timezones=st.just(dt.UTC))),
    "money": (pa.decimal128(12, 2), st.decimals(-1000, 1000, places=2)),
    "list": (pa.list_(pa.int64()), st.lists(st.integers(0, 5), max_size=3)),
}


def one(type_: pa.DataType, *values: Any) -> ColumnStatistics:
    """The figures of one column with these values."""
    table = pa.table({"x": pa.array(values, type_)})
    return TableSketch.of(table.to_batches(), table.schema).statistics("t", 0).columns[0]


@st.composite
def parts(draw: st.DrawFn) -> tuple[pa.Schema, list[pa.RecordBatch]]:
    """A table with columns of some kinds, in parts."""
    names = draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=4, unique=True))
    schema = pa.schema([(name, KINDS[name][0]) for name in names])
    made = []
    for size in draw(st.lists(st.integers(0, 30), min_size=1, max_size=4)):
        arrays = [
            pa.array(draw(st.lists(st.none() | KINDS[name][1], min_size=size, max_size=size)), KINDS[name][0])
            for name in names
        ]
        made.append(pa.record_batch(arrays, schema=schema))
    return schema, made


@pytest.mark.property
@given(parts())
def test_merged_parts_say_what_the_whole_says(made: tuple[pa.Schema, list[pa.RecordBatch]]) -> None:
    schema, batches = made
    whole = TableSketch.of(batches, schema).statistics("t", 0)
    merged = TableSketch(schema)
    for batch in batches:
        part = TableSketch.of([batch], schema)
        assert merged.merge(TableSketch.load(part.dump()))
    told = merged.statistics("t", 0)
    assert told.digest == whole.digest
    for mine, its in zip(told.columns, whole.columns, strict=True):
        assert mine.quantiles == its.quantiles  # few values: the sketch still holds them all
        assert mine.frequent == its.frequent
        if mine.mean is not None and mine.name in {"small", "money"}:
            assert its.mean is not None
            assert number(mine.mean) == pytest.approx(number(its.mean), rel=1e-9, abs=1e-6)


@pytest.mark.property
@given(parts())
def test_exact_figures_are_those_of_a_slow_count(made: tuple[pa.Schema, list[pa.RecordBatch]]) -> None:
    schema, batches = made
    table = pa.Table.from_batches(batches, schema)
    told = TableSketch.of(batches, schema).statistics("t", 0)
    assert told.rows == table.num_rows
    for column in told.columns:
        values = [v for v in table[column.name].to_pylist() if v is not None]
        assert column.nulls == table.num_rows - len(values)
        if column.name in {"int", "small", "float", "narrow"}:
            numbers = [v for v in values if not math.isnan(v)]
            assert column.nans == len(values) - len(numbers)
            assert column.infinities == sum(math.isinf(v) for v in numbers)
            assert _ends(column) == ((min(numbers), max(numbers)) if numbers else (None, None))
        elif column.name == "text":
            # Arrow orders texts by their bytes.
            ordered = sorted(values, key=lambda v: str(v).encode())
            assert (column.least, column.greatest) == ((ordered[0], ordered[-1]) if values else (None, None))
            assert column.lengths is None or column.lengths.most == max(map(len, values))
        elif column.name == "money" and values:
            assert (column.least, column.greatest) == (str(min(values)), str(max(values)))
        elif column.name == "flag":
            assert column.trues == sum(values)
        elif column.name == "list" and values:
            assert column.lengths is not None
            assert column.lengths.mean == pytest.approx(sum(map(len, values)) / len(values))
        if column.distinct is not None:
            different = {str(v + 0.0) if isinstance(v, float) else v for v in values}
            assert column.distinct.at_least <= len(different) <= column.distinct.at_most


def _ends(column: ColumnStatistics) -> tuple[float | None, float | None]:
    def plain(value: Any) -> float | None:
        return number(value) if isinstance(value, str) else value

    return plain(column.least), plain(column.greatest)


def test_estimates_of_many_values_are_within_their_bounds() -> None:
    chance = np.random.default_rng(3)
    table = pa.table(
        {
            "x": chance.normal(size=100_000),
            "id": np.arange(100_000),
            "name": [f"N{i:06}" for i in range(100_000)],
            "origin": np.array(["EWR", "JFK", "LGA"])[chance.integers(0, 3, 100_000)],
        }
    )
    parted = TableSketch(table.schema)
    for batch in table.to_batches(max_chunksize=9_000):
        assert parted.merge(TableSketch.of([batch], table.schema))
    for told in (
        TableSketch.of(table.to_batches(), table.schema).statistics("t", 0),
        parted.statistics("t", 0),
    ):
        for name in ("x", "id"):
            ordered = np.sort(table[name].to_numpy())
            for share, value in zip(QUANTILES, told.column(name).quantiles, strict=True):
                rank = np.searchsorted(ordered, number(value)) / len(ordered)
                assert abs(rank - share) <= 2 * told.rank_error
            found = told.column(name).histogram
            assert found is not None
            counted = np.histogram(ordered, found.edges)[0]
            assert np.abs(counted - found.counts).max() <= 3 * told.rank_error * len(ordered)
        for name in ("x", "id", "name"):
            distinct = told.column(name).distinct
            assert distinct is not None
            assert 0.9 * len(table) < distinct.at_least <= distinct.likely <= distinct.at_most
        origin = told.column("origin")
        exact = {
            v["values"]: v["counts"] for v in table["origin"].combine_chunks().value_counts().to_pylist()
        }
        assert {f.value: f.at_least for f in origin.frequent} == exact
        assert all(f.at_least == f.at_most for f in origin.frequent)
        assert told.column("name").frequent == ()


@pytest.mark.parametrize("count", [0, 1, 100, 5_000, 200_000])
def test_the_sketch_of_distinct_values_is_the_librarys_to_the_last_byte(count: int) -> None:
    keys = np.random.default_rng(count).integers(0, 2**64 - 1, count, dtype=np.uint64)
    ours, theirs = Distinct(), datasketches.cpc_sketch(LG_K)
    for start in range(0, count, 65_536):
        ours.update(keys[start : start + 65_536])
    for key in keys.tolist():
        theirs.update(key)
    assert ours.dump() == bytes(theirs.serialize())


@pytest.mark.property
@given(st.lists(st.text(max_size=40) | st.text("ab", min_size=120, max_size=140)))
def test_texts_have_one_key_each_wherever_they_lie(values: list[str]) -> None:
    array = pa.array(values, pa.string())
    alone = [int(text_keys(pa.array([value], pa.string()))[0]) for value in values]
    assert text_keys(array).tolist() == alone
    assert text_keys(array.cast(pa.large_string())).tolist() == alone
    assert text_keys(pa.concat_arrays([pa.array(["x"]), array]).slice(1)).tolist() == alone
    assert len(set(alone)) == len(set(values))


def test_numbers_have_one_key_whatever_their_width() -> None:
    assert number_keys(np.array([1, -1], np.int8)).tolist() == number_keys(np.array([1, -1])).tolist()
    assert number_keys(np.array([0.0], np.float32)).tolist() == number_keys(np.array([-0.0])).tolist()


# What tables bring


def test_what_is_no_number_is_counted_and_left_out() -> None:
    told = one(pa.float64(), 1.0, math.nan, math.inf, -math.inf, None, 3.0)
    assert (told.nulls, told.nans, told.infinities) == (1, 1, 2)
    assert (told.least, told.greatest, told.mean) == ("-Infinity", "Infinity", 2.0)
    assert one(pa.float64(), math.nan).quantiles == ()
    huge = one(pa.float64(), 1.7e308, 1.7e308, -1.7e308)
    assert huge.histogram is not None
    assert huge.histogram.edges == (-1.7e308, 1.7e308)


def test_nothing_has_no_figures_but_its_columns() -> None:
    for values in ((), (None, None)):
        told = one(pa.string(), *values)
        assert (told.nulls, told.least, told.frequent, told.lengths) == (len(values), None, (), None)
    assert TableSketch(pa.schema([])).statistics("t", 0).columns == ()


def test_nested_columns_tell_of_nulls_and_lengths() -> None:
    lists = one(pa.list_(pa.int64()), [1, 2], [], None)
    assert lists.lengths is not None
    assert (lists.nulls, lists.lengths.most, lists.lengths.mean, lists.distinct) == (1, 2, 1.0, None)
    maps = one(pa.map_(pa.string(), pa.int64()), [("a", 1)], None)
    assert maps.lengths is not None
    assert maps.lengths.most == 1
    assert one(pa.struct([("a", pa.int64())]), {"a": 1}, None).nulls == 1


def test_ends_are_told_in_words_that_sort() -> None:
    assert one(pa.date32(), dt.date(2013, 1, 2), dt.date(1969, 1, 1)).least == "1969-01-01"
    assert one(pa.time64("us"), dt.time(6, 30)).least == "06:30:00.000000"
    assert one(pa.decimal128(8, 2), Decimal("9.25"), Decimal("10.50")).greatest == "10.50"
    assert one(pa.binary(), b"\xff", b"a").greatest == "ff"
    assert one(pa.string(), "🙂" * 300, "é").greatest == "🙂" * 256


def test_a_value_among_many_rare_ones_is_found_with_bounds() -> None:
    values = [f"{i:05}" for i in range(30_000)] + ["unknown"] * 30_000
    np.random.default_rng(5).shuffle(values)
    (most, *_) = one(pa.string(), *values).frequent
    assert most.value == "unknown"
    assert most.at_least <= 30_000 <= most.at_most


def test_a_thousand_columns_are_counted_together() -> None:
    table = pa.table({f"c{i}": [i, None, i + 1] for i in range(1_000)})
    told = TableSketch.of(table.to_batches(), table.schema).statistics("t", 0)
    assert [c.nulls for c in told.columns] == [1] * 1_000
    assert told.column("c999").greatest == 1_000


def test_columns_added_and_widened_later_merge() -> None:
    before = pa.table({"n": pa.array([1, 2], pa.int32())})
    after = pa.table({"n": pa.array([2, 2**40]), "s": ["a", None]})
    sketch = TableSketch.of(before.to_batches(), before.schema)
    assert sketch.merge(TableSketch.of(after.to_batches(), after.schema))
    told = sketch.statistics("t", 1)
    assert (told.rows, told.column("n").type, told.column("n").greatest) == (4, "int64", 2**40)
    assert [f.value for f in told.column("n").frequent] == ["2"]
    assert told.column("s").nulls == 3


def test_columns_of_another_kind_do_not_merge() -> None:
    numbers, texts = pa.table({"x": [1]}), pa.table({"x": ["1"]})
    sketch = TableSketch.of(numbers.to_batches(), numbers.schema)
    assert not sketch.merge(TableSketch.of(texts.to_batches(), texts.schema))
    assert sketch.statistics("t", 0).rows == 1


def test_kept_bytes_that_are_damaged_are_not_used() -> None:
    with pytest.raises(Corrupted, match="kept statistics"):
        TableSketch.load(b"what")


# Kept in the catalog


@pytest.fixture
def tables() -> MemoryTables:
    return MemoryTables()


@pytest.fixture
def served(catalog: Catalog, tables: MemoryTables, clock: MovableClock) -> tuple[Storage, Datasets]:
    storage = Storage(catalog, MemoryBlobs(), tables, clock)
    return storage, datasets_over(catalog, storage, MemoryBlobs(), clock)


def test_a_version_is_counted_once_and_named(
    served: tuple[Storage, Datasets], tables: MemoryTables, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, datasets = served
    storage.append("t", rows(1, 2))
    storage.append("t", rows(3))
    told = datasets.statistics("t", version=0)
    assert (told.table, told.version, told.rows, told.column("n").greatest) == ("t", 0, 2, 2)
    monkeypatch.setattr(tables, "scan", None)
    assert datasets.statistics("t", version=0) == told
    with pytest.raises(NotFound, match="nosuch"):
        datasets.statistics("nosuch")


def test_an_append_is_merged_with_the_version_before_without_reading_it(
    catalog: Catalog, tables: MemoryTables, clock: MovableClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = StatisticsKeeper(catalog, lambda n, v: tables.scan(n, version=v), clock)
    wholes: list[TableStatistics] = []
    for version in range(KEPT_SKETCHES + 2):
        data = rows(version, version + 10)
        keep = keeper.appended if version else keeper.replaced
        keep("t", tables.append("t", data).version, TableSketch.of(data.to_batches(), data.schema))
        scan = tables.scan("t", version=version)
        wholes.append(TableSketch.of(scan, scan.schema).statistics("t", version))
    monkeypatch.setattr(tables, "scan", None)
    assert [keeper.of("t", v).digest for v in range(len(wholes))] == [whole.digest for whole in wholes]
    records = StatisticsRecords(catalog)
    kept = [v for v in range(len(wholes)) if records.sketches("t", v) is not None]
    assert kept == list(range(len(wholes)))[-KEPT_SKETCHES:]
    keeper.forget("t")
    assert records.summary("t", 0) is None


def test_an_append_whose_base_was_not_counted_is_counted_when_asked(
    catalog: Catalog, tables: MemoryTables, clock: MovableClock
) -> None:
    keeper = StatisticsKeeper(catalog, lambda n, v: tables.scan(n, version=v), clock)
    tables.append("t", rows(1))
    data = rows(2)
    keeper.appended("t", tables.append("t", data).version, TableSketch.of(data.to_batches(), data.schema))
    assert keeper.of("t", 1).rows == 2


# Shown


def test_a_page_shows_names_and_values_as_text_only() -> None:
    name = '<b>"x"</b>'
    table = pa.table({name: ["<script>"] * 3, "n": [1, 2, 3]})
    page = html(TableSketch.of(table.to_batches(), table.schema).statistics("t", 0))
    assert "<script>" not in page
    assert "<b>" not in page
    assert page.count("<svg") == 1


def test_the_shape_of_a_column_is_one_line() -> None:
    assert shape(one(pa.int64(), 1, 2, 2, 3, 4, 4, 4, 5), 8) == "▃▆▃█▃"
    assert shape(one(pa.string(), "a", "a", "b"), 3) == "a 67%"
    assert shape(one(pa.bool_(), True, False, None, True), 4) == "true 67%"
    assert shape(one(pa.float64()), 0) == ""
