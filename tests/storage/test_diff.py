"""What differs between two versions: counts of all, some rows of each, all as a stream."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.storage.conftest import Attempt, rows

from fourfold.core import context
from fourfold.core.context import Ref
from fourfold.core.errors import Corrupted, NotFound, Refused, TooMuch
from fourfold.core.ports.tables import Difference
from fourfold.foundation.storage.changes import compared
from fourfold.foundation.storage.service import Storage

pytestmark = pytest.mark.slow

NAN = float("nan")


@pytest.fixture(scope="module", params=["whole rows", "groups of columns"], autouse=True)
def _both_ways(request: pytest.FixtureRequest) -> Iterator[None]:
    """Rows are compared whole, and as those with very many columns are; what comes out is the same."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "groups of columns":
            patch.setattr("fourfold.foundation.storage.changes.WIDE", 0)
            patch.setattr("fourfold.foundation.storage.spooled.GROUP", 1)
            patch.setattr("fourfold.foundation.storage.spooled.MOST_VALUES", 8)
        yield


def planes(*pairs: tuple[int | None, float | None]) -> pa.Table:
    return pa.table({
        "id": pa.array([number for number, _ in pairs], pa.int64()),
        "x": pa.array([value for _, value in pairs], pa.float64()),
    })  # fmt: skip


@pytest.fixture
def two(records: Storage) -> Storage:
    """Two versions: 1 stayed, 2 changed, 3 went, 4 came; one row without a key changed too."""
    records.append("t", planes((1, NAN), (2, 1.0), (3, 2.0), (None, 1.0)))
    records.overwrite("t", planes((4, 4.0), (2, 2.0), (1, NAN), (None, 9.0)))
    return records


def test_with_a_key_a_changed_row_is_told_before_and_after(two: Storage) -> None:
    found = two.diff("t", before=0, key=("id",))
    assert (found.before, found.after, found.key) == (0, 1, ("id",))
    assert (found.added, found.removed, found.changed) == (2, 2, 1)
    assert found.changed_rows == (({"id": 2, "x": 1.0}, {"id": 2, "x": 2.0}),)
    assert found.added_rows == ({"id": 4, "x": 4.0}, {"id": None, "x": 9.0})
    assert found.removed_rows == ({"id": 3, "x": 2.0}, {"id": None, "x": 1.0})


def test_without_a_key_rows_are_added_and_removed_as_often_as_they_are_there(records: Storage) -> None:
    records.append("t", planes((1, 1.0), (1, 1.0), (1, 1.0), (2, None)))
    records.overwrite("t", planes((1, 1.0), (3, NAN), (3, NAN), (2, None)))
    found = records.diff("t", before=0)
    assert (found.added, found.removed, found.changed) == (2, 2, 0)
    assert found.removed_rows == ({"id": 1, "x": 1.0},) * 2
    assert found.added_rows == ({"id": 3, "x": "NaN"},) * 2
    assert records.diff("t", before=1, after=0).added_rows == found.removed_rows
    assert records.diff("t", before=1, after=1).added == 0


def test_counts_are_of_all_rows_and_few_are_shown(records: Storage) -> None:
    records.append("t", rows(*range(50)))
    records.append("t", rows(*range(50, 90)))
    found = records.diff("t", before=0, limit=3)
    assert (found.added, [row["n"] for row in found.added_rows]) == (40, [50, 51, 52])
    assert records.diff("t", before=0, limit=0).added_rows == ()
    with pytest.raises(Refused, match="limit must be from 0 to 1000"):
        records.diff("t", before=0, limit=1001)


def test_all_changes_come_as_a_stream_with_what_happened_first(two: Storage) -> None:
    found = two.changes("t", before=0, after=1, key=("id",)).read_all()
    assert found.column_names == ["change", "id", "x"]
    told = [tuple(row.values()) for row in found.to_pylist()]
    assert sorted(told, key=repr) == [
        ("added", 4, 4.0), ("added", None, 9.0), ("after", 2, 2.0), ("before", 2, 1.0),
        ("removed", 3, 2.0), ("removed", None, 1.0),
    ]  # fmt: skip
    at = told.index(("before", 2, 1.0))
    assert told[at + 1] == ("after", 2, 2.0)
    two.overwrite("t", pa.table({"Change": [1]}))
    two.append("t", pa.table({"Change": [2]}))
    assert two.changes("t", before=2).read_all().to_pylist() == [{"change_": "added", "Change": 2}]


def test_columns_that_came_went_or_were_renamed_are_told_and_not_compared(records: Storage) -> None:
    records.append("t", pa.table({"id": [1, 2], "old": ["a", "b"], "kind": [1, 2]}))
    records.overwrite("t", pa.table({"id": [1, 3], "new": [True, False], "kind": ["x", "y"]}))
    found = records.diff("t", before=0, key=("id",))
    assert [column.name for column in found.columns_added] == ["new", "kind"]
    assert [column.name for column in found.columns_removed] == ["old", "kind"]
    assert (found.added_rows, found.removed_rows, found.changed) == (({"id": 3},), ({"id": 2},), 0)
    records.evolve("t", rename={"new": "is_new"}, widen={})
    records.delete("t", where=(("is_new", "==", True),))
    assert records.diff("t", before=1).removed_rows == ({"id": 1, "is_new": True, "kind": "x"},)
    records.overwrite("t", pa.table({"other": [1]}))
    with pytest.raises(Refused, match="no column in common"):
        records.diff("t", before=0)


