"""Appending, overwriting and reading back: schemas, conditions, partitions, history."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa

from fourfold.core.errors import NotFound, Refused
from fourfold.core.ports.tables import Ability, Mark, TableStore
from fourfold.core.storage import Condition
from fourfold.core.times import Instant
from fourfold.testing.raising import raising
from fourfold.testing.table_kit.given import DAY_1, DAY_2, can, numbers, rows, stream


class Writing:
    """Rows go in and come back as they were."""

    # Writing and reading back

    def test_the_first_write_creates_and_later_ones_add(self, store: TableStore) -> None:
        first, second = store.append("t", rows(1, 2)), store.append("t", rows(3))
        assert (first.version, first.operation, first.rows, first.rows_added) == (0, "create", 2, 2)
        assert (second.version, second.operation, second.rows, second.rows_added) == (1, "append", 3, 1)
        assert numbers(store) == [1, 2, 3]

    def test_every_version_stays_readable(self, store: TableStore) -> None:
        store.append("t", rows(1))
        store.append("t", rows(2))
        store.overwrite("t", rows(9))
        assert [numbers(store, version=version) for version in range(3)] == [[1], [1, 2], [9]]
        assert [store.snapshot("t", version=version).rows for version in range(3)] == [1, 2, 1]

    def test_a_table_may_hold_no_rows(self, store: TableStore) -> None:
        assert store.append("t", rows()).rows == 0
        assert numbers(store) == []
        assert store.snapshot("t").schema == rows().schema
        assert store.append("t", rows(1)).rows == 1
        assert store.append("t", rows()).version == 2
        assert store.overwrite("t", rows()).rows == 0
        assert numbers(store) == []

    def test_types_come_back_as_promised(self, store: TableStore) -> None:
        zoned = datetime(2013, 1, 1, 6, 30, 0, 123456, tzinfo=UTC)
        given = {
            "text": (pa.large_string(), "ü", pa.string()),
            "word": (pa.dictionary(pa.int32(), pa.string()), "EWR", pa.string()),
            "zoned": (pa.timestamp("ns", "America/New_York"), zoned, pa.timestamp("us", "UTC")),
            "naive": (pa.timestamp("s"), datetime(2013, 1, 1), pa.timestamp("us")),  # noqa: DTZ001
            "day": (pa.date32(), DAY_1, pa.date32()),
            "small": (pa.int8(), -5, pa.int8()),
            "unsigned": (pa.uint32(), 2**32 - 1, pa.int64()),
            "half": (pa.float32(), 0.5, pa.float32()),
            "truth": (pa.bool_(), True, pa.bool_()),
            "bytes": (pa.binary(), b"\x00\xff", pa.binary()),
            "list": (pa.list_(pa.int64()), [1, None, 3], pa.list_(pa.field("element", pa.int64()))),
            "struct": (pa.struct([("a", pa.string())]), {"a": "x"}, pa.struct([("a", pa.string())])),
        }
        data = pa.table({name: pa.array([value, None], kind) for name, (kind, value, _) in given.items()})
        store.append("t", data)
        found = store.scan("t", version=0).read_all().sort_by("small")
        for name, (_, value, kept) in given.items():
            assert found.schema.field(name).type == kept, name
            assert found[name].to_pylist() == [value, None], name

    def test_null_and_nan_stay_apart(self, store: TableStore) -> None:
        store.append("t", pa.table({"x": pa.array([1.0, math.nan, None, -math.inf, 5.0])}))

        def found(*where: Condition) -> list[Any]:
            values = store.scan("t", version=0, where=where).read_all()["x"].to_pylist()
            return sorted(str(value) for value in values)

        assert found() == ["-inf", "1.0", "5.0", "None", "nan"]
        assert found(("x", "==", None)) == ["None"]
        assert found(("x", "!=", None)) == ["-inf", "1.0", "5.0", "nan"]
        assert found(("x", ">", 0.0)) == ["1.0", "5.0"]
        assert found(("x", "!=", 5.0)) == ["-inf", "1.0", "nan"]

    def test_a_file_of_one_value_and_nan_is_not_skipped(self, store: TableStore) -> None:
        store.append("t", pa.table({"x": [5.0, math.nan]}))
        found = store.scan("t", version=0, where=(("x", "!=", 5.0),)).read_all()["x"].to_pylist()
        assert len(found) == 1
        assert math.isnan(found[0])

    def test_a_stream_is_written_as_one_version(self, store: TableStore) -> None:
        first = store.append("t", stream(rows(1, 2), rows(3), rows()))
        assert (first.version, first.rows, first.rows_added) == (0, 3, 3)
        store.append("t", stream(rows(4), rows(5)))
        assert numbers(store) == [1, 2, 3, 4, 5]
        store.overwrite("t", stream(rows(6), rows(7)))
        assert numbers(store) == [6, 7]
        empty = pa.RecordBatchReader.from_batches(rows().schema, iter([]))
        assert store.append("t", empty).rows == 2
        assert store.append("u", pa.RecordBatchReader.from_batches(rows().schema, iter([]))).rows == 0

    def test_a_stream_that_breaks_leaves_nothing(self, store: TableStore) -> None:
        def breaking() -> Iterator[pa.RecordBatch]:
            yield from rows(1, 2).to_batches()
            raise Refused("line 3 is no row")

        for write in (store.append, store.overwrite):
            with raising(Refused, naming="line 3"):
                write("t", pa.RecordBatchReader.from_batches(rows().schema, breaking()))
        assert store.names() == ()
        store.append("t", rows(1))
        with raising(Refused, naming="line 3"):
            store.append("t", pa.RecordBatchReader.from_batches(rows().schema, breaking()))
        assert store.snapshot("t").version == 0
        assert numbers(store) == [1]

    def test_a_stream_is_cut_into_partitions(self, store: TableStore) -> None:
        store.append("t", stream(rows(1), rows(2, day=DAY_2), rows(3)), partition_by=("day",))
        assert numbers(store, ("day", "==", "2013-01-01")) == [1, 3]
        if can(store, Ability.overwrite_part):
            store.overwrite("t", stream(rows(4), rows(5)), where={"day": "2013-01-01"})
            assert numbers(store) == [2, 4, 5]
            with raising(Refused, naming="do not lie in"):
                store.overwrite("t", stream(rows(4), rows(5, day=DAY_2)), where={"day": "2013-01-01"})
            assert numbers(store) == [2, 4, 5]

    def test_decimals_and_nested_values_come_back_whole(self, store: TableStore) -> None:
        inner = pa.struct([("a", pa.list_(pa.struct([("b", pa.decimal128(6, 2))]))), ("c", pa.date32())])
        data = pa.table({
            "price": pa.array([Decimal("-12345678901234567890.123"), None], pa.decimal128(38, 3)),
            "tree": pa.array([{"a": [{"b": Decimal("1.50")}, None], "c": None}, None], inner),
            "pairs": pa.array([[("x", 1), ("y", None)], []], pa.map_(pa.string(), pa.int32())),
            "lists": pa.array([[[1], [], None], None], pa.list_(pa.list_(pa.int16()))),
        })  # fmt: skip
        store.append("t", data)
        found = store.scan("t", version=0).read_all()
        assert found.to_pylist() == data.to_pylist()
        assert found.schema == store.snapshot("t").schema

    def test_a_column_may_have_any_name_that_can_be_shown(self, store: TableStore) -> None:
        names = [
            'say "x"',
            "it's",
            "a/b",
            "50%",
            "🛫 delay",
            "a b",
            "a.b",
            "`x`",
            "#",
            "ß=1",
            "[0]",
            "..",
            "{n}",
        ]
        data = pa.table({name: [index, index + 100] for index, name in enumerate(names)})
        store.append("t", data)
        for index, name in enumerate(names):
            found = store.scan("t", version=0, columns=(name,), where=((name, "==", index),)).read_all()
            assert found.to_pylist() == [{name: index}], name
        store.append("cut", data, partition_by=(names[0], names[4]))
        found = store.scan("cut", version=0, where=((names[4], "<", 50),)).read_all()
        assert found.select(names).to_pylist() == data.slice(0, 1).to_pylist()
        for wrong in ("", "a\nb", "tab\t"):
            with raising(Refused, naming="cannot name a column"):
                store.append("u", pa.table({wrong: [1]}))

    def test_a_table_may_be_wide(self, store: TableStore) -> None:
        wide = pa.table({f"c{index}": pa.array([index, None], pa.int32()) for index in range(1200)})
        store.append("t", wide)
        store.append("t", wide)
        found = store.scan("t", version=1, columns=("c1199", "c0"), where=(("c600", ">", 1),)).read_all()
        assert found.to_pylist() == [{"c1199": 1199, "c0": 0}] * 2
        assert store.snapshot("t").schema.names == wide.column_names

    def test_a_scan_gives_the_columns_asked_for_in_their_order(self, store: TableStore) -> None:
        store.append("t", rows(1))
        assert store.scan("t", version=0, columns=("day", "n")).read_all().column_names == ["day", "n"]

    # Conditions

    def test_conditions_keep_the_rows_for_which_all_hold(self, store: TableStore) -> None:
        store.append("t", rows(1, 2, 3))
        store.append("t", rows(4, 5, day=DAY_2))
        assert numbers(store, ("n", ">", 1), ("n", "<=", 4)) == [2, 3, 4]
        assert numbers(store, ("n", "in", (1, 5, 9))) == [1, 5]
        assert numbers(store, ("n", "not in", (1, 5))) == [2, 3, 4]
        assert numbers(store, ("n", "in", ())) == []
        assert numbers(store, ("n", "<", 2.5)) == [1, 2]
        assert numbers(store, ("day", "==", "2013-01-02")) == [4, 5]
        assert numbers(store, ("day", "<", "2013-01-02"), ("n", "!=", 2)) == [1, 3]

    def test_times_compare_as_text_and_as_instants(self, store: TableStore) -> None:
        at = pa.array([0, 1_500_000], pa.timestamp("us", "UTC"))
        store.append("t", pa.table({"n": [1, 2], "at": at}))
        assert numbers(store, ("at", ">", "1970-01-01T00:00:01Z")) == [2]
        assert numbers(store, ("at", ">", "1969-12-31T19:00:01-05:00")) == [2]
        assert numbers(store, ("at", "==", 1_500_000)) == [2]

    def test_a_condition_that_makes_no_sense_is_refused(self, store: TableStore) -> None:
        store.append("t", rows(1))
        for wrong, naming in (
            (("m", "==", 1), "no column 'm'"),
            (("n", "~", 1), "no operator"),
            (("n", "==", "one"), "int64"),
            (("n", "==", (1, 2)), "one value"),
            (("n", "in", 1), "list"),
            (("n", "<", None), "null"),
            (("day", "==", "the first"), "date32"),
        ):
            with raising(Refused, naming=naming):
                store.scan("t", version=0, where=(wrong,)).read_all()

    def test_an_unknown_column_is_refused_with_the_nearest(self, store: TableStore) -> None:
        store.append("t", pa.table({"origin": ["EWR"], "delay": [1]}))
        with raising(Refused, naming="did you mean 'origin'?"):
            store.scan("t", version=0, columns=("orgin",))

    # Schemas

    def test_data_of_another_schema_is_refused_naming_the_columns(self, store: TableStore) -> None:
        store.append("t", rows(1))
        wrong = pa.table({"n": ["one"], "dya": [1]})
        for naming in ("missing: day", "not in the table: dya (did you mean 'day'?)", "n is string"):
            with raising(Refused, naming=naming):
                store.append("t", wrong)
        assert store.snapshot("t").version == 0

    def test_numbers_widen_and_are_never_narrowed(self, store: TableStore) -> None:
        store.append("t", pa.table({"n": pa.array([1], pa.int32()), "x": pa.array([1.0], pa.float64())}))
        store.append("t", pa.table({"x": pa.array([2.0], pa.float32()), "n": pa.array([2], pa.int16())}))
        store.append("t", pa.table({"n": pa.array([3], pa.int32()), "x": pa.nulls(1)}))
        assert numbers(store) == [1, 2, 3]
        with raising(Refused, naming="n is int64, the table has int32"):
            store.append("t", pa.table({"n": pa.array([1], pa.int64()), "x": [1.0]}))

    def test_what_a_table_cannot_keep_is_refused(self, store: TableStore) -> None:
        nothing = pa.table({"x": pa.nulls(2)})
        too_fine = pa.table({"x": pa.array([1], pa.timestamp("ns", "UTC"))})
        twins = pa.table([pa.array([1]), pa.array([2])], names=["x", "X"])
        for data, naming in (
            (nothing, "all its values are null"),
            (too_fine, "microsecond"),
            (twins, "same name"),
            (pa.table({"x": pa.array([1], pa.duration("s"))}), "cannot keep"),
            (pa.table({}), "no columns"),
        ):
            with raising(Refused, naming=naming):
                store.append("t", data)
        assert store.names() == ()

    def test_overwriting_all_rows_may_change_the_columns(self, store: TableStore) -> None:
        store.append("t", rows(1))
        store.overwrite("t", pa.table({"n": ["one"]}))
        assert store.scan("t", version=1).read_all().to_pylist() == [{"n": "one"}]
        assert store.scan("t", version=0, columns=("n",)).read_all().to_pylist() == [{"n": 1}]

    # Partitions

    def test_overwriting_a_partition_leaves_the_others(self, store: TableStore) -> None:
        if not can(store, Ability.overwrite_part):
            return
        both = pa.concat_tables([rows(1, 2), rows(3, day=DAY_2)])
        store.append("t", both, partition_by=("day",))
        commit = store.overwrite("t", rows(7), where={"day": "2013-01-01"})
        assert (commit.rows, commit.rows_added, commit.rows_removed) == (2, 1, 2)
        assert numbers(store) == [3, 7]
        assert numbers(store, ("day", "==", "2013-01-01")) == [7]
        store.overwrite("t", rows(), where={"day": "2013-01-02"})
        assert numbers(store) == [7]
        assert store.snapshot("t").partition_by == ("day",)

    def test_partitions_of_several_columns_and_of_null(self, store: TableStore) -> None:
        data = pa.table({
            "n": [1, 2, 3, 4],
            "origin": ["EWR", "EWR", "JFK", None],
            "hour": pa.array([1, 2, 1, 1], pa.int32()),
            "late": [True, False, True, True],
        })  # fmt: skip
        store.append("t", data, partition_by=("origin", "hour", "late"))
        assert numbers(store, ("origin", "==", "EWR"), ("hour", ">=", 2)) == [2]
        assert numbers(store, ("origin", "==", None)) == [4]
        assert numbers(store, ("late", "==", True), ("hour", "==", 1)) == [1, 3, 4]
        if not can(store, Ability.overwrite_part):
            return
        store.overwrite("t", data.slice(0, 0), where={"origin": "EWR"})
        assert numbers(store) == [3, 4]
        store.overwrite("t", data.slice(0, 0), where={"late": True, "hour": 1})
        assert numbers(store) == []

    def test_a_partition_that_makes_no_sense_is_refused(self, store: TableStore) -> None:
        store.append("t", rows(1), partition_by=("day",))
        for where, data, naming in (
            ({"n": 1}, rows(1), "not partitioned by 'n'"),
            ({"day": "2013-01-01"}, rows(1, day=DAY_2), "do not lie in"),
            ({"day": None}, rows(1), "not by null"),
            ({"day": 3.5}, rows(1), "date32"),
        ):
            if can(store, Ability.overwrite_part):
                with raising(Refused, naming=naming):
                    store.overwrite("t", data, where=where)
        with raising(Refused, naming="is partitioned by day, not by n"):
            store.append("t", rows(1), partition_by=("n",))
        with raising(Refused, naming="no column 'dya'"):
            store.append("u", rows(1), partition_by=("dya",))
        with raising(Refused, naming="which is double"):
            store.append("u", pa.table({"x": [1.0], "y": [1]}), partition_by=("x",))
        with raising(Refused, naming="empty text"):
            store.append("u", pa.table({"x": [""], "y": [1]}), partition_by=("x",))
        assert store.names() == ("t",)
        assert store.snapshot("t").version == 0

    # What there is

    def test_history_tells_the_commits_newest_first(self, store: TableStore) -> None:
        store.append("t", rows(1), mark=Mark(at=Instant(1_000_000)))
        store.append("t", rows(2, 3), mark=Mark(at=Instant(2_000_000), by="ada"))
        store.overwrite("t", rows(4), mark=Mark(at=Instant(3_000_000), step="step:r/s@1"))
        told = [
            (c.version, c.at, c.operation, c.rows, c.rows_added, c.rows_removed) for c in store.history("t")
        ]
        assert told == [
            (2, 3_000_000, "overwrite", 1, 1, 3),
            (1, 2_000_000, "append", 3, 2, 0),
            (0, 1_000_000, "create", 1, 1, 0),
        ]
        assert [c.version for c in store.history("t", after=0)] == [2, 1]
        assert [c.version for c in store.history("t", limit=2)] == [2, 1]
        assert [c.by for c in store.history("t")] == ["", "ada", ""]

    def test_what_is_not_there_is_not_found(self, store: TableStore) -> None:
        with raising(NotFound, naming="'t' does not exist"):
            store.snapshot("t")
        with raising(NotFound):
            store.history("t")
        store.append("t", rows(1))
        for version in (-1, 1):
            with raising(NotFound, naming=f"no version {version}"):
                store.scan("t", version=version)

    def test_a_dropped_table_is_gone_and_dropping_again_is_nothing(self, store: TableStore) -> None:
        store.append("t", rows(1))
        store.append("u", rows(1))
        if can(store, Ability.branch):
            store.fork("t", "dev/try-1", version=0)
        assert store.names() == ("t", "u")
        store.drop("t")
        store.drop("t")
        assert store.names() == ("u",)
        with raising(NotFound):
            store.snapshot("t")
        assert store.append("t", rows(2)).version == 0
        assert numbers(store) == [2]
        assert not can(store, Ability.branch) or store.branches("t") == ()
