"""SQL over tables at any versions: what is read, what is told to the store, what is recorded."""

from __future__ import annotations

from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.storage.conftest import DAY_2, Attempt, rows

import fourfold as ff
from fourfold.core import context
from fourfold.core.context import Ref
from fourfold.core.decide import schemas
from fourfold.core.decide.pushdown import conditions_in, fields_in
from fourfold.core.errors import Corrupted, NotFound, Refused
from fourfold.core.storage import Condition, table_pin
from fourfold.core.times import iso
from fourfold.foundation.storage.query import Query
from fourfold.foundation.storage.service import Storage
from fourfold.testing.clock import MovableClock

pytestmark = pytest.mark.slow


@pytest.fixture
def flights(storage: Storage, clock: MovableClock) -> Storage:
    """Version 0: 0 to 99; version 1, an hour later: 100 to 104 too; a branch at version 0 with one more."""
    storage.append("flights", rows(*range(100)))
    storage.tag("flights", "first")
    clock.advance(3600)
    storage.append("flights", rows(*range(100, 105), day=DAY_2))
    storage.fork("flights", "dev/try-1", version=0)
    storage.append("flights@dev/try-1", rows(999))
    storage.append("raw.planes", pa.table({"Id": [1], 'say "x"': ["a"], "it": [{"a b": 1}]}))
    return storage


def ask(storage: Storage, sql: str) -> list[tuple[Any, ...]]:
    return Query(storage).ask(sql).fetchall()


def test_a_table_is_asked_at_any_version(flights: Storage, clock: MovableClock) -> None:
    hour_ago = iso(clock.advance(-1800))
    for name, count in {
        "flights": 105, "flights@v0": 100, "flights@v1": 105, "flights@tag:first": 100,
        f"flights@{hour_ago}": 100, "flights@dev/try-1": 101, "flights@dev/try-1@v0": 100,
        "flights@main": 105,
    }.items():  # fmt: skip
        assert ask(flights, f'select count(*) from "{name}"') == [(count,)], name
    assert ask(flights, 'select count(*) from "flights@v0" a join flights b using (n)') == [(100,)]
    assert ask(flights, 'from "raw.planes" select id, it') == [(1, {"a b": 1})]


def test_only_what_a_query_needs_is_read(flights: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[Any, Any]] = []
    scan = Storage.scan

    def seen(self: Storage, name: str, **asked: Any) -> pa.RecordBatchReader:
        read.append((asked["columns"], asked["where"]))
        return scan(self, name, **asked)

    monkeypatch.setattr(Storage, "scan", seen)
    assert ask(flights, "select sum(n) from flights where n between 98 and 101") == [(398,)]
    assert read == [(("n",), (("n", ">=", 98), ("n", "<=", 101)))]
    read.clear()
    assert ask(flights, "select max(n) from flights where day = date '2013-01-02'") == [(104,)]
    assert read == [(("n", "day"), (("day", "==", "2013-01-02"),))]


def test_a_query_may_pass_over_a_table_twice_and_sees_one_version(flights: Storage) -> None:
    relation = Query(flights).ask("select count(*) from flights a join flights b on a.n = b.n + 1")
    flights.append("flights", rows(105))
    assert relation.fetchall() == [(104,)]
    assert relation.fetchall() == [(104,)]


def test_what_a_step_asks_is_recorded_as_what_it_read(flights: Storage) -> None:
    attempt = Attempt()
    with context.within(attempt):
        ask(
            flights,
            'select count(*) from flights a join "flights@tag:first" b using (n), "flights@dev/try-1"',
        )
    assert set(attempt.reads) == {
        Ref("table", "flights", "0"), Ref("table", "flights", "1"), Ref("table", "flights@dev/try-1", "1"),
    }  # fmt: skip
    assert len(attempt.reads) == 3, "DuckDB's own passes are no reads of the step"


def test_errors_name_what_is_wrong(flights: Storage) -> None:
    for sql, kind, says in (
        ("select * from flihgts", NotFound, "did you mean 'flights'"),
        ("select nope from flights", Refused, '"nope" not found'),
        ("selec 1", Refused, "syntax error"),
        ('select * from "flights@v7"', NotFound, "no version 7"),
        ('select * from "flights@dev/x"', NotFound, "branches: dev/try-1"),
        ('select * from "flights@7"', NotFound, "say v for a version: flights@v7"),
        ("select * from flights@v0", Refused, "quote a name with its version"),
        ("select * from raw.planes", NotFound, "quote a name with dots"),
        ("select 1; select 2", Refused, "one query is asked at a time"),
        ("", Refused, "one query is asked at a time"),
        ('select * from "../etc"', Refused, "cannot name a table"),
    ):
        with pytest.raises(kind, match=says):
            ask(flights, sql)


