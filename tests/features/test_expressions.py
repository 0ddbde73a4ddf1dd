"""Expressions: one text, the same value over a whole table and over one row."""

from __future__ import annotations

import math
from collections.abc import Mapping

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourfold.core.errors import Refused
from fourfold.core.features import Kind
from fourfold.mlplatform.features.expressions import check, check_filter, compile_row, parse, to_sql

pytestmark = pytest.mark.property

KINDS = {"a": Kind.float, "b": Kind.float, "n": Kind.int, "t": Kind.string, "f": Kind.bool}

numbers = st.one_of(
    st.none(),
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.5, -2.5, 0.5, math.nan, math.inf, -math.inf, 1e300]),
    st.floats(-1e6, 1e6),
)
number_text: st.SearchStrategy[str] = st.deferred(
    lambda: st.one_of(
        st.sampled_from(["a", "b", "n", "0", "1", "2.5", "null"]),
        st.tuples(number_text, st.sampled_from("+-*/%"), number_text).map(
            lambda p: f"({p[0]} {p[1]} {p[2]})"
        ),
        st.tuples(
            st.sampled_from(["abs", "floor", "ceil", "round", "exp", "ln", "sqrt", "-"]), number_text
        ).map(lambda p: f"{p[0]}({p[1]})"),
        st.tuples(st.sampled_from(["least", "greatest", "coalesce", "nullif"]), number_text, number_text).map(
            lambda p: f"{p[0]}({p[1]}, {p[2]})"
        ),
        st.tuples(truth_text, number_text, number_text).map(
            lambda p: f"case when {p[0]} then {p[1]} else {p[2]} end"
        ),
    )
)
truth_text: st.SearchStrategy[str] = st.deferred(
    lambda: st.one_of(
        st.sampled_from(["f", "true", "t = 'x'", "t < 'y'", "t in ('x', null)", "t is null"]),
        st.tuples(number_text, st.sampled_from(["=", "<>", "<", "<=", ">", ">="]), number_text).map(
            lambda p: f"({p[0]} {p[1]} {p[2]})"
        ),
        st.tuples(
            number_text, st.sampled_from(["is null", "is not null", "in (1, 2.5)", "not between 0 and 2"])
        ).map(lambda p: f"({p[0]} {p[1]})"),
        st.tuples(truth_text, st.sampled_from(["and", "or"]), truth_text).map(
            lambda p: f"({p[0]} {p[1]} {p[2]})"
        ),
        truth_text.map(lambda p: f"(not {p})"),
    )
)


def in_duckdb(sql: str, row: Mapping[str, object]) -> object:
    with duckdb.connect() as connection:
        found = connection.execute(
            f"SELECT {to_sql(parse(sql), KINDS)} FROM (SELECT $a::DOUBLE a, $b::DOUBLE b, $n::BIGINT n,"
            " $t::VARCHAR t, $f::BOOLEAN f)",
            row,
        ).fetchone()
    assert found is not None
    return found[0]


def same(x: object, y: object) -> bool:
    if isinstance(x, float) and isinstance(y, float):
        return (math.isnan(x) and math.isnan(y)) or x == y or math.isclose(x, y, rel_tol=1e-12)
    return x == y and type(x) is type(y)


@given(
    sql=st.one_of(number_text, truth_text),
    a=numbers,
    b=numbers,
    n=st.one_of(st.none(), st.integers(-5, 5)),
    t=st.sampled_from([None, "x", "y", "ü"]),
    f=st.sampled_from([None, True, False]),
)
def test_an_expression_means_the_same_offline_and_online(
    sql: str, a: float | None, b: float | None, n: int | None, t: str | None, f: bool | None
) -> None:
    row = {"a": a, "b": b, "n": n, "t": t, "f": f}
    check(sql, KINDS, what="test")
    online = compile_row(parse(sql), list(KINDS))(list(row.values()))
    assert same(online, in_duckdb(sql, row)), sql


def test_dividing_by_zero_gives_infinity_or_nan_and_never_an_error() -> None:
    divide = compile_row(parse("a / b"), ["a", "b"])
    assert divide([1, 0]) == math.inf
    assert math.isnan(divide([0, 0]))
    assert divide([None, 0]) is None


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("a +", "ends too early"),
        ("a ~ b", "cannot read"),
        ("median(a)", "no function 'median'"),
        ("nullif(a)", "takes 2 arguments"),
        ("a b", "unexpected 'b'"),
        ("case a end", "'when' is missing"),
        ("(" * 100 + "a" + ")" * 100, "nested too deeply"),
        ("aa", "no column 'aa'"),
        ("a + t", "mixes number and text"),
        ("a and f", "mixes number and truth"),
        ("'" + "x" * 5000 + "'", "longer than"),
        ("a; drop table x", "cannot read"),
    ],
)
def test_a_bad_expression_is_refused_with_the_place(sql: str, message: str) -> None:
    with pytest.raises(Refused, match=message):
        check(sql, KINDS, what="test")


def test_a_filter_must_be_a_condition() -> None:
    check_filter("a > 1", KINDS, what="test")
    with pytest.raises(Refused, match="not a condition"):
        check_filter("a + 1", KINDS, what="test")


def test_text_is_quoted_for_duckdb() -> None:
    assert in_duckdb("t = 'it''s'", {"a": None, "b": None, "n": None, "t": "it's", "f": None}) is True
