"""Column lineage in the catalog: what a query made is kept once, and walked in both directions."""

from __future__ import annotations

import pytest

from fourfold.catalog import columns
from fourfold.catalog.database import Catalog
from fourfold.catalog.service import CatalogService
from fourfold.core.context import Ref
from fourfold.core.errors import Refused
from fourfold.core.lineage import ColumnEdge, ColumnGraph, Direction, How, MadeByQuery
from fourfold.testing.clock import MovableClock

RAW, WEATHER, CLEAN, DAILY = (Ref("table", name, "1") for name in ("raw", "weather", "clean", "daily"))


@pytest.fixture
def service(catalog: Catalog, clock: MovableClock) -> CatalogService:
    made = CatalogService(catalog, clock)
    made.record_query(
        MadeByQuery(
            CLEAN,
            "select …",
            (
                ColumnEdge(RAW, "id", CLEAN, "id", How.identity),
                ColumnEdge(RAW, "delay", CLEAN, "late", How.transformation),
                ColumnEdge(WEATHER, "wind", CLEAN, "wind", How.aggregation),
                ColumnEdge(RAW, "year", CLEAN, "", How.filter),
            ),
        )
    )
    made.record_query(
        MadeByQuery(
            DAILY,
            "select …",
            (
                ColumnEdge(CLEAN, "late", DAILY, "share", How.aggregation),
                ColumnEdge(CLEAN, "id", DAILY, "", How.group_by),
            ),
            by=Ref("step", "run_1/daily#0", "1"),
        )
    )
    return made


def arrows(graph: ColumnGraph) -> set[str]:
    return {f"{e.source.name}.{e.source_column}>{e.target.name}.{e.column}" for e in graph.edges}


def test_a_column_is_followed_back_to_all_that_acts_on_it(service: CatalogService) -> None:
    found = service.column_lineage("table", "daily", version="1", column="share")
    # `id` of clean decides daily's rows, and raw's year those of clean; wind acts on nothing of it
    assert arrows(found) == {
        "clean.late>daily.share",
        "clean.id>daily.",
        "raw.delay>clean.late",
        "raw.id>clean.id",
        "raw.year>clean.",
    }
    assert found.is_complete
    assert [made.target for made in found.queries] == [CLEAN, DAILY]


def test_a_column_is_followed_to_all_that_it_acts_on(service: CatalogService) -> None:
    def down(name: str, column: str) -> set[str]:
        return arrows(
            service.column_lineage("table", name, version="1", column=column, direction=Direction.downstream)
        )

    assert down("raw", "delay") == {"raw.delay>clean.late", "clean.late>daily.share"}
    assert down("weather", "wind") == {"weather.wind>clean.wind"}
    assert down("raw", "year") == {"raw.year>clean.", "clean.late>daily.share", "clean.id>daily."}
    assert down("raw", "nothing") == set()


def test_a_walk_is_bounded_and_says_so(service: CatalogService) -> None:
    near = service.column_lineage("table", "daily", version="1", depth=1)
    assert arrows(near) == {"clean.late>daily.share", "clean.id>daily."}
    assert not near.is_complete
    few = service.column_lineage("table", "daily", version="1", limit=2)
    assert len(few.edges) == 2
    assert not few.is_complete
    assert service.column_lineage("table", "daily", version="1", depth=2).is_complete
    with pytest.raises(Refused, match="limit must be from 1 to"):
        service.column_lineage("table", "daily", version="1", limit=0)


def test_a_query_outside_a_step_leaves_lineage_of_its_tables_and_one_in_a_step_leaves_that_to_the_loop(
    service: CatalogService,
) -> None:
    upstream = service.lineage("table", "clean", version="1")
    assert set(upstream.nodes) == {CLEAN, RAW, WEATHER}
    assert set(service.lineage("table", "daily", version="1").nodes) == {DAILY}


def test_what_made_a_version_is_recorded_once(service: CatalogService) -> None:
    service.record_query(MadeByQuery(CLEAN, "other", (ColumnEdge(WEATHER, "x", CLEAN, "y", How.identity),)))
    found = service.column_lineage("table", "clean", version="1")
    assert "weather.x>clean.y" not in arrows(found)
    assert [made.sql for made in found.queries] == ["select …"]


def test_a_query_with_too_many_edges_is_kept_as_one_that_could_not_be_followed(
    catalog: Catalog, clock: MovableClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns, "MOST_EDGES", 3)
    wide = tuple(ColumnEdge(RAW, f"c{i}", CLEAN, f"c{i}", How.identity) for i in range(4))
    service = CatalogService(catalog, clock)
    service.record_query(MadeByQuery(CLEAN, "select *", wide))
    found = service.column_lineage("table", "raw", version="1", column="c2", direction=Direction.downstream)
    assert [(edge.column, edge.how) for edge in found.edges] == [("", How.unknown)]
    assert "more than 3 column edges" in found.queries[0].unknown
