"""Upsert, delete, new columns, restoring, compacting, and what differs between versions."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal

import pyarrow as pa

from fourfold.core.errors import NotFound, Refused
from fourfold.core.ports.tables import Ability, Evolution, TableStore
from fourfold.testing.raising import raising
from fourfold.testing.table_kit.given import DAY_1, DAY_2, can, held, numbers, rows, stream, tuples, words


class Changing:
    """Rows and columns change, and older versions do not."""

    # Upsert

    def test_an_upsert_replaces_what_has_its_key_and_adds_the_rest(self, store: TableStore) -> None:
        if not can(store, Ability.upsert):
            return
        store.append("t", words((1, "a"), (2, "b")))
        store.append("t", words((3, "c")))
        commit = store.upsert("t", words((2, "B"), (3, "C"), (4, "D")), key=("id",))
        assert (commit.operation, commit.rows, commit.rows_added, commit.rows_removed) == ("upsert", 4, 3, 2)
        assert held(store) == [(1, "a"), (2, "B"), (3, "C"), (4, "D")]
        assert held(store, version=1) == [(1, "a"), (2, "b"), (3, "c")]

    def test_the_first_upsert_creates_the_table(self, store: TableStore) -> None:
        if not can(store, Ability.upsert):
            return
        assert store.upsert("t", words((1, "a")), key=("id",)).operation == "create"
        assert store.upsert("t", stream(words((1, "A")), words((2, "b"))), key=("id",)).version == 1
        assert held(store) == [(1, "A"), (2, "b")]
        assert store.upsert("t", words(), key=("id",)).version == 2
        assert held(store) == [(1, "A"), (2, "b")]

    def test_a_key_of_several_columns_tells_rows_apart_by_all_of_them(self, store: TableStore) -> None:
        if not can(store, Ability.upsert):
            return
        at = [datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 1, 2, tzinfo=UTC)]
        schema = pa.schema([
            ("at", pa.timestamp("us", "UTC")), ("price", pa.decimal128(5, 2)), ("raw", pa.binary()),
            ("yes", pa.bool_()), ("n", pa.int32()),
        ])  # fmt: skip

        def row(day: int, price: str, n: int) -> dict[str, object]:
            return {"at": at[day], "price": Decimal(price), "raw": b"\x00'\"", "yes": True, "n": n}

        def data(*rows: dict[str, object]) -> pa.Table:
            return pa.Table.from_pylist(rows, schema=schema)

        store.append("t", data(row(0, "1.50", 1), row(1, "1.50", 2)))
        key = ("at", "price", "raw", "yes")
        assert store.upsert("t", data(row(1, "1.50", 3), row(0, "2.50", 4)), key=key).rows_removed == 1
        assert numbers(store) == [1, 3, 4]

    def test_rows_that_have_the_key_several_times_become_one(self, store: TableStore) -> None:
        if not can(store, Ability.upsert):
            return
        store.append("t", words((1, "a"), (1, "b"), (None, "n"), (2, "c")))
        commit = store.upsert("t", words((1, "x")), key=("id",))
        assert (commit.rows, commit.rows_added, commit.rows_removed) == (3, 1, 2)
        assert held(store) == [(1, "x"), (2, "c"), (None, "n")]

    def test_an_upsert_may_move_a_row_to_another_partition(self, store: TableStore) -> None:
        if not can(store, Ability.upsert):
            return
        store.append("t", pa.concat_tables([rows(1, 2), rows(3, day=DAY_2)]), partition_by=("day",))
        store.upsert("t", rows(1, 4, day=DAY_2), key=("n",))
        assert held(store) == [(1, DAY_2), (2, DAY_1), (3, DAY_2), (4, DAY_2)]
        assert numbers(store, ("day", "==", "2013-01-01")) == [2]
        assert store.snapshot("t").partition_by == ("day",)

    def test_a_key_that_tells_no_rows_apart_is_refused(self, store: TableStore) -> None:
        if not can(store, Ability.upsert):
            return
        store.append("t", words((1, "a")))
        store.append("u", pa.table({"x": [1.0], "many": [[1]], "n": [1]}))
        for data, key, naming in (
            (words((1, "a"), (1, "b")), ("id",), "id = 1"),
            (words((None, "a")), ("id",), "null"),
            (words((1, "a")), (), "at least one column"),
            (words((1, "a")), ("id", "id"), "twice"),
            (words((1, "a")), ("idd",), "did you mean 'id'?"),
            (stream(words((5, "a")), words((5, "b"))), ("id",), "2 rows"),
        ):
            with raising(Refused, naming=naming):
                store.upsert("t", data, key=key)
        for column in ("x", "many"):
            with raising(Refused, naming="cannot be part of a key"):
                store.upsert("u", pa.table({"x": [1.0], "many": [[1]], "n": [1]}), key=(column,))
        with raising(Refused, naming="missing: word"):
            store.upsert("t", pa.table({"id": [1]}), key=("id",))
        with raising(Refused, naming="id = 7"):
            store.upsert("new", words((7, "a"), (7, "b")), key=("id",))
        assert store.names() == ("t", "u")
        assert [store.snapshot(name).version for name in ("t", "u")] == [0, 0]

    # Delete

    def test_a_delete_removes_the_rows_for_which_all_conditions_hold(self, store: TableStore) -> None:
        if not can(store, Ability.delete):
            return
        store.append("t", rows(1, 2, 3))
        store.append("t", rows(4, 5, day=DAY_2))
        commit = store.delete("t", where=(("n", ">", 1), ("day", "==", "2013-01-01")))
        assert (commit.operation, commit.rows, commit.rows_added, commit.rows_removed) == ("delete", 3, 0, 2)
        assert numbers(store) == [1, 4, 5]
        assert numbers(store, version=1) == [1, 2, 3, 4, 5]
        assert store.delete("t", where=(("n", ">", 100),)).version == 3
        assert store.delete("t", where=()).rows == 0
        assert numbers(store) == []
        assert store.snapshot("t").schema == rows().schema

    def test_rows_that_a_comparison_cannot_judge_stay(self, store: TableStore) -> None:
        if not can(store, Ability.delete):
            return
        nan = float("nan")
        store.append("t", pa.table({"n": [1, 2, 3, 4], "x": pa.array([1.0, None, nan, 5.0])}))
        store.delete("t", where=(("x", "<", 3.0),))
        assert numbers(store) == [2, 3, 4]
        store.delete("t", where=(("x", "not in", (5.0,)),))
        assert numbers(store) == [2, 4]
        store.delete("t", where=(("x", "==", None),))
        assert numbers(store) == [4]

    def test_a_delete_that_makes_no_sense_is_refused(self, store: TableStore) -> None:
        if not can(store, Ability.delete):
            return
        store.append("t", rows(1))
        with raising(Refused, naming="no column 'm'"):
            store.delete("t", where=(("m", "==", 1),))
        with raising(Refused, naming="int64"):
            store.delete("t", where=(("n", "==", "one"),))
        with raising(NotFound, naming="'u' does not exist"):
            store.delete("u", where=())
        assert store.snapshot("t").version == 0

    # New columns, wider columns

    def test_a_new_column_is_null_in_the_rows_that_were_there(self, store: TableStore) -> None:
        if not can(store, Ability.evolve):
            return
        store.append("t", words((1, "a")))
        more = pa.list_(pa.field("element", pa.int32()))
        change = Evolution(add=(pa.field("x", pa.float64()), pa.field("it's new", more)))
        commit = store.evolve("t", change)
        assert (commit.operation, commit.rows, commit.rows_added, commit.rows_removed) == ("evolve", 1, 0, 0)
        assert store.snapshot("t").schema.names == ["id", "word", "x", "it's new"]
        assert held(store) == [(1, "a", None, None)]
        assert held(store, version=0) == [(1, "a")]
        with raising(Refused, naming="missing: x, it's new"):
            store.append("t", words((2, "b")))
        store.append(
            "t", words((2, "b")).append_column("x", [[0.5]]).append_column("it's new", pa.array([[1]], more))
        )
        assert held(store) == [(1, "a", None, None), (2, "b", 0.5, [1])]
        found = store.scan("t", version=2, columns=("id",), where=(("x", "==", None),)).read_all()
        assert found["id"].to_pylist() == [1]

    def test_a_column_gets_wider_and_its_values_stay(self, store: TableStore) -> None:
        if not can(store, Ability.evolve):
            return
        narrow = pa.schema([("n", pa.int8()), ("x", pa.float32()), ("d", pa.decimal128(5, 2))])
        row = {"n": 7, "x": 0.5, "d": Decimal("1.25")}
        store.append("t", pa.Table.from_pylist([row], schema=narrow))
        wide = {"n": pa.int64(), "x": pa.float64(), "d": pa.decimal128(20, 2)}
        store.evolve("t", Evolution(widen=wide))
        kept = pa.schema(list(wide.items()))
        assert store.snapshot("t").schema == kept
        big = {"n": 2**40, "x": 1e300, "d": Decimal("123456789.25")}
        store.append("t", pa.Table.from_pylist([big], schema=kept))
        found = store.scan("t", version=2).read_all()
        assert found.schema == kept
        assert sorted(found.to_pylist(), key=lambda each: each["n"]) == [row, big]
        assert numbers(store, ("n", ">", 5)) == [7, 2**40]
        assert numbers(store, ("d", "<", 2), ("x", "<", 1.0)) == [7]
        assert store.scan("t", version=0).read_all().schema == narrow

    def test_a_change_of_columns_that_loses_data_is_refused(self, store: TableStore) -> None:
        if not can(store, Ability.evolve):
            return
        store.append("t", pa.table({"n": pa.array([1], pa.int64()), "x": [1.0], "word": ["a"]}))
        for change, naming in (
            (Evolution(widen={"n": pa.int32()}), "cannot become int32"),
            (Evolution(widen={"n": pa.float64()}), "cannot become double"),
            (Evolution(widen={"n": pa.int64()}), "cannot become int64"),
            (Evolution(widen={"word": pa.int64()}), "cannot become int64"),
            (Evolution(widen={"m": pa.int64()}), "no column 'm'"),
            (Evolution(add=(pa.field("n", pa.int64()),)), "already"),
            (Evolution(add=(pa.field("N", pa.int64()),)), "same name"),
            (Evolution(add=(pa.field("m", pa.int64(), nullable=False),)), "nullable"),
            (Evolution(add=(pa.field("m", pa.null()),)), "cannot keep"),
        ):
            with raising(Refused, naming=naming):
                store.evolve("t", change)
        with raising(NotFound):
            store.evolve("u", Evolution(add=(pa.field("m", pa.int64()),)))
        assert store.snapshot("t").version == 0
        assert store.evolve("t", Evolution()).version == 1
        assert store.snapshot("t", version=1).schema == store.snapshot("t", version=0).schema

    # Restore

    def test_a_restored_version_is_there_again_with_its_columns(self, store: TableStore) -> None:
        if not can(store, Ability.restore):
            return
        store.append("t", rows(1))
        store.append("t", rows(2))
        store.overwrite("t", words((1, "a")))
        commit = store.restore("t", version=1)
        assert (commit.version, commit.operation, commit.rows) == (3, "restore", 2)
        assert store.snapshot("t").schema == rows().schema
        assert numbers(store) == [1, 2]
        store.append("t", rows(3))
        assert numbers(store) == [1, 2, 3]
        assert held(store, version=2) == [(1, "a")]
        assert store.restore("t", version=4).rows == 3
        for version in (-1, 6):
            with raising(NotFound, naming=f"no version {version}"):
                store.restore("t", version=version)

    # Compaction

    def test_a_compaction_makes_fewer_files_and_changes_no_row(self, store: TableStore) -> None:
        if not can(store, Ability.compact):
            return
        for number in range(6):
            store.append("t", rows(number, number + 10))
        before = store.snapshot("t")
        commit = store.compact("t")
        assert commit is not None
        assert (commit.operation, commit.rows, commit.rows_added, commit.rows_removed) == (
            "compact",
            12,
            0,
            0,
        )
        assert store.snapshot("t").file_count < before.file_count
        assert numbers(store) == numbers(store, version=5)
        assert store.compact("t") is None
        assert store.snapshot("t").version == commit.version
        store.append("t", rows(99))
        assert numbers(store, ("n", ">=", 14)) == [14, 15, 99]

    def test_a_compaction_keeps_partitions_and_leaves_large_files_alone(self, store: TableStore) -> None:
        if not can(store, Ability.compact):
            return
        for number in range(3):
            both = pa.concat_tables([rows(number), rows(number, day=DAY_2)])
            store.append("t", both, partition_by=("day",))
        assert store.compact("t", target_bytes=1) is None
        assert store.compact("t") is not None
        assert numbers(store, ("day", "==", "2013-01-02")) == [0, 1, 2]
        assert store.snapshot("t").partition_by == ("day",)

    def test_rows_are_laid_along_columns(self, store: TableStore) -> None:
        if not can(store, Ability.compact):
            return
        for number in range(4):
            store.append("t", rows(number, 9 - number, day=DAY_2 if number % 2 else DAY_1))
        for columns in (("n",), ("n", "day")):
            assert store.compact("t", cluster_by=columns) is not None
            assert numbers(store) == [0, 1, 2, 3, 6, 7, 8, 9]
            assert numbers(store, ("n", "<", 3)) == [0, 1, 2]
        with raising(Refused, naming="no column 'm'"):
            store.compact("t", cluster_by=("m",))

    def test_a_table_without_rows_has_nothing_to_compact(self, store: TableStore) -> None:
        if not can(store, Ability.compact):
            return
        store.append("t", rows())
        assert store.compact("t") is None
        assert store.compact("t", cluster_by=("n",)) is None
        with raising(NotFound):
            store.compact("u")

    # What differs between versions

    def test_a_difference_turns_one_version_into_the_other(self, store: TableStore) -> None:
        store.append("t", words((1, "a"), (2, "b")))
        store.append("t", words((3, "c")))
        store.append("t", words())
        if can(store, Ability.upsert):
            store.upsert("t", words((2, "B"), (4, "d")), key=("id",))
        if can(store, Ability.delete):
            store.delete("t", where=(("id", "==", 1),))
        if can(store, Ability.compact):
            store.compact("t")
        store.overwrite("t", words((9, "z")))
        if can(store, Ability.restore):
            store.restore("t", version=1)
        versions = range(store.snapshot("t").version + 1)
        for before in versions:
            for after in versions:
                found = store.difference("t", before=before, after=after)
                turned = Counter(held(store, version=before))
                turned.subtract(tuples(found.removed))
                turned.update(tuples(found.added))
                assert +turned == Counter(held(store, version=after)), (before, after)
                assert min(turned.values(), default=0) >= 0

    def test_a_difference_does_not_read_what_both_versions_have(self, store: TableStore) -> None:
        store.append("t", rows(*range(100)))
        store.append("t", rows(500))
        found = store.difference("t", before=0, after=1)
        assert (found.removed.read_all().num_rows, found.added.read_all().num_rows) == (0, 1)

    def test_a_difference_has_the_columns_of_both_in_the_wider_type(self, store: TableStore) -> None:
        store.append("t", pa.table({"n": pa.array([1], pa.int32()), "old": [1], "other": ["x"]}))
        store.overwrite("t", pa.table({"new": [2], "n": pa.array([2], pa.int64()), "other": [0.5]}))
        for before, after, removed, added in ((0, 1, 1, 2), (1, 0, 2, 1)):
            found = store.difference("t", before=before, after=after)
            assert found.removed.schema == found.added.schema == pa.schema([("n", pa.int64())])
            assert found.removed.read_all().to_pylist() == [{"n": removed}]
            assert found.added.read_all().to_pylist() == [{"n": added}]
        store.overwrite("t", pa.table({"nothing": [2]}))
        with raising(Refused, naming="no column in common"):
            store.difference("t", before=1, after=2)
        with raising(NotFound, naming="no version 7"):
            store.difference("t", before=0, after=7)
