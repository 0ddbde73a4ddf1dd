"""Expectations: what each asks of rows and tables, and what cannot be asked."""

from __future__ import annotations

import datetime as dt
import math
import re
import tomllib
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.storage.flights import SCHEMA, flights

from fourfold.core.decide.expectations import check_definitions, judge_change, judge_freshness, judge_rows
from fourfold.core.errors import Refused
from fourfold.core.expectations import Expectation, Expected
from fourfold.core.times import Instant, instant
from fourfold.foundation.storage import expect
from fourfold.foundation.storage.checks.rows import WHY, RowRules
from fourfold.foundation.storage.checks.whole import newest
from fourfold.testing.clock import START


def failing(expectation: Expectation, data: pa.Table) -> int:
    """How many rows fail."""
    rules = RowRules("flights", [expectation], data.schema)
    rules.look(data)
    rules.close()
    return rules.verdicts()[0].failing


# What each rule asks of a row


@pytest.mark.parametrize(
    ("expectation", "column", "passes", "fails"),
    [
        (expect.not_null("id"), "id", [0, -1], [None]),
        (expect.between("delay", -1, 2), "delay", [-1.0, 2.0, None], [-1.5, math.nan, math.inf]),
        (expect.between("delay", greatest=2), "delay", [-math.inf], [2.5]),
        (expect.between("day", dt.date(2013, 1, 1)), "day", [dt.date(2013, 1, 1)], [dt.date(2012, 12, 31)]),
        (
            expect.between("at", "2013-01-01T06:00:00Z", "2013-01-02T00:00:00Z"),
            "at",
            [dt.datetime(2013, 1, 1, 7, tzinfo=dt.UTC)],
            [dt.datetime(2013, 1, 1, 5, tzinfo=dt.UTC)],
        ),
        (expect.between("cost", 0, 10), "cost", [Decimal("10.00")], [Decimal("10.01")]),
        (expect.matches("tail", r"N\d+|🙂"), "tail", ["N1", "🙂", None], ["xN1", "N1\n", ""]),
        (expect.one_of("tail", ["a", "é"]), "tail", ["é", None], ["e", "A"]),
        (expect.one_of("day", [dt.date(2013, 1, 1)]), "day", [dt.date(2013, 1, 1)], [dt.date(2013, 1, 2)]),
        (expect.sql("len(legs) > 1 or legs is null"), "legs", [[1, 2], None], [[1]]),
        (expect.sql("\"delay\" < 'Infinity' -- so it is"), "delay", [1.0, None], [math.inf]),
    ],
)
def test_a_rule_lets_pass_what_it_says(
    expectation: Expectation, column: str, passes: list[Any], fails: list[Any]
) -> None:
    assert failing(expectation, flights(*range(len(passes)), **{column: passes})) == 0
    assert failing(expectation, flights(*range(len(fails)), **{column: fails})) == len(fails)


@pytest.mark.property
@given(
    st.lists(
        st.tuples(
            st.none() | st.integers(-5, 5),
            st.none() | st.floats(-3, 3) | st.just(math.nan),
            st.none() | st.text("ab1", max_size=3),
        ),
        max_size=40,
    ),
    st.floats(-2, 0),
    st.floats(0, 2),
)
def test_counts_are_those_of_a_slow_look_at_each_row(
    rows: list[tuple[int | None, float | None, str | None]], low: float, high: float
) -> None:
    ids, delays, tails = [i for i, _, _ in rows], [d for _, d, _ in rows], [t for _, _, t in rows]
    data = flights(*ids, delay=delays, tail=tails)
    slow = {
        expect.not_null("id"): sum(i is None for i in ids),
        expect.between("delay", low, high): sum(d is not None and not low <= d <= high for d in delays),
        expect.matches("tail", "a+b?"): sum(t is not None and re.fullmatch("a+b?", t) is None for t in tails),
        expect.one_of("id", [1, 2]): sum(i is not None and i not in (1, 2) for i in ids),
        expect.sql("id > 0"): sum(i is not None and i <= 0 for i in ids),
    }
    rules = RowRules("flights", list(slow), SCHEMA)
    looked = rules.look(data)
    rules.close()
    assert [v.failing for v in rules.verdicts()] == list(slow.values())
    bad = {
        index
        for index, (i, d, t) in enumerate(rows)
        if i is None
        or i not in (1, 2)
        or (d is not None and not low <= d <= high)
        or (t is not None and re.fullmatch("a+b?", t) is None)
    }
    assert looked.bad_rows == len(bad)
    assert looked.good().num_rows == len(rows) - len(bad)
    if bad:
        kept_rows = looked.bad(1_000).to_pylist()
        assert [row["id"] for row in kept_rows] == [ids[index] for index in sorted(bad)]
        assert all(("id is not null" in row[WHY]) == (row["id"] is None) for row in kept_rows)


def test_a_share_of_rows_may_fail_and_a_warning_lets_all_pass() -> None:
    tolerant = expect.not_null("id", at_most="10%")
    assert judge_rows(tolerant, rows=10, failing=1).passed
    assert not judge_rows(tolerant, rows=10, failing=2).passed
    assert judge_rows(tolerant, rows=0, failing=0).passed
    warned = judge_rows(expect.not_null("id", severity="warn"), rows=3, failing=1)
    assert (warned.passed, warned.refuses) == (False, False)
    assert warned.reason == "id is not null: not so for 1 of 3 rows"


