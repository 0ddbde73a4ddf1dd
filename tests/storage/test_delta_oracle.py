"""What we write, `deltalake` reads; what it writes, we read."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import settings
from hypothesis.stateful import invariant
from tests.storage.test_table_histories import ADDRESSES, OnDisk

from fourfold.adapters.delta import DeltaTables
from fourfold.core.errors import Refused
from fourfold.core.ports.tables import Mark
from fourfold.testing.table_kit.given import held, numbers, rows, tuples


def folder_of(root: Path, name: str) -> str:
    table, _, branch = name.partition("@")
    return str(root / table / "_branches" / branch.replace("/", "~") if branch else root / table)


class ReadByDeltalake(OnDisk):
    """Whatever is done to a table of ours, `deltalake` opens it and finds the same rows."""

    def teardown(self) -> None:
        _, store = self.stores
        for name, version in self._readable(store):
            self.agree(name, version)
        super().teardown()

    @invariant()
    def the_newest_is_the_same(self) -> None:
        _, store = self.stores
        for name in ADDRESSES:
            if count := self._count(store, name):
                self.agree(name, count - 1)

    def agree(self, name: str, version: int) -> None:
        _, store = self.stores
        opened = DeltaTable(folder_of(self.folder, name), version=version)
        snapshot = store.snapshot(name, version=version)
        assert pa.schema(opened.schema().to_arrow()) == snapshot.schema
        assert tuple(opened.metadata().partition_columns) == snapshot.partition_by
        assert opened.count() == snapshot.rows
        assert len(opened.file_uris()) == snapshot.file_count
        if "@" in name:
            return  # it tells a branch's files, `../../part-….parquet`, but reads no path with dots
        theirs = opened.to_pyarrow_table().select(snapshot.schema.names)
        assert repr(tuples(theirs)) == repr(held(store, name=name, version=version))


TestReadByDeltalake = ReadByDeltalake.TestCase
TestReadByDeltalake.settings = settings(
    max_examples=max(2, settings().max_examples // 6), stateful_step_count=15
)
TestReadByDeltalake.pytestmark = [pytest.mark.property, pytest.mark.slow]  # type: ignore[attr-defined]

EVERYTHING = pa.table({
    "n": pa.array([1, 2], pa.int64()), "naive": pa.array([1, 2], pa.timestamp("us")),
    "zoned": pa.array([datetime(2013, 1, 1, tzinfo=UTC), None], pa.timestamp("us", "UTC")),
    "price": pa.array([Decimal("1.20"), Decimal("3.10")], pa.decimal128(10, 2)),
    "raw": [b"\x00\xff", b""], "x": [1.5, float("nan")], "many": [[1], []], "day": [date(2013, 1, 1)] * 2,
    "word": ["ü %/x", None], "yes": [True, False], "small": pa.array([1, None], pa.int8()),
    "deep": [{"a": 1}, {"a": 2}],
})  # fmt: skip


def test_every_type_is_read_by_deltalake_as_it_was_written(tmp_path: Path) -> None:
    store = DeltaTables(tmp_path)
    store.append("t", EVERYTHING, partition_by=("word",))
    opened = DeltaTable(str(tmp_path / "t"))
    assert opened.protocol().reader_features == ["timestampNtz"]
    theirs = opened.to_pyarrow_table().select(EVERYTHING.column_names)
    assert repr(tuples(theirs)) == repr(held(store))
    noted = pa.table(opened.get_add_actions(flatten=True)).sort_by("min.n")
    assert noted["min.price"].to_pylist() == [Decimal("1.20"), Decimal("3.10")]
    assert noted["max.n"].to_pylist() == [1, 2]


def test_a_table_by_another_program_is_read_appended_to_and_counted(tmp_path: Path) -> None:
    path = str(tmp_path / "t")
    write_deltalake(path, EVERYTHING, partition_by=["word"])
    write_deltalake(path, EVERYTHING, mode="append")
    DeltaTable(path).delete("n = 1")
    store = DeltaTables(tmp_path)
    assert [(c.rows, c.rows_added, c.rows_removed) for c in store.history("t")] == [
        (2, 0, 2), (4, 2, 0), (2, 2, 0),
    ]  # fmt: skip
    assert store.append("t", EVERYTHING).rows == 4
    assert store.upsert("t", EVERYTHING.slice(1), key=("n",)).rows == 2
    assert numbers(store) == [1, 2]
    assert numbers(store, ("zoned", ">=", "2013-01-01T00:00:00Z")) == [1]
    theirs = DeltaTable(path).to_pyarrow_table().select(EVERYTHING.column_names)
    assert repr(tuples(theirs)) == repr(held(store))


def test_deltalake_goes_on_where_we_stopped_and_we_where_it_did(tmp_path: Path) -> None:
    path, store = str(tmp_path / "t"), DeltaTables(tmp_path)
    for number in range(3):
        store.append("t", rows(number), mark=Mark(key=f"k{number}"))
        write_deltalake(path, rows(number + 10), mode="append")
    opened = DeltaTable(path)
    opened.optimize.compact()
    opened.create_checkpoint()
    assert store.append("t", rows(99)).version == 7
    again = DeltaTables(tmp_path)
    assert numbers(again) == [0, 1, 2, 10, 11, 12, 99]
    assert again.history("t", limit=2)[1].rows_added == 0
    assert again.append("t", rows(0), mark=Mark(key="k0")).version == 0
    assert opened.transaction_version("k1") == 2


def test_checkpoints_of_ours_are_read_by_deltalake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fourfold.adapters.delta.transaction.CHECKPOINT_EVERY", 5)
    store = DeltaTables(tmp_path)
    store.append("t", EVERYTHING, partition_by=("word",))
    for number in range(6):
        store.append("t", EVERYTHING, mark=Mark(key=f"k{number}", watermark=number, since=number - 1))
    log = tmp_path / "t" / "_delta_log"
    for entry in sorted(log.glob("*.json"))[:5]:
        entry.unlink()  # as a program does that cleans the log
    opened = DeltaTable(str(tmp_path / "t"))
    assert opened.version() == 6
    assert opened.count() == 14
    assert opened.transaction_version("k2") == 3
    assert repr(tuples(opened.to_pyarrow_table().select(EVERYTHING.column_names))) == repr(held(store))
    again = DeltaTables(tmp_path)
    assert (again.snapshot("t").rows, again.snapshot("t").watermark) == (14, 5)
    assert [commit.version for commit in again.history("t")] == [6, 5]
    assert again.append("t", EVERYTHING).version == 7


@pytest.mark.parametrize(
    ("feature", "change"),
    [
        ("checkConstraints", {"metaData": {"configuration": {"delta.constraints.positive": "n > 0"}}}),
        ("columnMapping", {"metaData": {"configuration": {"delta.columnMapping.mode": "name"}}}),
        ("rowTracking", {"protocol": {"minWriterVersion": 7, "writerFeatures": ["rowTracking"]}}),
        ("v2Checkpoint", {"protocol": {"minReaderVersion": 3, "readerFeatures": ["v2Checkpoint"]}}),
        ("reader version 4", {"protocol": {"minReaderVersion": 4, "minWriterVersion": 7}}),
    ],
)  # fmt: skip
def test_a_table_with_rules_that_we_do_not_keep_is_not_written_to(
    tmp_path: Path, feature: str, change: dict[str, dict[str, object]]
) -> None:
    DeltaTables(tmp_path).append("t", rows(1))
    first = tmp_path / "t" / "_delta_log" / f"{0:020d}.json"
    lines = [json.loads(line) for line in first.read_text().splitlines()]
    for line in lines:
        for action, fields in change.items():
            if action in line:
                line[action] |= fields
    first.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(Refused, match=feature):
        DeltaTables(tmp_path).append("t", rows(2))


def test_a_table_that_may_only_grow_only_grows(tmp_path: Path) -> None:
    write_deltalake(str(tmp_path / "t"), rows(1, 2), configuration={"delta.appendOnly": "true"})
    store = DeltaTables(tmp_path)
    assert store.append("t", rows(3)).rows == 3
    with pytest.raises(Refused, match="appendOnly"):
        store.delete("t", where=())
