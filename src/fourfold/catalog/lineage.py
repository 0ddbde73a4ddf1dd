"""Lineage as rows: edges are recorded in the caller's unit of work, and walked level by level."""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa

from fourfold.catalog import rows
from fourfold.catalog.tables import edge as edge_table
from fourfold.catalog.tables import node
from fourfold.core.context import Ref
from fourfold.core.lineage import Direction, Edge, LineageGraph
from fourfold.core.times import Instant

NOBODY = Ref("", "", "")
"""Stands in the table for an edge that names no actor."""


def record(connection: sa.Connection, edges: Iterable[Edge]) -> None:
    """Record edges; one recorded before counts once and keeps its first time."""
    wanted = sorted(set(edges), key=lambda e: (e.source, e.target, e.by or NOBODY))
    numbers = ids(connection, {ref for e in wanted for ref in (e.source, e.target, e.by or NOBODY)})
    rows.insert_new(
        connection,
        edge_table,
        [
            {
                "source_id": numbers[e.source],
                "target_id": numbers[e.target],
                "by_id": numbers[e.by or NOBODY],
                "at_us": e.at,
            }
            for e in wanted
        ],
    )


def walk(
    connection: sa.Connection, start: Ref, direction: Direction, *, depth: int, limit: int
) -> LineageGraph:
    """Everything at most `depth` edges from `start`, at most `limit` things, nearest first.

    The walk goes level by level with one query each, so a bound cuts off what is farthest. A thing that
    no edge names has an answer too: itself alone.
    """
    seen: dict[Ref, None] = {start: None}
    edges: set[Edge] = set()
    frontier = [start]
    is_complete = True
    for _ in range(depth):
        nearby = _edges_at(connection, frontier, direction, at_most=20 * limit)
        is_complete = is_complete and len(nearby) < 20 * limit
        frontier = []
        for edge in nearby:
            other = edge.source if direction is Direction.upstream else edge.target
            if other not in seen:
                if len(seen) == limit:
                    is_complete = False
                    continue
                seen[other] = None
                frontier.append(other)
            edges.add(edge)
        if not frontier:
            break
    else:
        is_complete = is_complete and not _edges_at(connection, frontier, direction, at_most=1)
    by_ends = sorted(edges, key=lambda e: (e.source, e.target, e.by or NOBODY))
    return LineageGraph(start, direction, tuple(seen), tuple(by_ends), is_complete)


def onward(
    connection: sa.Connection, starts: Iterable[Ref], *, depth: int, limit: int
) -> tuple[dict[Ref, Ref], bool]:
    """What was made from any of these, at most so many things, nearest first: each with the start that it
    leads back to. The second answer is false where there is more."""
    seen = {start: start for start in sorted(set(starts))}
    frontier, first = list(seen), len(seen)
    for _ in range(depth):
        if not frontier:
            return dict(list(seen.items())[first:]), True
        nearby = _edges_at(connection, frontier, Direction.downstream, at_most=20 * limit)
        frontier = []
        for edge in nearby:
            if edge.target not in seen:
                if len(seen) - first == limit:
                    return dict(list(seen.items())[first:]), False
                seen[edge.target] = seen[edge.source]
                frontier.append(edge.target)
        if len(nearby) == 20 * limit:
            return dict(list(seen.items())[first:]), False
    return dict(list(seen.items())[first:]), not frontier


PASSING = ("table", "insert", "blob", "step", "flow_run")
"""Kinds of things that only hand on: what they were made from is not cited by them."""


def cited(connection: sa.Connection, kind: str, name: str) -> dict[str, Ref]:
    """Versions of a thing that something which lasts was made from (a run, a model version, a training set),
    itself or by the step that read them; each with one such thing."""
    source, step, target = node.alias("source"), node.alias("step"), node.alias("target")
    onward = edge_table.alias("onward")
    here = (source.c.kind == kind) & (source.c.name == name)
    found = sa.select(source.c.version, target.c.kind, target.c.name, target.c.version)
    itself = (
        found.select_from(edge_table)
        .join(source, edge_table.c.source_id == source.c.id)
        .join(target, edge_table.c.target_id == target.c.id)
    )
    by_step = (
        found.select_from(edge_table)
        .join(source, edge_table.c.source_id == source.c.id)
        .join(step, (edge_table.c.target_id == step.c.id) & (step.c.kind == "step"))
        .join(onward, onward.c.source_id == step.c.id)
        .join(target, onward.c.target_id == target.c.id)
    )
    query = sa.union(*(each.where(here, target.c.kind.not_in(PASSING)) for each in (itself, by_step)))
    rows_found = sorted(tuple(row) for row in connection.execute(query))
    return {row[0]: Ref(*row[1:]) for row in reversed(rows_found)}


def _edges_at(
    connection: sa.Connection, refs: list[Ref], direction: Direction, *, at_most: int
) -> list[Edge]:
    """Edges that lead on from these things, in a fixed order."""
    source, target, by = node.alias("source"), node.alias("target"), node.alias("by_whom")
    here = target if direction is Direction.upstream else source
    query = (
        sa.select(
            *(end.c[column] for end in (source, target, by) for column in ("kind", "name", "version")),
            edge_table.c.at_us,
        )
        .join(source, edge_table.c.source_id == source.c.id)
        .join(target, edge_table.c.target_id == target.c.id)
        .join(by, edge_table.c.by_id == by.c.id)
        .order_by(edge_table.c.target_id, edge_table.c.source_id, edge_table.c.by_id)
    )
    found: list[Edge] = []
    for chunk in rows.chunks(refs):
        wanted = is_one_of(here, chunk)
        for row in connection.execute(query.where(wanted).limit(at_most - len(found))):
            who = Ref(*row[6:9])
            found.append(
                Edge(Ref(*row[0:3]), Ref(*row[3:6]), None if who == NOBODY else who, Instant(row[9]))
            )
        if len(found) >= at_most:
            break
    return found


def ids(connection: sa.Connection, refs: set[Ref]) -> dict[Ref, int]:
    """The number of each thing; things not met before get one."""
    known = _known(connection, refs)
    fresh = sorted(refs - known.keys())  # sorted, so that two writers cannot wait for each other
    if not fresh:
        return known
    rows.insert_new(connection, node, [{"kind": r.kind, "name": r.name, "version": r.version} for r in fresh])
    return known | _known(connection, set(fresh))


def _known(connection: sa.Connection, refs: set[Ref]) -> dict[Ref, int]:
    found: dict[Ref, int] = {}
    for chunk in rows.chunks(sorted(refs)):
        for row in connection.execute(sa.select(node).where(is_one_of(node, chunk))):
            found[Ref(row.kind, row.name, row.version)] = row.id
    return found


def is_one_of(table: sa.FromClause, refs: list[Ref]) -> sa.ColumnElement[bool]:
    key = sa.tuple_(table.c.kind, table.c.name, table.c.version)
    return key.in_([(r.kind, r.name, r.version) for r in refs])
