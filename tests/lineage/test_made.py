"""What is written from a DuckDB relation is known to come from the columns that it read."""

from __future__ import annotations

import gc
from types import SimpleNamespace
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from tests.storage.conftest import Attempt

from fourfold.catalog.database import Catalog
from fourfold.catalog.service import CatalogService
from fourfold.core import context
from fourfold.core.context import Ref
from fourfold.core.errors import Refused
from fourfold.core.lineage import ColumnGraph, Direction
from fourfold.foundation.storage.api import Table, query
from fourfold.foundation.storage.columns import made as made_of
from fourfold.foundation.storage.columns.made import Query, query_of, remember
from fourfold.foundation.storage.service import Storage
from fourfold.testing.clock import MovableClock

pytestmark = pytest.mark.slow

ROWS = pa.table({"origin": ["EWR", "JFK", "EWR"], "delay": [31, 5, 60], "Tail No": ["a", "b", "c"]})


@pytest.fixture
def catalog_service(sqlite_catalog: Catalog, clock: MovableClock) -> CatalogService:
    return CatalogService(sqlite_catalog, clock)


@pytest.fixture
def flights(storage: Storage) -> Table:
    made = Table("raw.flights", storage=storage)
    made.append(ROWS)
    return made


def told(graph: ColumnGraph) -> set[str]:
    return {
        f"{e.source}#{e.source_column} {e.how}{'#' if e.is_masked else ''} {e.target.name}.{e.column or '*'}"
        for e in graph.edges
    }


def test_a_relation_carries_its_columns_to_the_table_that_it_is_written_to(
    flights: Table, storage: Storage, catalog_service: CatalogService
) -> None:
    late = flights.duckdb().filter("delay > 30").aggregate("origin, count(*) as n, max(delay) as worst")
    version = Table("late", storage=storage).overwrite(late)
    found = catalog_service.column_lineage("table", "late", version=str(version.version))
    assert told(found) == {
        "table:raw.flights@0#origin identity late.origin",
        "table:raw.flights@0#delay aggregation late.worst",
        "table:raw.flights@0#delay filter late.*",
        "table:raw.flights@0#origin group_by late.*",
    }
    (made,) = found.queries
    assert "30" not in made.sql
    assert "raw.flights@0" in made.sql
    # no step was there to say it, so the tables are connected too
    assert Ref("table", "raw.flights", "0") in catalog_service.lineage("table", "late", version="0").nodes


def test_sql_over_a_connection_names_tables_by_version(
    flights: Table, storage: Storage, catalog_service: CatalogService
) -> None:
    connection = duckdb.connect()
    flights.duckdb(connection=connection)
    flights.append(ROWS)
    flights.duckdb(connection=connection)
    both = connection.sql(
        'select a.origin, b."Tail No" as tail from "raw.flights@0" a join "raw.flights@1" b using (delay)'
    )
    Table("both", storage=storage).append(both)
    assert told(catalog_service.column_lineage("table", "both", version="0")) == {
        "table:raw.flights@0#origin identity both.origin",
        "table:raw.flights@1#Tail No identity both.tail",
        "table:raw.flights@0#delay join both.*",
        "table:raw.flights@1#delay join both.*",
    }


def test_a_choice_of_columns_is_followed_and_two_choices_do_not_mix(
    flights: Table, storage: Storage, catalog_service: CatalogService
) -> None:
    connection = duckdb.connect()
    one = flights.duckdb(columns=["delay"], connection=connection)
    other = flights.duckdb(columns=["origin"], connection=connection)
    assert one.columns == ["delay"]
    assert one.fetchall() == [(31,), (5,), (60,)]
    Table("one", storage=storage).append(one.project("delay * 2 as twice"))
    Table("other", storage=storage).append(other)
    assert told(catalog_service.column_lineage("table", "one", version="0")) == {
        "table:raw.flights@0#delay transformation one.twice"
    }
    assert told(catalog_service.column_lineage("table", "other", version="0")) == {
        "table:raw.flights@0#origin identity other.origin"
    }


