"""Column lineage: what is claimed of a query is held against DuckDB, which runs it over changed columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fourfold.core.lineage import How, QueryColumns, UnknownColumns
from fourfold.foundation.storage.columns.flows import AGGREGATES
from fourfold.foundation.storage.columns.of_sql import columns_of_sql, without_literals

pytestmark = pytest.mark.slow

Tables = dict[str, dict[str, list[Any]]]
INPUTS: Tables = {
    "f": {
        "k": [1, 2, 2, 3, None, 4, 1],
        "a": [5, 3, 8, 3, 1, None, 7],
        "b": [2, 2, 9, 4, 4, 6, 1],
        "xs": [[1, 2], [3], [], [4, 4], [5], [6], [7, 8, 9]],
    },
    "g": {"k": [1, 2, 3, 5], "c": [4, 4, 7, None], "d": [10, 20, 20, 40]},
}
COLUMNS = {name: list(columns) for name, columns in INPUTS.items()}


def run(sql: str, inputs: Tables) -> tuple[list[str], list[tuple[Any, ...]]]:
    connection = in_memory()
    for name, columns in inputs.items():
        connection.register(name, pa.table(columns))
    found = connection.execute(sql)
    names = [each[0] for each in found.description or ()]
    return names, [tuple(map(repr, row)) for row in found.fetchall()]


@cache
def in_memory() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(config={"threads": 1})


def changed(table: str, column: str, how: Callable[[list[Any]], list[Any]]) -> Tables:
    return {
        name: {
            each: how(values) if (name, each) == (table, column) else values
            for each, values in columns.items()
        }
        for name, columns in INPUTS.items()
    }


def bent(values: list[Any]) -> list[Any]:
    return [None if v is None else [*v, 77] if isinstance(v, list) else v + 31 for v in values]


def mixed(values: list[Any]) -> list[Any]:
    return [*values[1:][::-1], values[0]]


def nulled(values: list[Any]) -> list[Any]:
    return [None if i % 2 else v for i, v in enumerate(values)]


def check_claims(sql: str) -> QueryColumns:
    """No claim of independence is wrong: changing a column changes only what it is said to act on."""
    names, rows = run(sql, INPUTS)
    claimed = columns_of_sql(sql, COLUMNS, outputs=names)
    assert isinstance(claimed, QueryColumns), (sql, claimed)
    assert [output.name for output in claimed.outputs] == names
    on_rows = {(each.input, each.column) for each in claimed.rows}
    for table, columns in INPUTS.items():
        for column in columns:
            if (table, column) in on_rows:
                continue
            untouched = [
                index
                for index, output in enumerate(claimed.outputs)
                if (table, column) not in {(each.input, each.column) for each in output.influences}
            ]
            for how in (bent, mixed, nulled):
                _, after = run(sql, changed(table, column, how))
                assert pick(after, untouched) == pick(rows, untouched), (
                    sql,
                    f"{table}.{column}",
                    how.__name__,
                )
    for index, output in enumerate(claimed.outputs):
        if output.influences and {each.how for each in output.influences} == {How.identity}:
            there = {repr(v) for each in output.influences for v in INPUTS[each.input][each.column]} | {
                "None"
            }
            assert {row[index] for row in rows} <= there, (sql, output)
    return claimed


def pick(rows: list[tuple[Any, ...]], indexes: list[int]) -> Counter[tuple[Any, ...]]:
    return Counter(tuple(row[index] for index in indexes) for row in rows)


def told(sql: str) -> dict[str, str]:
    """What is claimed, in words: each output, and `*` for what decides the rows."""
    claimed = check_claims(sql)

    def words(influences: Any) -> str:
        return " ".join(
            f"{each.input}.{each.column}:{each.how}{'#' if each.is_masked else ''}" for each in influences
        )

    found = {output.name: words(output.influences) for output in claimed.outputs}
    return found | ({"*": words(claimed.rows)} if claimed.rows else {})


CASES: dict[str, dict[str, str]] = {
    "select a, a + b as s, 1 as one from f": {
        "a": "f.a:identity",
        "s": "f.a:transformation f.b:transformation",
        "one": "",
    },
    "select * exclude (xs) replace (b * 2 as b) from f": {
        "k": "f.k:identity",
        "a": "f.a:identity",
        "b": "f.b:transformation",
    },
    "from g select c where d > 10": {"c": "g.c:identity", "*": "g.d:filter"},
    "select k, sum(a) as s, count(b) as n from f group by all having max(b) > 2": {
        "k": "f.k:identity",
        "s": "f.a:aggregation",
        "n": "f.b:aggregation#",
        "*": "f.b:filter f.k:group_by",
    },
    "select k, a, d from f join g using (k)": {
        "k": "f.k:identity",
        "a": "f.a:identity",
        "d": "g.d:identity",
        "*": "f.k:join g.k:join",
    },
    "select k from f full join g using (k)": {
        "k": "f.k:transformation g.k:transformation",
        "*": "f.k:join g.k:join",
    },
    "select k, d from f natural join g": {
        "k": "f.k:transformation g.k:transformation",
        "d": "g.d:identity",
        "*": "f.k:join g.k:join",
    },
    "select f.a, g.c from f asof join g on f.k = g.k and f.b >= g.c": {
        "a": "f.a:identity",
        "c": "g.c:identity",
        "*": "f.b:join f.k:join g.c:join g.k:join",
    },
    "select a from f anti join g on f.k = g.k": {"a": "f.a:identity", "*": "f.k:join g.k:join"},
    "with q as (select k, a + 1 as z from f where b > 1) select z from q order by k limit 3": {
        "z": "f.a:transformation",
        "*": "f.b:filter f.k:sort",
    },
    "with recursive r as (select a from f union all select a + 1 from r where a < 6) select a from r": {
        "a": "f.a:identity f.a:transformation",
        "*": "f.a:filter",
    },
    "select case when b > 3 then a else k end as x from f": {
        "x": "f.a:transformation f.b:conditional f.k:transformation"
    },
    "select sum(a) over (partition by k order by b) as s, lag(b) over (order by a) as p from f": {
        "s": "f.a:aggregation f.b:sort f.k:window",
        "p": "f.a:sort f.b:transformation",
    },
    "select sum(a) over w as s from f window w as (partition by k)": {"s": "f.a:aggregation f.k:window"},
    "select a from f qualify row_number() over (partition by k order by b, a) = 1": {
        "a": "f.a:identity",
        "*": "f.a:sort f.b:sort f.k:window",
    },
    "select list(a order by b) as l, sum(a) filter (where b > 2) as s from f": {
        "l": "f.a:aggregation f.b:sort",
        "s": "f.a:aggregation f.b:conditional",
    },
    "select a, (select max(c) from g where g.k = f.k) as m from f": {
        "a": "f.a:identity",
        "m": "f.k:filter g.c:aggregation g.k:filter",
    },
    "select a from f where exists (select 1 from g where g.k = f.k and d > 10)": {
        "a": "f.a:identity",
        "*": "f.k:filter g.d:filter g.k:filter",
    },
    "select a from f union all by name select c as a, d from g": {
        "a": "f.a:identity g.c:identity",
        "d": "g.d:identity",
    },
    "select a from f except select c from g": {"a": "f.a:identity", "*": "f.a:filter g.c:filter"},
    "select distinct on (k) k, a from f order by k, b, a": {
        "k": "f.k:identity",
        "a": "f.a:identity",
        "*": "f.a:sort f.b:sort f.k:group_by f.k:sort",
    },
    "select unnest(xs) as x, a from f": {"x": "f.xs:transformation", "a": "f.a:identity", "*": "f.xs:filter"},
    "select u.x, f.a from f, unnest(f.xs) as u(x)": {
        "x": "f.xs:transformation",
        "a": "f.a:identity",
        "*": "f.xs:filter",
    },
    "select list_transform(xs, lambda x: x + b) as y from f": {"y": "f.b:transformation f.xs:transformation"},
    "select s.p + 1 as q from (select {'p': a, 'r': b} as s from f)": {
        "q": "f.a:transformation f.b:transformation"
    },
    "select md5(a::varchar) as h, hash(b) as i from f": {
        "h": "f.a:transformation#",
        "i": "f.b:transformation#",
    },
    "select y.c from f, lateral (select c from g where g.k = f.k) y": {
        "c": "g.c:identity",
        "*": "f.k:filter g.k:filter",
    },
    "select quantile_cont(a, 0.5) as q, percentile_cont(0.5) within group (order by b) as p from f": {
        "q": "f.a:aggregation",
        "p": "f.b:aggregation",
    },
    "select F.A as big from F": {"big": "f.a:identity"},
    "select count(*) as n, any_value(v.y) as y from (values (1, 2)) v(x, y), f where f.a > v.x": {
        "n": "",
        "y": "",
        "*": "f.a:filter",
    },
    "select max(k) from f group by cube (a, b)": {
        "max(k)": "f.k:aggregation",
        "*": "f.a:group_by f.b:group_by",
    },
}


@pytest.mark.parametrize("sql", CASES)
def test_each_column_is_followed_to_where_it_comes_from(sql: str) -> None:
    assert told(sql) == CASES[sql]


@pytest.mark.parametrize(
    "sql",
    [
        # an alias that is called as a column of the table: which one is meant differs by clause
        "select b as a, k from f where a > 3",
        "select b as a, count(*) as n from f group by b",
        "select b + 1 as a, max(k) as m from f group by b having m > 1",
        "select b as a, k from f order by a limit 3",
        "select b as a, a as b from f where a > b",
        "select k as a, a + 1 as z from f",
        "select a as k, k as a, row_number() over (order by k, a, b) as n from f qualify k > 2",
        "select a as z, z + 1 as y from f",
        "select sum(a) as b, max(b) as m from f group by k having b > 4",
        "with f as (select b as a, k from f) select a from f where k > 1",
        "select x.a from (select a as b, b as a, k from f) x where x.b > 2",
        "select a from (select * from f order by b limit 3)",
        "(select a from f) union (select c from g) order by 1 limit 2",
        "select f.a, g.* from f left join g on f.k = g.k and g.d > 10",
        "select * from f positional join g",
        "select a in (select c from g where d > 10) as i from f",
        "select k, a from f where a > (select avg(a) from f as o where o.k = f.k)",
        "select percentile_cont(0.5) within group (order by a) as p, arg_max(a, b) as m from f",
        "select grouping(k) as g, sum(a) as s from f group by rollup (k)",
        "select [x + 1 for x in xs if x > b] as l from f",
        "select if(k > 1, a, b) as i, coalesce(a, b) as c, nullif(a, b) as n from f",
        "select distinct a % 2 as p from f",
        "select f.k, q.c from f join (select k, max(c) as c from g group by k) q on q.k = f.k",
        "select r.i, a from range(2) r(i), f",
    ],
)
def test_names_that_could_be_read_in_two_ways_are_read_as_duckdb_reads_them_or_not_at_all(sql: str) -> None:
    names, _ = run(sql, INPUTS)
    if isinstance(columns_of_sql(sql, COLUMNS, outputs=names), QueryColumns):
        check_claims(sql)


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("pivot f on a using sum(b)", "PIVOT is not followed"),
        ("select columns('a|b') from f", "COLUMNS(…) is not followed"),
        ("select f from f", "the whole row 'f' is not followed"),
        ("select s.* from (select {'p': a} as s from f)", "s.*' gives is not known"),
        ("select a from other", "'other' is no table that is known"),
        ("select a from read_parquet('x.parquet')", "reads is not known"),
        ("select zz from f", "it is not clear which column 'zz' is"),
        ("select k from f, g", "it is not clear which column 'k' is"),
        ("select 1; select 2", "it is not one statement"),
        ("insert into f select * from g", "INSERT is no query"),
        ("select from from", "it could not be parsed"),
        ("select " + "(" * 3000 + "a" + ")" * 3000 + " from f", "nested too deeply"),
        ("select a from f -- " + "x" * 200_000, "the query is longer than 200,000 characters"),
    ],
)
def test_what_is_not_followed_says_why_and_claims_nothing(sql: str, reason: str) -> None:
    found = columns_of_sql(sql, COLUMNS)
    assert isinstance(found, UnknownColumns)
    assert reason in found.reason


def test_a_reading_that_differs_from_duckdbs_columns_claims_nothing() -> None:
    assert isinstance(columns_of_sql("select a, b from f", COLUMNS, outputs=["a"]), UnknownColumns)
    assert isinstance(columns_of_sql("select a, b from f", COLUMNS, outputs=["b", "a"]), UnknownColumns)


def test_names_with_dots_signs_and_spaces_are_followed() -> None:
    found = columns_of_sql('select "my col" from "raw.flights@3"', {"raw.flights@3": ["My Col", 'q"uote']})
    assert isinstance(found, QueryColumns)
    (influence,) = found.outputs[0].influences
    assert (influence.input, influence.column) == ("raw.flights@3", "My Col")


def test_every_aggregate_of_duckdb_is_known_as_one() -> None:
    with duckdb.connect() as connection:
        query = "select distinct function_name from duckdb_functions() where function_type = 'aggregate'"
        names = [name for (name,) in connection.execute(query).fetchall()]
    scalar = []
    for name in names:
        found = [columns_of_sql(f"select {name}({given}) as x from f", COLUMNS) for given in ("a", "a, b")]
        hows = {
            each.how
            for one in found
            if isinstance(one, QueryColumns)
            for output in one.outputs
            for each in output.influences
        }
        if How.aggregation not in hows:
            scalar.append(name)
    assert set(scalar) <= {"count_star"}, "add them to AGGREGATES"
    assert AGGREGATES


# Queries by chance


@st.composite
def relations(draw: st.DrawFn, depth: int) -> tuple[str, list[str]]:
    """A query and its columns, all numbers."""
    if depth == 0:
        return draw(
            st.sampled_from([("select k, a, b from f", ["k", "a", "b"]), ("from g", ["k", "c", "d"])])
        )
    if draw(st.integers(0, 4)) == 0:
        left, columns = draw(relations(depth - 1))
        right, others = draw(relations(depth - 1))
        if len(columns) == len(others):
            verb = draw(st.sampled_from(["union", "union all", "except", "intersect"]))
            return f"({left}) {verb} ({right})", columns
    return draw(selects(depth))


@st.composite
def selects(draw: st.DrawFn, depth: int) -> tuple[str, list[str]]:
    x, columns = draw(relations(depth - 1))
    sources, known = f"({x}) as x", [f"x.{column}" for column in columns]
    if draw(st.booleans()):
        y, others = draw(relations(depth - 1))
        verb = draw(
            st.sampled_from(["join", "left join", "full join", "semi join", "anti join", "cross join"])
        )
        on = f" on x.{draw(st.sampled_from(columns))} = y.{draw(st.sampled_from(others))}"
        sources += f" {verb} ({y}) as y" + ("" if verb == "cross join" else on)
        if verb not in ("semi join", "anti join"):
            known += [f"y.{column}" for column in others]
    column = st.sampled_from(known)

    def value() -> str:
        one, two, three = draw(column), draw(column), draw(column)
        window = f"over (partition by {two} order by {', '.join(known)})"
        inner = f"(select max(c) from g where g.d > {one})"
        return draw(
            st.sampled_from(
                [
                    one, one, f"{one} + {two}", f"case when {one} > 3 then {two} else {three} end",
                    f"coalesce({one}, {two})", f"sum({one}) {window}", f"rank() {window}", inner, "7",
                    f"({one} in (select c from g))::int",
                ]
            )
        )  # fmt: skip

    def total() -> str:
        one, two = draw(column), draw(column)
        return draw(
            st.sampled_from(
                [
                    f"sum({one})", f"count({one})", "count(*)", f"max({one}) filter (where {two} > 2)",
                    f"min({one} + {two})", f"list({one} order by {two}, {one})[1]",
                ]
            )
        )  # fmt: skip

    where = draw(
        st.sampled_from(
            ["", f" where {draw(column)} > 2", f" where exists (select 1 from g where c = {draw(column)})"]
        )
    )
    width = draw(st.integers(1, 3))
    if draw(st.integers(0, 2)) == 0:
        keys = [draw(column) for _ in range(draw(st.integers(0, 2)))]
        parts = [*keys, *(total() for _ in range(width))]
        names = [f"c{index}" for index in range(len(parts))]
        listed = ", ".join(f"{part} as {name}" for part, name in zip(parts, names, strict=True))
        tail = (" group by " + ", ".join(keys) if keys else "") + draw(
            st.sampled_from(["", f" having count({draw(column)}) > 1"])
        )
        return f"select {listed} from {sources}{where}{tail}", names
    parts = [value() for _ in range(width)]
    names = [f"c{index}" for index in range(width)]
    listed = ", ".join(f"{part} as {name}" for part, name in zip(parts, names, strict=True))
    distinct = draw(st.sampled_from(["", "", "distinct "]))
    return f"select {distinct}{listed} from {sources}{where}", names


@pytest.mark.property
@settings(deadline=None)
@given(query=relations(2))
def test_changing_a_column_changes_only_what_it_is_said_to_act_on(query: tuple[str, list[str]]) -> None:
    check_claims(query[0])


@pytest.mark.parametrize(
    "sql",
    [
        "select a from t where name = 'Ada' and n in ('Ada', 'b') -- Ada\n",
        "select e'Ada' || $$Ada$$ || n'Ada' as x /* Ada */ from t",
        "select {'who': 'Ada'} as s, ['Ada'] as l, f('Ada', date 'Ada') from (values ('Ada')) v(x)",
        "pivot t on who in ('Ada') using sum(b)",
        "select a from t where 'Ada",
    ],
)
def test_no_literal_of_a_query_is_kept(sql: str) -> None:
    assert "Ada" not in without_literals(sql)
    assert without_literals("select a::decimal(10, 2) from t") == "SELECT CAST(a AS DECIMAL(10, 2)) FROM t"


# Views


INNER = (
    "select a, b + 1 as x, c from t where d > 3",
    "select a, max(b) as x, count(*) as c from t group by a having min(d) > 1",
    "select t.a, u.e as x, hash(t.b) as c from t left join u on t.a = u.a order by t.d limit 3",
    "select distinct a, x, c from (select a, sum(b) over (partition by c order by d) as x, c from t)",
    "select a, b as x, d as c from t union select a, e, e from u",
)
OUTER = (
    "select * from {v}",
    "select v.x as y, u.e from {v} as v join u on v.a = u.a where v.c <> 0",
    "with u as (select x as a, c as e from {v}) select p.a + q.e as z from u p, u q where p.e = q.a",
    "select a, sum(x) as s, case when min(c) > 1 then 1 end as m from {v} group by all",
    "select (select max(x) from {v} where v.a = t.a) as m, t.b from t",
    "select a from {v} except select a from u",
)


@pytest.mark.parametrize("outer", OUTER)
@pytest.mark.parametrize("inner", INNER)
def test_a_view_is_followed_as_if_its_query_stood_in_its_place(inner: str, outer: str) -> None:
    tables = {"t": ["a", "b", "c", "d"], "u": ["a", "e"]}
    view = columns_of_sql(inner, tables)
    assert isinstance(view, QueryColumns)
    named = '"query~1"' if " as v" in outer else '"query~1" as v'
    over = columns_of_sql(outer.format(v=named), tables, views={"query~1": view})
    # a name of its own for what the inner query reads, which the outer one may hide
    aside = inner.replace(" u ", " u2 ").replace(" u on", " u2 on").replace("u.", "u2.")
    aside = aside + "2" if aside.endswith(" from u") else aside
    placed = f"({aside})" if " as v" in outer else f"({aside}) as v"
    inlined = columns_of_sql(outer.format(v=placed), {**tables, "u2": tables["u"]})
    assert isinstance(over, QueryColumns), over
    assert isinstance(inlined, QueryColumns), inlined
    assert _words(over) == _words(inlined)


def _words(found: QueryColumns) -> list[tuple[str, set[str]]]:
    """The columns and rows with what acts on them; `u2` is `u`."""
    parts = [*((each.name, each.influences) for each in found.outputs), ("*", found.rows)]
    return [
        (name, {f"{e.input.removesuffix('2')}.{e.column} {e.how} {e.is_masked}" for e in acting})
        for name, acting in parts
    ]
