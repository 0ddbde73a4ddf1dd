"""The rules of tables: names of columns, keys, which versions are old, how a branch gets into its table."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourfold.core.decide import branching, retention, schemas
from fourfold.core.decide.renaming import Names, changes
from fourfold.core.decide.types import type_named
from fourfold.core.errors import Conflict, Refused
from fourfold.core.ports.tables import Commit
from fourfold.core.times import Instant

NAMES = ["a", "b", "c", "A", "a~2"]
step = st.one_of(
    st.tuples(st.just("rename"), st.dictionaries(st.sampled_from(NAMES), st.sampled_from(NAMES), max_size=3)),
    st.tuples(st.just("add"), st.lists(st.sampled_from(NAMES), max_size=2, unique=True)),
)


@pytest.mark.property
@given(st.lists(step, max_size=8))
def test_names_are_those_that_a_list_of_columns_would_have(steps: list[tuple[str, Any]]) -> None:
    names, stored = Names(), ["a", "b"]
    model = {"a": "a", "b": "b"}  # stored to shown, by hand
    for what, value in steps:
        schema = pa.schema([(column, pa.int64()) for column in stored])
        shown = [model[column] for column in stored]
        try:
            if what == "rename":
                after = names.renamed("t", schema, value)
            else:
                fields = [*names.show(schema), *(pa.field(name, pa.int64()) for name in value)]
                schemas.own("t", pa.schema(fields))
                after = names.with_new(value, stored)
        except Refused:
            continue
        if what == "rename":
            model = {column: value.get(name, name) for column, name in model.items()}
        else:
            new = [after.stored(name) for name in value]
            assert {name.lower() for name in new}.isdisjoint(column.lower() for column in stored)
            stored += new
            model |= dict(zip(new, value, strict=True))
        assert [after.shown(column) for column in stored] == [model[column] for column in stored]
        assert [after.stored(model[column]) for column in stored] == stored
        noted = changes(names, after)
        pairs = {**names.by_stored, **noted}
        assert Names({s: n for s, n in pairs.items() if s != n}) == after
        assert len({name.lower() for name in model.values()}) == len(stored)
        names, _ = after, shown


def test_data_is_renamed_whole_or_as_a_stream() -> None:
    names, data = Names({"dly": "delay"}), pa.table({"delay": [1], "n": [2]})
    assert names.rename(data, to_stored=True).column_names == ["dly", "n"]
    reader = names.rename(names.rename(data, to_stored=True).to_reader(), to_stored=False)
    assert reader.read_all().equals(data)


@pytest.mark.parametrize(
    "kind",
    [
        pa.int8(), pa.float32(), pa.float64(), pa.string(), pa.binary(), pa.bool_(), pa.date32(),
        pa.timestamp("us"), pa.timestamp("us", "UTC"), pa.decimal128(38, 10), pa.list_(pa.int64()),
        pa.map_(pa.string(), pa.list_(pa.decimal128(5, 2))),
        pa.struct([("a", pa.int64()), ("b", pa.struct([("c", pa.list_(pa.bool_()))]))]),
    ],
)  # fmt: skip
def test_a_type_is_read_from_the_words_that_arrow_has_for_it(kind: pa.DataType) -> None:
    assert type_named(str(kind)) == kind


@pytest.mark.parametrize(
    "words",
    [
        "",
        "int65",
        "list<",
        "list<int64",
        "map<string>",
        "decimal128(10)",
        "struct<a>",
        "int64 int64",
        "(",
        "<>",
    ],
)
def test_words_that_name_no_type_are_refused(words: str) -> None:
    with pytest.raises(Refused, match="is not a type"):
        type_named(words)


@pytest.mark.property
@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.integers(0, 10), st.sets(st.integers(0, 7)))
def test_what_was_current_since_is_never_old(times: list[int], before: int, keep: set[int]) -> None:
    made = [(version, Instant(at)) for version, at in enumerate(times)]
    old = retention.old_versions(made, before=Instant(before), keep=keep)
    assert keep.isdisjoint(old)
    assert len(times) - 1 not in old
    for moment in range(before, 11):
        there = [version for version, at in made if at <= moment]
        assert not there or max(there) not in old


def _did(*operations: str) -> list[Commit]:
    return [
        Commit(version, Instant(0), operation.rstrip("-"), 0, 0, rows_removed=operation.endswith("-"))
        for version, operation in enumerate(operations)
    ]


@pytest.mark.parametrize(
    ("table", "branch", "is_level", "same_columns", "how"),
    [
        ((), ("overwrite-",), True, False, "become"),
        (("compact",), ("delete-", "evolve"), True, False, "become"),
        (("append",), ("append", "compact"), True, True, "add"),
        (("publish",), ("append",), True, True, "add"),
        ((), ("append",), False, True, "add"),
        ((), ("delete-",), False, True, "conflict"),
        (("append",), ("upsert",), True, True, "conflict"),
        (("upsert",), ("append",), True, True, "conflict"),
        (("publish-",), ("append",), True, True, "conflict"),
        (("append",), ("append",), True, False, "conflict"),
        (("append",), (), True, True, "refused"),
    ],
)
def test_how_a_branch_gets_into_its_table(
    table: tuple[str, ...], branch: tuple[str, ...], is_level: bool, same_columns: bool, how: str
) -> None:
    def ask() -> str:
        return branching.publishing(
            "t",
            "dev",
            of_table=_did(*table),
            of_branch=_did(*branch),
            is_level=is_level,
            same_columns=same_columns,
        ).value

    if how == "conflict":
        with pytest.raises(Conflict, match="begin a branch"):
            ask()
    elif how == "refused":
        with pytest.raises(Refused, match="nothing that is not published"):
            ask()
    else:
        assert ask() == how