def test_a_relation_lives_without_its_connection_in_hand(flights: Table) -> None:
    relation = flights.duckdb()
    gc.collect()
    assert relation.aggregate("sum(delay)").fetchall() == [(96,)]


def test_some_rows_and_columns_are_followed_and_their_conditions_too(
    flights: Table, storage: Storage, catalog_service: CatalogService
) -> None:
    some = flights.duckdb(columns=["origin"], where=[("delay", ">", 30), ("Tail No", "in", ["a", "c"])])
    assert some.order("origin").fetchall() == [("EWR",), ("EWR",)]
    Table("some", storage=storage).append(some.aggregate("origin, count(*) as n"))
    found = catalog_service.column_lineage("table", "some", version="0")
    assert told(found) == {
        "table:raw.flights@0#origin identity some.origin",
        "table:raw.flights@0#origin group_by some.*",
        "table:raw.flights@0#delay filter some.*",
        "table:raw.flights@0#Tail No filter some.*",
    }
    (made,) = found.queries
    assert '"delay" > ? AND "Tail No" IN (?)' in made.sql


def test_nothing_is_claimed_of_what_reads_no_table(storage: Storage, catalog_service: CatalogService) -> None:
    Table("own", storage=storage).append(duckdb.sql("select 1 as x"))
    found = catalog_service.column_lineage("table", "own", version="0")
    assert (found.edges, found.queries) == ((), ())


def test_a_table_of_ones_own_that_is_called_as_a_version_is_not_taken_for_one(
    flights: Table, storage: Storage, catalog_service: CatalogService
) -> None:
    connection = duckdb.connect()
    connection.execute('create table "mine@3" as select 1 as x')
    written = Table("out", storage=storage).append(connection.sql('from "mine@3"'))
    flights.duckdb(connection=connection)
    both = Table("out", storage=storage).append(connection.sql('select x from "mine@3", "raw.flights@0"'))
    assert (written.version, both.version) == (0, 1)
    assert catalog_service.column_lineage("table", "out", version="0").edges == ()
    found = catalog_service.column_lineage("table", "out", version="1")
    assert told(found) == {"table:raw.flights@0# unknown out.*"}


def test_a_query_that_cannot_be_followed_is_kept_as_unknown(
    flights: Table, storage: Storage, catalog_service: CatalogService
) -> None:
    connection = duckdb.connect()
    flights.duckdb(connection=connection)
    wide = connection.sql("select columns('o.*') from \"raw.flights@0\"")
    Table("wide", storage=storage).append(wide)
    found = catalog_service.column_lineage(
        "table", "raw.flights", version="0", column="origin", direction=Direction.downstream
    )
    assert told(found) == {"table:raw.flights@0# unknown wide.*"}
    assert "COLUMNS(…) is not followed" in found.queries[0].unknown


def test_within_a_step_the_loop_says_which_tables_and_the_query_which_columns(
    flights: Table, storage: Storage, catalog_service: CatalogService
) -> None:
    attempt = Attempt()
    with context.within(attempt):
        Table("out", storage=storage).append(flights.duckdb().project("origin"))
    assert Ref("table", "raw.flights", "0") in attempt.reads
    assert catalog_service.lineage("table", "out", version="0").edges == ()
    assert len(catalog_service.column_lineage("table", "out", version="0").edges) == 1


def test_renamed_columns_are_followed_under_the_names_that_they_have(
    flights: Table, storage: Storage, catalog_service: CatalogService
) -> None:
    flights.evolve(rename={"delay": "late_by"})
    Table("out", storage=storage).append(flights.duckdb().project("late_by + 1 as x"))
    assert told(catalog_service.column_lineage("table", "out", version="0")) == {
        "table:raw.flights@1#late_by transformation out.x"
    }


def test_a_result_is_remembered_only_as_long_as_it_is_that_very_object() -> None:
    asked = Query("select 1", {}, ("a",))
    result = pa.table({"a": [1]})
    remember(result, asked)
    assert query_of(result, lambda _name, _version: ()) is asked
    changed = result.append_column("b", pa.array([2]))
    assert query_of(changed, lambda _name, _version: ()) is None
    del result
    gc.collect()
    assert query_of(pa.table({"a": [1]}), lambda _name, _version: ()) is None