def test_age_and_change_of_size_are_judged_in_words() -> None:
    fresh = expect.fresh("at", within="1h")
    assert judge_freshness(fresh, newest=START, now=Instant(START + 3_600_000_000)).passed
    stale = judge_freshness(fresh, newest=START, now=Instant(START + 3_600_000_001))
    assert not stale.passed
    assert stale.reason == "the newest at is at most 1h old: it is 2026-01-01T00:00:00Z, 1h old"
    assert not judge_freshness(fresh, newest=None, now=START).passed
    moved = expect.row_count_change(at_most="20%")
    assert judge_change(moved, before=10, after=12).passed
    assert judge_change(moved, before=10, after=8).passed
    assert judge_change(moved, before=0, after=99).passed
    assert "it went from 10 to 13, by 30%" in judge_change(moved, before=10, after=13).reason


# What cannot be expected


@pytest.mark.parametrize(
    ("expectation", "says"),
    [
        (expect.not_null("idd"), "did you mean 'id'"),
        (expect.between("delay", 3, 2), "3 is greater than 2"),
        (expect.between("delay"), "least or a greatest"),
        (expect.between("delay", "low"), "cannot be compared with 'low'"),
        (expect.between("legs", 1), "no order"),
        (expect.matches("tail", "("), "no regular expression"),
        (expect.matches("id", "1"), "not text"),
        (expect.one_of("id", []), "1 to 10000 values"),
        (expect.one_of("id", ["a"]), "cannot be compared"),
        (expect.one_of("id", [None]), "null is no value"),
        (expect.unique(), "one column or more"),
        (expect.unique("legs"), "list"),
        (expect.fresh("id", within="1d"), "not a time"),
        (expect.fresh("at", within=0), "needs an age"),
        (expect.sql(" "), "no condition"),
        (expect.sql("nosuch > 1"), "nosuch"),
        (expect.sql("id + 1"), "not true or false"),
        (expect.sql("count(*) > 1"), "aggregates"),
        (expect.sql("true); drop table x; select (true"), "more than a condition"),
        (expect.sql("exists (select * from read_text('/etc/hostname'))"), "disabled"),
        (expect.not_null("id", at_most=1), "cannot be tolerated"),
        (expect.row_count_change(at_most=-1), "cannot move by"),
    ],
)
def test_an_expectation_that_cannot_be_asked_is_refused_at_the_door(
    expectation: Expectation, says: str
) -> None:
    def ask() -> None:
        check_definitions("flights", Expected((expectation,)), SCHEMA)
        RowRules("flights", [expectation], SCHEMA)

    with pytest.raises(Refused) as refused:
        ask()
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda: expect.not_null("id", at_most="much"), "is not a share"),
        (lambda: expect.not_null("id", severity="waarn"), "did you mean 'warn'"),
        (lambda: expect.one_of("tail", "abc"), "values is the text"),
        (lambda: expect.expected(on_failure="drop"), "on_failure is not 'drop'"),
    ],
)
def test_an_expectation_is_written_right_or_refused(made: Any, says: str) -> None:
    with pytest.raises(Refused, match=re.escape(says)):
        made()


def test_toml_says_the_same_as_python() -> None:
    text = """
    on_failure = "quarantine"
    [[expect]]
    not_null = "id"
    at_most = "0.1%"
    [[expect]]
    between = "delay"
    least = -120
    greatest = 2000
    [[expect]]
    between = "day"
    least = 2013-01-01
    [[expect]]
    unique = ["id", "at"]
    severity = "warn"
    [[expect]]
    one_of = "tail"
    values = ["a", "b"]
    [[expect]]
    fresh = "at"
    within = "1d"
    [[expect]]
    row_count_change = "20%"
    [[expect]]
    sql = "id > 0"
    """
    assert expect.from_toml(tomllib.loads(text)) == expect.expected(
        expect.not_null("id", at_most=0.001),
        expect.between("delay", -120, 2000),
        expect.between("day", "2013-01-01"),
        expect.unique("id", "at", severity="warn"),
        expect.one_of("tail", ["a", "b"]),
        expect.fresh("at", within=86400),
        expect.row_count_change(at_most=0.2),
        expect.sql("id > 0"),
        on_failure="quarantine",
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("expects = []", "did you mean 'expect'"),
        ("expect = 3", "list of tables"),
        ("[[expect]]\nnot_nul = 'id'", "names one rule, not 0"),
        ("[[expect]]\nnot_null = 'id'\nunique = 'id'", "names one rule, not 2"),
        ("[[expect]]\nbetween = 'id'\nsmallest = 3", "smallest"),
        ("[[expect]]\nnot_null = 3", "about columns, not 3"),
        ("statistics = 'yes'", "true or false"),
    ],
)
def test_toml_that_says_something_else_is_refused(text: str, says: str) -> None:
    with pytest.raises(Refused, match=re.escape(says)):
        expect.from_toml(tomllib.loads(text))


def test_days_are_as_old_as_their_end() -> None:
    data = flights(1, 2, day=[dt.date(2013, 1, 1), None])
    end = instant(dt.datetime(2013, 1, 2, tzinfo=dt.UTC))
    assert newest("day", lambda columns: data.select(list(columns or [])).to_reader()) == end
