"""Column lineage as rows: what a query let act on what, recorded with the version that it made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import sqlalchemy as sa

from fourfold.catalog import lineage, rows
from fourfold.catalog.tables import column_edge, node
from fourfold.catalog.tables import query as query_table
from fourfold.core.context import Ref
from fourfold.core.lineage import ColumnEdge, ColumnGraph, Direction, Edge, How, MadeByQuery
from fourfold.core.times import Instant

MOST_EDGES = 50_000
"""Of one version; a query with more is kept as one that could not be followed."""
MOST_SQL = 20_000
"""Characters kept of a query."""


def record(connection: sa.Connection, at: Instant, made: MadeByQuery) -> None:
    """Record what made a version; one recorded before is left alone.

    Outside a step nobody else says which tables went into which, so that is recorded too.
    """
    made = _bounded(made)
    inputs = sorted({edge.source for edge in made.edges})
    if made.by is None:
        lineage.record(connection, [Edge(source, made.target, None, at) for source in inputs])
    ids = lineage.ids(connection, {made.target, *inputs})
    kept = {
        "target_id": ids[made.target],
        "sql": made.sql[:MOST_SQL],
        "unknown": made.unknown[:1000],
        "at_us": at,
    }
    if not rows.insert_new(connection, query_table, [kept]):
        return
    for chunk in rows.chunks(sorted(set(made.edges))):
        rows.insert_new(
            connection,
            column_edge,
            [
                {
                    "target_id": ids[edge.target],
                    "column": edge.column,
                    "source_id": ids[edge.source],
                    "source_column": edge.source_column,
                    "how": edge.how.value,
                    "is_masked": int(edge.is_masked),
                }
                for edge in chunk
            ],
        )


def walk(
    connection: sa.Connection, start: Ref, direction: Direction, *, column: str, depth: int, limit: int
) -> ColumnGraph:
    """Everything that acts on a version's columns (or one of them), or that they act on, level by level."""
    upstream = direction is Direction.upstream
    reached: dict[Ref, set[str]] = {start: {column}}
    frontier: dict[Ref, set[str]] = {start: {column}}
    found: dict[ColumnEdge, None] = {}
    is_complete = True
    for _ in range(depth):
        if not frontier:
            break
        nearby = _edges_at(connection, sorted(frontier), direction, at_most=4 * limit)
        is_complete = is_complete and len(nearby) < 4 * limit
        here, frontier = frontier, {}
        for edge in nearby:
            near, far = (edge.target, edge.source) if upstream else (edge.source, edge.target)
            at, beyond = (edge.column, edge.source_column) if upstream else (edge.source_column, edge.column)
            if not _meets(here[near], at):
                continue
            if len(found) == limit:
                is_complete = False
                break
            found[edge] = None
            if not _meets(reached.get(far, set()), beyond, exactly=True):
                reached.setdefault(far, set()).add(beyond)
                frontier.setdefault(far, set()).add(beyond)
    else:
        is_complete = is_complete and not (
            frontier and _edges_at(connection, sorted(frontier), direction, at_most=1)
        )
    edges = tuple(sorted(found))
    made = _queries(connection, {edge.target for edge in edges} | {start})
    return ColumnGraph(start, column, direction, edges, made, is_complete)


def of(connection: sa.Connection, targets: Iterable[Ref]) -> Mapping[Ref, MadeByQuery]:
    """The queries that made these versions, with their edges."""
    wanted = sorted(set(targets))
    edges: dict[Ref, list[ColumnEdge]] = {}
    for edge in _edges_at(connection, wanted, Direction.upstream, at_most=2**31):
        edges.setdefault(edge.target, []).append(edge)
    return {
        made.target: replace(made, edges=tuple(edges.get(made.target, ())))
        for made in _queries(connection, wanted)
    }


def _meets(columns: set[str], column: str, *, exactly: bool = False) -> bool:
    """Whether a column is among those reached; the empty name stands for all of them."""
    return column in columns or "" in columns or (not column and not exactly)


def _bounded(made: MadeByQuery) -> MadeByQuery:
    if len(made.edges) <= MOST_EDGES:
        return made
    sources = sorted({edge.source for edge in made.edges})
    unknown = tuple(ColumnEdge(source, "", made.target, "", How.unknown) for source in sources)
    return replace(made, edges=unknown, unknown=f"it has more than {MOST_EDGES:,} column edges")


def _edges_at(
    connection: sa.Connection, refs: list[Ref], direction: Direction, *, at_most: int
) -> list[ColumnEdge]:
    source, target = node.alias("source"), node.alias("target")
    here = target if direction is Direction.upstream else source
    query = (
        sa.select(
            *(end.c[part] for end in (source, target) for part in ("kind", "name", "version")),
            *(column_edge.c[part] for part in ("source_column", "column", "how", "is_masked")),
        )
        .join(source, column_edge.c.source_id == source.c.id)
        .join(target, column_edge.c.target_id == target.c.id)
        .order_by(
            column_edge.c.target_id,
            column_edge.c.source_id,
            column_edge.c.column,
            column_edge.c.source_column,
        )
    )
    found: list[ColumnEdge] = []
    for chunk in rows.chunks(refs):
        wanted = query.where(lineage.is_one_of(here, chunk)).limit(at_most - len(found))
        found += [
            ColumnEdge(Ref(*row[0:3]), row[6], Ref(*row[3:6]), row[7], How(row[8]), bool(row[9]))
            for row in connection.execute(wanted)
        ]
        if len(found) >= at_most:
            break
    return found


def _queries(connection: sa.Connection, targets: Iterable[Ref]) -> tuple[MadeByQuery, ...]:
    query = sa.select(
        node.c.kind, node.c.name, node.c.version, query_table.c.sql, query_table.c.unknown
    ).join(query_table, query_table.c.target_id == node.c.id)
    found = [
        MadeByQuery(Ref(*row[0:3]), row[3], unknown=row[4])
        for chunk in rows.chunks(sorted(set(targets)))
        for row in connection.execute(query.where(lineage.is_one_of(node, chunk)))
    ]
    return tuple(sorted(found, key=lambda made: made.target))