def test_a_key_that_matches_several_rows_is_refused_with_it(records: Storage) -> None:
    records.append("t", planes((1, 1.0), (1, 2.0)))
    records.overwrite("t", planes((1, 3.0)))
    with pytest.raises(Refused, match="2 rows that differ have the key id = 1"):
        records.diff("t", before=0, key=("id",))
    with pytest.raises(Refused, match="no column 'di'"):
        records.changes("t", before=0, key=("di",))
    with pytest.raises(NotFound, match="no version 7"):
        records.diff("t", before=7)


def test_values_of_every_type_are_compared_and_come_back(records: Storage) -> None:
    schema = pa.schema([
        ("id", pa.int16()), ("at", pa.timestamp("us", "UTC")), ("naive", pa.timestamp("us")),
        ("day", pa.date32()), ("price", pa.decimal128(38, 3)), ("raw", pa.binary()),
        ('say "it"', pa.list_(pa.struct([("a", pa.float32())]))), ("pairs", pa.map_(pa.string(), pa.int8())),
    ])  # fmt: skip
    row: dict[str, Any] = {
        "id": 1, "at": 5, "naive": 6, "day": 7, "price": Decimal("1.250"), "raw": b"\x00",
        'say "it"': [{"a": 0.5}, None], "pairs": [("x", 1)],
    }  # fmt: skip
    records.append("t", pa.Table.from_pylist([row, {**row, "id": 2}], schema=schema))
    records.upsert("t", pa.Table.from_pylist([{**row, "id": 2, "pairs": []}], schema=schema), key=("id",))
    found = records.changes("t", before=0, key=("id",)).read_all()
    assert found.schema == pa.schema([("change", pa.string()), *records.scan("t").schema])
    assert found["pairs"].to_pylist() == [[("x", 1)], []]
    (before, after) = records.diff("t", before=0, key=("id",)).changed_rows[0]
    assert before == {
        "id": 2, "at": "1970-01-01T00:00:00.000005+00:00", "naive": "1970-01-01T00:00:00.000006",
        "day": "1970-01-08", "price": "1.250", "raw": "00", 'say "it"': [{"a": 0.5}, None],
        "pairs": [["x", 1]],
    }  # fmt: skip
    assert after == {**before, "pairs": []}


def test_comparing_is_reading_both_versions(two: Storage) -> None:
    attempt = Attempt()
    with context.within(attempt):
        two.diff("t", before=0)
    assert attempt.reads == [Ref("table", "t", "0"), Ref("table", "t", "1")]


def test_an_error_of_the_store_comes_out_as_itself_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def broken() -> Any:
        yield from rows(1).to_batches()
        raise Corrupted("the file of table 't' cannot be read")

    reader = pa.RecordBatchReader.from_batches(rows().schema, broken())
    with (
        pytest.raises(Corrupted, match="table 't'"),
        compared("t", Difference(rows(1).to_reader(), reader), ()),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.property
@given(*[st.lists(st.tuples(st.integers(0, 3), st.sampled_from([None, -0.0, 0.5, NAN])), max_size=6)] * 2)
def test_a_difference_is_that_of_multisets(before: list[Any], after: list[Any]) -> None:
    sides = Difference(planes(*before).to_reader(), planes(*after).to_reader())
    with compared("t", sides, ()) as found:
        told = Counter[tuple[str, str]]()
        for batch in found.stream():
            told.update((row.pop("change"), repr(tuple(row.values()))) for row in batch.to_pylist())
        counts = found.counts()
    old, new = (Counter(map(repr, side)) for side in (before, after))
    assert {row: n for (word, row), n in told.items() if word == "added"} == dict(new - old)
    assert {row: n for (word, row), n in told.items() if word == "removed"} == dict(old - new)
    assert (counts["added"], counts["removed"]) == ((new - old).total(), (old - new).total())


def test_a_stream_that_nobody_reads_to_its_end_leaves_nothing(
    two: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    reader = two.changes("t", before=0)
    reader.read_next_batch()
    assert len(list(folder.iterdir())) == 1
    del reader
    assert list(folder.iterdir()) == []


def test_a_comparison_that_does_not_fit_into_its_memory_says_so(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for start in (0, 100):
        rows = {f"c{n}": [f"text {n} {start + row}" for row in range(100)] for n in range(300)}
        storage.append("wide", pa.table(rows))
    monkeypatch.setattr("fourfold.foundation.storage.changes.WIDE", 300)
    monkeypatch.setattr("fourfold.foundation.storage.changes.MEMORY", "4MB")
    with pytest.raises(TooMuch, match="does not fit into the 4MB that a comparison takes"):
        storage.diff("wide", before=0)
