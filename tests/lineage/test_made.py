"""What is written from a DuckDB relation is known to come from the columns that it read."""

from __future__ import annotations

import gc
from types import SimpleNamespace

import duckdb
import pyarrow as pa
import pytest
from tests.storage.conftest import Attempt

from fourfold.catalog.database import Catalog
from fourfold.catalog.service import CatalogService
from fourfold.core import context
from fourfold.core.context import Ref
from fourfold.core.lineage import ColumnGraph, Direction
from fourfold.foundation.storage.api import Table, query
from fourfold.foundation.storage.columns.made import Query, query_of, remember
from fourfold.foundation.storage.service import Storage
from fourfold.testing.clock import MovableClock

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


def test_what_duckdb_did_not_see_is_not_claimed(
    flights: Table, storage: Storage, catalog_service: CatalogService
) -> None:
    Table("few", storage=storage).append(flights.duckdb(where=[("delay", ">", 30)]))
    Table("own", storage=storage).append(duckdb.sql("select 1 as x"))
    for name in ("few", "own"):
        found = catalog_service.column_lineage("table", name, version="0")
        assert (found.edges, found.queries) == ((), ())


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
