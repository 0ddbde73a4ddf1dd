"""Lineage: which things, at which versions, went into which."""

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
