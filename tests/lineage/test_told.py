"""Column lineage in words: what `fourfold lineage --columns` prints."""

from __future__ import annotations

from fourfold.cli.lineage import column_lines
from fourfold.core.context import Ref
from fourfold.core.lineage import ColumnEdge, ColumnGraph, Direction, How, MadeByQuery


def test_each_version_is_told_with_what_acts_on_its_columns() -> None:
    raw, clean, daily = (Ref("table", name, "1") for name in ("raw", "clean", "daily"))
    edges = (
        ColumnEdge(raw, "delay", clean, "late", How.transformation),
        ColumnEdge(raw, "tail", clean, "tail", How.transformation, is_masked=True),
        ColumnEdge(raw, "year", clean, "", How.filter),
        ColumnEdge(clean, "late", daily, "share", How.aggregation),
        ColumnEdge(clean, "id", daily, "share", How.window),
        ColumnEdge(Ref("table", "odd", "4"), "", daily, "", How.unknown),
    )
    queries = (MadeByQuery(clean, ""), MadeByQuery(daily, "", unknown="PIVOT is not followed"))
    graph = ColumnGraph(daily, "", Direction.upstream, edges, queries, True)
    assert column_lines(graph) == [
        "table:daily@1   not followed: PIVOT is not followed",
        "  share  aggregation  table:clean@1#late",
        "         window       table:clean@1#id",
        "  *      unknown      table:odd@4",
        "table:clean@1",
        "  late  transformation           table:raw@1#delay",
        "  tail  transformation (masked)  table:raw@1#tail",
        "  *     filter                   table:raw@1#year",
    ]
