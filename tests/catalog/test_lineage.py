"""Lineage: what a walk finds is what a plain walk over the edges finds, bounded, on both databases."""

from __future__ import annotations

import random

import pytest

from fourfold.catalog.database import Catalog
from fourfold.catalog.service import CatalogService
from fourfold.core.context import Ref
from fourfold.core.errors import Refused
from fourfold.core.lineage import Direction, Edge
from fourfold.core.times import Instant
from fourfold.testing.clock import START, MovableClock


@pytest.fixture
def service(catalog: Catalog, clock: MovableClock) -> CatalogService:
    return CatalogService(catalog, clock)


def thing(number: int, version: str = "0") -> Ref:
    return Ref("table", f"t{number}", version)


def reachable(edges: list[Edge], start: Ref, direction: Direction, depth: int) -> set[Ref]:
    """The obvious way: go over all edges, `depth` times."""
    found = {start}
    for _ in range(depth):
        if direction is Direction.upstream:
            found |= {edge.source for edge in edges if edge.target in found}
        else:
            found |= {edge.target for edge in edges if edge.source in found}
    return found


@pytest.mark.parametrize("seed", range(3))
def test_a_walk_finds_what_a_plain_walk_finds(service: CatalogService, seed: int) -> None:
    chance = random.Random(seed)
    edges = [Edge(thing(chance.randrange(20)), thing(chance.randrange(20))) for _ in range(25)]
    service.record_edges(edges)
    for direction in Direction:
        for depth in (1, 2, 30):
            start = thing(chance.randrange(20))
            graph = service.lineage("table", start.name, version="0", direction=direction, depth=depth)
            expected = reachable(edges, start, direction, depth)
            assert set(graph.nodes) == expected
            assert len(graph.nodes) == len(expected)
            ends = {end for edge in graph.edges for end in (edge.source, edge.target)}
            assert ends <= expected
            assert graph.is_complete == (reachable(edges, start, direction, depth + 1) == expected)


def test_an_edge_recorded_twice_counts_once_and_keeps_its_first_time(
    service: CatalogService, clock: MovableClock
) -> None:
    step = Ref("step", "run/train", "1")
    service.record_edges([Edge(thing(1), thing(2), by=step)])
    clock.advance(60)
    service.record_edges([Edge(thing(1), thing(2), by=step), Edge(thing(1), thing(2))])
    graph = service.lineage("table", "t2", version="0")
    assert graph.nodes == (thing(2), thing(1))
    assert [(edge.by, edge.at) for edge in graph.edges] == [(None, START + 60_000_000), (step, START)]


def test_versions_are_things_of_their_own(service: CatalogService) -> None:
    service.record_edges([Edge(thing(1, "0"), thing(2, "7"), at=Instant(5))])
    assert service.lineage("table", "t2", version="8").nodes == (thing(2, "8"),)
    assert service.lineage("table", "t2", version="7").nodes == (thing(2, "7"), thing(1, "0"))
    assert service.lineage("table", "t2", version="7").edges[0].at == 5


def test_a_walk_is_bounded_and_says_so(service: CatalogService) -> None:
    service.record_edges([Edge(thing(number), thing(100)) for number in range(30)])
    graph = service.lineage("table", "t100", version="0", limit=10)
    assert len(graph.nodes) == 10
    assert not graph.is_complete
    assert service.lineage("table", "t100", version="0", limit=31).is_complete
    with pytest.raises(Refused, match="depth must be from 1 to 100, not 0"):
        service.lineage("table", "t100", depth=0)


def test_a_circle_ends(service: CatalogService) -> None:
    service.record_edges([Edge(thing(1), thing(2)), Edge(thing(2), thing(1))])
    graph = service.lineage("table", "t1", version="0", depth=100)
    assert set(graph.nodes) == {thing(1), thing(2)}
    assert graph.is_complete


def test_many_edges_at_once_are_all_there(service: CatalogService) -> None:
    service.record_edges([Edge(thing(number), thing(5000)) for number in range(1500)])
    graph = service.lineage("table", "t5000", version="0", limit=2000)
    assert len(graph.nodes) == 1501