def test_what_sql_over_tables_gives_is_followed_by_the_names_that_it_uses(
    flights: Table, storage: Storage, catalog_service: CatalogService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context, "services", lambda: SimpleNamespace(storage=storage))
    flights.append(ROWS)
    asked = query('select a.origin from "raw.flights" a semi join "raw.flights@v0" b using (delay)')
    Table("out", storage=storage).append(asked)
    assert told(catalog_service.column_lineage("table", "out", version="0")) == {
        "table:raw.flights@1#origin identity out.origin",
        "table:raw.flights@1#delay join out.*",
        "table:raw.flights@0#delay join out.*",
    }
    own = duckdb.connect()
    Table("from-elsewhere", storage=storage).append(query('select delay from "raw.flights"', connection=own))
    assert catalog_service.column_lineage("table", "from-elsewhere", version="0").edges == ()


@pytest.fixture
def opened(flights: Table, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """The project that `query` asks: flights at versions 0 and 1, the second with another column."""
    monkeypatch.setattr(context, "services", lambda: SimpleNamespace(storage=storage))
    flights.evolve(add={"gate": "string"})
    flights.tag("report")
    return storage


def test_a_relation_made_of_a_query_is_followed_through_it(
    opened: Storage, catalog_service: CatalogService
) -> None:
    asked = query('select origin, delay * 2 as twice from "raw.flights@v0" where "Tail No" <> \'b\'')
    Table("made", storage=opened).append(asked.filter("twice > 80").aggregate("origin, max(twice) as worst"))
    found = catalog_service.column_lineage("table", "made", version="0")
    assert told(found) == {
        "table:raw.flights@0#origin identity made.origin",
        "table:raw.flights@0#delay aggregation made.worst",
        "table:raw.flights@0#delay filter made.*",
        "table:raw.flights@0#Tail No filter made.*",
        "table:raw.flights@0#origin group_by made.*",
    }
    (kept,) = found.queries
    assert '"raw.flights@v0"' in kept.sql
    assert "query~" not in kept.sql
    assert not {"80", "'b'"} & set(kept.sql.split())


def test_a_relation_keeps_what_a_name_of_its_query_stood_for(
    opened: Storage, catalog_service: CatalogService
) -> None:
    tagged = query('select * from "raw.flights@tag:report"')
    newest = query('select * from "raw.flights"')
    Table("raw.flights", storage=opened).append(ROWS.append_column("gate", pa.array(["B1", "B2", "B3"])))
    now = query('select * from "raw.flights"')
    for version, relation in enumerate((tagged, newest, now)):
        Table("out", storage=opened).append(relation.project("gate"))
        found = catalog_service.column_lineage("table", "out", version=str(version))
        assert told(found) == {f"table:raw.flights@{max(1, version)}#gate identity out.gate"}


def test_a_query_over_a_relation_may_use_its_names_anew(
    opened: Storage, catalog_service: CatalogService
) -> None:
    asked = query('select origin as "Tail No", "Tail No" as origin from "raw.flights"')
    sql = 'with other as (select origin from "raw.flights") select upper(origin) as x from other'
    Table("out", storage=opened).append(asked.query("raw.flights", sql))
    found = catalog_service.column_lineage("table", "out", version="0")
    assert told(found) == {"table:raw.flights@1#Tail No transformation out.x"}
    assert sorted(Table("out", storage=opened).read()["x"].to_pylist()) == ["A", "B", "C"]


def test_a_relation_made_of_what_could_not_be_followed_is_unknown_too(
    opened: Storage, catalog_service: CatalogService
) -> None:
    asked = query("select columns('o.*') from \"raw.flights@v0\"")
    Table("out", storage=opened).append(asked.project("origin"))
    found = catalog_service.column_lineage("table", "out", version="0")
    assert told(found) == {"table:raw.flights@0# unknown out.*"}
    assert "COLUMNS(…) is not followed" in found.queries[0].unknown


def test_nothing_is_kept_of_queries_whose_relations_are_gone(opened: Storage, flights: Table) -> None:
    before = set(made_of._views)
    relations = [query('select origin from "raw.flights"').limit(1), flights.duckdb(columns=["origin"])]
    assert len(set(made_of._views) - before) == 2
    assert [relation.columns for relation in relations] == [["origin"], ["origin"]]
    del relations
    gc.collect()
    assert set(made_of._views) <= before


@pytest.mark.parametrize(
    "sql", ["select delay, delay from t", "describe t", "pivot t on origin using max(delay) order by all"]
)
def test_what_can_be_no_view_is_asked_all_the_same(opened: Storage, sql: str) -> None:
    connection = duckdb.connect()
    connection.register("t", ROWS)
    wanted = connection.sql(sql)
    found = query(sql.replace(" t", ' "raw.flights@v0"'))
    assert found.columns == wanted.columns
    assert found.fetchall() == wanted.fetchall()


def test_rows_of_a_version_that_are_written_as_they_were_read_come_from_it(
    flights: Table, storage: Storage, catalog_service: CatalogService
) -> None:
    flights.tag("first")
    first, out = flights.version(0), Table("out", storage=storage)
    whole = {f"table:raw.flights@0#{c} identity out.{c}" for c in ("origin", "delay", "Tail No")}
    out.append(first)
    out.append(flights.tagged("first").read())
    out.overwrite(first.scan(columns=["origin"], where=[("delay", ">", 30)]))
    with context.within(Attempt()):
        out.overwrite(flights.read(columns=["origin"]))
    out.overwrite(flights.read(columns=["origin"]))  # live and in no step: it may be of no version
    out.overwrite(first.read(columns=["origin"]).slice(1))  # no longer as it was read
    part = {"table:raw.flights@0#origin identity out.origin"}
    for version, edges in enumerate(
        (whole, whole, {*part, "table:raw.flights@0#delay filter out.*"}, part, set(), set())
    ):
        assert told(catalog_service.column_lineage("table", "out", version=str(version))) == edges, version


# What is read, and when


def test_a_table_is_read_when_its_rows_are_asked_for_and_only_what_is_needed(
    flights: Table, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[object, object, object]] = []
    scan = Storage.scan

    def seen(self: Storage, name: str, **given: Any) -> pa.RecordBatchReader:
        asked.append((given["version"], given["columns"], given["where"]))
        return scan(self, name, **given)

    monkeypatch.setattr(Storage, "scan", seen)
    relation = flights.duckdb(where=[("delay", ">", 1)])
    narrow = relation.filter("origin = 'EWR'").aggregate("max(delay)")
    assert asked == []
    flights.append(ROWS.slice(2))
    assert narrow.fetchall() == [(60,)]
    assert asked == [(0, ("delay", "origin"), (("delay", ">", 1), ("origin", "==", "EWR")))]
    assert relation.aggregate("count(*)").fetchall() == [(3,)], "the version that it began with"


def test_what_cannot_be_asked_of_a_table_is_refused_at_once(flights: Table) -> None:
    for wrong, says in (
        ({"columns": ["dealy"]}, "did you mean 'delay'"),
        ({"columns": []}, "no column"),
        ({"where": [("dealy", ">", 1)]}, "did you mean 'delay'"),
        ({"where": [("delay", ">", "much")]}, "cannot be compared"),
    ):
        with pytest.raises(Refused, match=says):
            flights.duckdb(**wrong)


def test_a_step_that_makes_a_relation_has_read_its_version(flights: Table) -> None:
    attempt = Attempt()
    with context.within(attempt):
        relation = flights.duckdb()
    relation.fetchall()
    assert attempt.reads == [Ref("table", "raw.flights", "0")]


def test_a_table_is_written_from_a_relation_over_itself(flights: Table) -> None:
    made = flights.overwrite(flights.duckdb().project("* replace (delay + 1 as delay)"))
    assert (made.version, made.rows) == (1, 3)
    assert sorted(flights.read()["delay"].to_pylist()) == [6, 32, 61]
