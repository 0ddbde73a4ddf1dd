"""Lineage: which things, at which versions, went into which; and which columns into which."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from fourfold.core.context import Ref
from fourfold.core.times import Instant


class Direction(StrEnum):
    """Which way to walk."""

    upstream = "upstream"
    """What it was made from."""
    downstream = "downstream"
    """What was made from it."""


@dataclass(frozen=True, slots=True)
class Edge:
    """`target` was made from `source`; `by` is the step (or other actor) that did it."""

    source: Ref
    target: Ref
    by: Ref | None = None
    at: Instant = Instant(0)


@dataclass(frozen=True, slots=True)
class LineageGraph:
    """What a walk found: every node once (the start included), every edge between them."""

    start: Ref
    direction: Direction
    nodes: tuple[Ref, ...]
    edges: tuple[Edge, ...]
    is_complete: bool
    """False when the walk met its bound on depth or on nodes, and there is more beyond."""


class How(StrEnum):
    """How an input column acts on an output: in the words of OpenLineage's column lineage."""

    identity = "identity"
    """The value itself."""
    transformation = "transformation"
    """Computed from the value in the same row."""
    aggregation = "aggregation"
    """Computed from the values of many rows."""
    joins = "join"
    """Decides which rows meet."""
    group_by = "group_by"
    """Decides which rows are one."""
    filter = "filter"
    """Decides which rows are there."""
    sort = "sort"
    """Decides the order, and with a limit the rows."""
    window = "window"
    """Decides which rows a window function sees."""
    conditional = "conditional"
    """Decides which of several values is taken."""
    unknown = "unknown"
    """The query could not be followed: any column of the input may act on any of the output."""

    @property
    def is_direct(self) -> bool:
        """Whether the output holds something of the value, rather than being steered by it."""
        return self in (How.identity, How.transformation, How.aggregation)


@dataclass(frozen=True, slots=True, order=True)
class Influence:
    """A column of an input, and how it acts."""

    input: str
    """The input's name as the query says it."""
    column: str
    how: How
    is_masked: bool = False
    """Only a hash or a count of the value gets through."""


@dataclass(frozen=True, slots=True)
class OutputColumn:
    """One column of a result, and all that acts on it besides what acts on every row."""

    name: str
    influences: tuple[Influence, ...] = ()


@dataclass(frozen=True, slots=True)
class QueryColumns:
    """Where a query's columns come from. A column that is named nowhere cannot change the result."""

    outputs: tuple[OutputColumn, ...]
    rows: tuple[Influence, ...] = ()
    """What decides which rows there are, and so acts on every column."""


@dataclass(frozen=True, slots=True)
class UnknownColumns:
    """The columns of a query could not be followed; nothing is claimed about them."""

    reason: str


@dataclass(frozen=True, slots=True, order=True)
class ColumnEdge:
    """A column of one version acted on a column of another.

    `column` is empty where it acted on all rows; both are empty where the query could not be followed.
    """

    source: Ref
    source_column: str
    target: Ref
    column: str
    how: How
    is_masked: bool = False


@dataclass(frozen=True, slots=True)
class MadeByQuery:
    """A version that a query made: what is kept of it."""

    target: Ref
    sql: str
    """The query without its literals: they may be somebody's name."""
    edges: tuple[ColumnEdge, ...] = ()
    unknown: str = ""
    """Why its columns could not be followed, where they could not."""
    by: Ref | None = None
    """The step that wrote it, if one did."""


@dataclass(frozen=True, slots=True)
class ColumnGraph:
    """What a walk over columns found."""

    start: Ref
    column: str
    """The column it began at; empty for all."""
    direction: Direction
    edges: tuple[ColumnEdge, ...]
    queries: tuple[MadeByQuery, ...]
    """The queries that made these versions, without their edges."""
    is_complete: bool
    """False when the walk met its bound on depth or on edges, and there is more beyond."""
