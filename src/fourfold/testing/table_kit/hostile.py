"""Columns, values and tables that people do bring: odd names, nested and far values, no rows at all."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa

from fourfold.core.errors import Refused
from fourfold.core.ports.tables import Ability, Evolution, TableStore
from fourfold.core.rows import rows_of
from fourfold.testing.table_kit.given import can
from fourfold.testing.table_kit.refusing import refusal

ODD_NAMES = (
    *('say "hi"', "it's", "`t`", "a/b", "a\\b", "x.y", "[e]", "😀", "名前", " lead", "tail ", "a b", "50%"),
    *("$(rm)", "{x}", "a=b", "a&b#c?", "select", "_change", "--", "*", "ß"),
)

KINDS: dict[str, pa.Array] = {
    "struct": pa.array([{"a": 1, "b": {"c": ["x", None]}}, None, {"a": None, "b": None}]),
    "list": pa.array([[1, None], [], None], pa.list_(pa.int64())),
    "lists": pa.array([[[1], []], None, [None]], pa.list_(pa.list_(pa.int64()))),
    "map": pa.array([[("k", 1)], [], None], pa.map_(pa.string(), pa.int64())),
    "decimal": pa.array([Decimal("-1.23"), Decimal("999.99"), None], pa.decimal128(5, 2)),
    "wide decimal": pa.array([Decimal("9" * 38), Decimal("-" + "9" * 38), None], pa.decimal128(38, 0)),
    "zone": pa.array([datetime(2013, 7, 1, 12, tzinfo=UTC), None, None], pa.timestamp("us", "UTC")),
    "no zone": pa.array([datetime(2013, 7, 1, 12), None, None], pa.timestamp("us")),  # noqa: DTZ001
    "bytes": pa.array([b"\xff\x00", b"", None], pa.binary()),
}


def told(store: TableStore, name: str = "t", **how: Any) -> list[dict[str, object]]:
    found = store.scan(name, version=store.snapshot(name).version, **how).read_all()
    return rows_of(found.sort_by("id") if "id" in found.column_names else found)


class Hostile:
    """Nothing that a table takes comes back as something else."""

    def test_a_column_is_called_whatever_people_call_it(self, store: TableStore) -> None:
        for name in ODD_NAMES:
            store.drop("t")
            store.append("t", pa.table({"id": [1, 2], name: [10, 20]}))
            store.append("t", pa.table({name: [30], "id": [3]}))
            assert store.snapshot("t").schema.names == ["id", name]
            assert told(store, columns=(name,), where=((name, "==", 20),)) == [{name: 20}]
            if can(store, Ability.upsert):
                store.upsert("t", pa.table({"id": [9], name: [10]}), key=(name,))
                assert told(store, where=((name, "<", 20),)) == [{"id": 9, name: 10}]
            if can(store, Ability.delete):
                store.delete("t", where=((name, ">", 20),))
                assert store.snapshot("t").rows == 2
            if can(store, Ability.compact):
                store.compact("t", cluster_by=(name,))
            found = store.difference("t", before=0, after=store.snapshot("t").version)
            assert found.added.schema.names == ["id", name]
            if can(store, Ability.evolve):
                store.evolve("t", Evolution(add=(pa.field(name + "2", pa.string()),)))
                assert told(store, where=((name + "2", "==", None), (name, "==", 20)))

    def test_a_partition_is_called_whatever_people_call_it(self, store: TableStore) -> None:
        for name in ODD_NAMES:
            store.drop("t")
            data = pa.table({"id": [1, 2, 3], name: ["a/b", "😀 =%", None]})
            store.append("t", data, partition_by=(name,))
            store.append("t", data, partition_by=(name,))
            assert len(told(store, where=((name, "==", "😀 =%"),))) == 2
            if can(store, Ability.overwrite_part):
                part = pa.table({"id": [7], name: ["a/b"]})
                store.overwrite("t", part, where={name: "a/b"})
                assert told(store, where=((name, "==", "a/b"),)) == [{"id": 7, name: "a/b"}]
            assert store.snapshot("t").partition_by == (name,)

    def test_nested_values_decimals_and_times_come_back(self, store: TableStore) -> None:
        data = pa.table({"id": [1, 2, 3], **KINDS})
        expected = rows_of(data)
        store.append("t", data.slice(0, 2))
        store.append("t", data.slice(2))
        assert told(store) == expected
        if can(store, Ability.upsert):
            store.upsert("t", data.slice(0, 1), key=("id",))
            assert told(store) == expected
        if can(store, Ability.compact):
            store.compact("t")
            assert told(store) == expected
        zoned = data.set_column(
            data.column_names.index("zone"),
            "zone",
            KINDS["zone"].cast(pa.timestamp("us", "America/New_York")),
        )
        store.append("t", zoned.slice(0, 1))
        assert told(store)[0] == told(store)[1] == expected[0]

    def test_times_that_python_has_no_word_for_come_back(self, store: TableStore) -> None:
        far = pa.table({
            "id": [1, 2],
            "day": pa.array([2**30, -(2**30)], pa.date32()),
            "at": pa.array([2**61, -(2**61)], pa.timestamp("us", "UTC")),
        })  # fmt: skip
        try:
            store.append("t", far)
        except Refused as refused:  # a format may keep none of them
            said = str(refused)
        else:
            said = ""
        if said:
            assert "years 1 to 9999" in said
            assert store.names() == ()
            return
        assert told(store) == rows_of(far)
        assert [row["id"] for row in told(store, where=(("at", ">", 0),))] == [1]
        if can(store, Ability.upsert):
            store.upsert("t", far.slice(1), key=("day",))
            assert told(store) == rows_of(far)

    def test_a_table_without_rows_is_a_table(self, store: TableStore) -> None:
        none = pa.table({"id": pa.array([], pa.int64()), **{k: v.slice(0, 0) for k, v in KINDS.items()}})
        assert store.append("t", none).rows == 0
        assert store.append("t", none).rows == 0
        assert store.overwrite("t", none).rows == 0
        if can(store, Ability.upsert):
            assert store.upsert("t", none, key=("id",)).rows == 0
        if can(store, Ability.delete):
            assert store.delete("t", where=()).rows == 0
        if can(store, Ability.compact):
            store.compact("t", cluster_by=("id",))
        if can(store, Ability.restore):
            assert store.restore("t", version=0).rows == 0
        assert told(store) == told(store, columns=("id",), where=(("id", "==", 1),)) == []
        found = store.difference("t", before=0, after=store.snapshot("t").version)
        assert (found.added.read_all().num_rows, found.removed.read_all().num_rows) == (0, 0)

    def test_the_row_and_column_of_what_does_not_fit_are_named(self, store: TableStore) -> None:
        store.append("t", pa.table({"id": [1], "at": pa.array([0], pa.timestamp("us"))}))
        times = pa.array([1000] * 41 + [1001] + [1000] * 8, pa.timestamp("ns"))
        data = pa.table({"id": list(range(50)), "at": times})
        of_table = refusal(lambda s: s.append("t", data), store)
        of_stream = refusal(lambda s: s.append("t", data.to_reader(max_chunksize=7)), store)
        for refused in (of_table, of_stream):
            assert (refused.facts["column"], refused.facts["row"]) == ("at", 42), refused
        assert store.snapshot("t").version == 0

    def test_what_lies_too_deep_or_wide_is_refused_with_the_bound(self, store: TableStore) -> None:
        deep: Any = pa.array([1])
        for _ in range(100):
            deep = pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), deep)
        assert "32 levels" in str(refusal(lambda s: s.append("t", pa.table({"a": deep})), store))
        wide = pa.table({f"c{index}": [1] for index in range(10_001)})
        assert "at most 10,000 columns" in str(refusal(lambda s: s.append("t", wide), store))
        assert store.names() == ()