def test_an_error_below_comes_out_as_itself(flights: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise Corrupted("table 'flights' at version 1 cannot be read")

    query = Query(flights)
    relation = query.ask("select * from flights")
    monkeypatch.setattr(Storage, "scan", broken)
    with pytest.raises(Corrupted, match="table 'flights'"), query.told():
        relation.fetchall()


def test_a_closed_query_sees_tables_and_nothing_else(flights: Storage, tmp_path: Any) -> None:
    for sql in (
        "select * from read_csv('/etc/passwd')",
        f"copy (select 1) to '{tmp_path}/x.csv'",
        "select * from '/etc/passwd'",
        "set enable_external_access = true",
        "install httpfs",
    ):
        with pytest.raises(Refused):
            Query(flights, is_closed=True).ask(sql)
    assert Query(flights, is_closed=True).ask("select min(n) from flights").fetchall() == [(0,)]


def test_the_library_asks_with_a_connection_of_ones_own(
    flights: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Services:
        storage = flights

    monkeypatch.setattr(context, "_opener", Services)
    assert ff.query("select count(*) as n from flights").to_arrow_table().to_pylist() == [{"n": 105}]
    own = duckdb.connect()
    own.register("wanted", pa.table({"n": [3, 103, 7000]}))
    relation = ff.query("select n from flights semi join wanted using (n) order by n", connection=own)
    assert relation.fetchall() == [(3,), (103,)]
    own.execute("create table mine (n bigint)")
    done = ff.query("insert into mine select n from flights", connection=own)
    assert done.fetchall() == [(105,)]
    assert own.execute("select count(*) from mine").fetchall() == [(105,)], "once, whatever was tried before"
    assert ff.table("flights@tag:first").read().num_rows == 100
    assert repr(ff.table("flights@dev/try-1@v0")) == "<Table flights@dev/try-1 version=0>"


@pytest.mark.parametrize(
    "text", ["flights@", "@v3", "flights@dev@", "flights@dev@x", "flights@2013-06-01", "flights@dev/@v3"]
)
def test_a_name_that_names_no_version_is_refused(text: str) -> None:
    with pytest.raises(Refused):
        table_pin(text)


SCHEMA = pa.schema([
    ("n", pa.int16()), ("word", pa.string()), ("day", pa.date32()), ("at", pa.timestamp("us", "UTC")),
    ("yes", pa.bool_()), ("x", pa.float64()), ("a b", pa.int64()),
])  # fmt: skip
VALUES: dict[str, list[Any]] = {
    "n": [-3, 0, 7], "word": ["", 'it"s', "a) and (b", "\\", "ü\n", "null"], "yes": [True, False],
    "x": [0.5, -1.0], "day": ["1969-12-31", "2013-01-01"], "a b": [1, 2],
    "at": ["1969-12-31T23:59:59.999999Z", "2013-01-01T00:00:00Z"],
}  # fmt: skip
comparison = st.sampled_from(sorted(VALUES)).flatmap(
    lambda column: st.tuples(
        st.just(column), st.sampled_from(["==", "!=", "<", ">="]), st.sampled_from(VALUES[column])
    )
)
condition = st.one_of(comparison, st.tuples(st.sampled_from(sorted(VALUES)), st.just("!="), st.none()))
expression = st.recursive(
    condition.map(lambda each: schemas.expression("t", [each], SCHEMA)),
    lambda inner: st.tuples(st.sampled_from(["and", "or", "not"]), inner, inner).map(
        lambda made: (
            made[1] & made[2] if made[0] == "and" else made[1] | made[2] if made[0] == "or" else ~made[1]
        )
    ),
    max_leaves=6,
)


def _rows() -> pa.Table:
    """Rows of all values, nulls among them."""
    columns = []
    for offset, field in enumerate(SCHEMA):
        given = [schemas.scalar("t", field, value).as_py() for value in VALUES[field.name]]
        columns.append(
            pa.array(
                [None if (n + offset) % 4 == 0 else given[n % len(given)] for n in range(48)], field.type
            )
        )
    return pa.Table.from_arrays(columns, schema=SCHEMA)


ROWS = _rows().append_column("row", pa.array(range(48)))


@pytest.mark.property
@given(expression)
def test_what_the_store_is_told_never_takes_a_row_away(asked: pc.Expression) -> None:
    told = conditions_in(asked, SCHEMA)
    kept = ROWS if not told else ROWS.filter(schemas.expression("t", told, SCHEMA))
    assert kept.filter(asked).equals(ROWS.filter(asked))
    assert {name for name in SCHEMA.names if name in str(asked)} <= set(fields_in(asked, SCHEMA))


@pytest.mark.property
@given(st.lists(condition, min_size=1, max_size=4))
def test_conditions_that_hold_together_are_all_told(conditions: list[Condition]) -> None:
    asked = schemas.expression("t", conditions, SCHEMA)
    assert asked is not None
    told = {(column, operator) for column, operator, _ in conditions_in(asked, SCHEMA)}
    wanted = {(c, o) for c, o, value in conditions if c != "a b" and (c != "x" or value is None)}
    assert told == wanted, "floats and names that are no plain words are left to the engine"
