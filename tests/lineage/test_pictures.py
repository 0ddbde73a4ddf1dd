"""Pictures of lineage: sound XML without scripts, whatever things are called, bounded and always the same."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourfold.catalog import picture
from fourfold.core.context import Ref
from fourfold.core.lineage import (
    ColumnEdge,
    ColumnGraph,
    Direction,
    Edge,
    How,
    LineageGraph,
    MadeByQuery,
)

SVG = "{http://www.w3.org/2000/svg}"


def graph_of(pairs: list[tuple[Ref, Ref]], *, is_complete: bool = True) -> LineageGraph:
    nodes = tuple(dict.fromkeys(ref for pair in pairs for ref in pair))
    return LineageGraph(
        nodes[-1], Direction.upstream, nodes, tuple(Edge(a, b) for a, b in pairs), is_complete
    )


def texts(drawn: str) -> list[str]:
    return ["".join(each.itertext()) for each in ElementTree.fromstring(drawn).iter(f"{SVG}text")]


def test_every_thing_and_every_edge_is_drawn() -> None:
    raw, step, out = (
        Ref("table", "raw.flights", "3"),
        Ref("step", "run_1/build#0", "1"),
        Ref("table", "out", "0"),
    )
    drawn = picture.of_things(graph_of([(raw, step), (step, out)], is_complete=False))
    assert {"raw.flights", "table · 3", "build#0", "out", "table · 0"} <= set(texts(drawn))
    assert any("ask for more depth" in text for text in texts(drawn))
    lines = [e for e in ElementTree.fromstring(drawn).iter(f"{SVG}path") if "marker-end" in e.attrib]
    assert len(lines) == 2


@pytest.mark.property
@given(kind=st.text(max_size=12), name=st.text(max_size=300), version=st.text(max_size=80))
def test_any_name_makes_sound_xml_that_runs_nothing(kind: str, name: str, version: str) -> None:
    one, other = Ref("table", "t", "1"), Ref(kind, name, version)
    drawn = picture.of_things(graph_of([(one, other)]))
    found = {each.tag.removeprefix(SVG) for each in ElementTree.fromstring(drawn.encode()).iter()}
    assert found <= {"svg", "title", "style", "defs", "marker", "path", "rect", "g", "text", "line"}
    edges = (ColumnEdge(one, name, other, version, How.identity, is_masked=True),)
    columns = ColumnGraph(other, "", Direction.upstream, edges, (), True)
    ElementTree.fromstring(picture.of_columns(columns).encode())


def test_a_name_cannot_leave_its_text() -> None:
    evil = '<script>alert(1)</script>"><a href="javascript:x">&'
    drawn = picture.of_things(graph_of([(Ref("table", "t", "1"), Ref("model", evil, "1"))]))
    assert "<script" not in drawn
    assert "<a " not in drawn
    assert not re.search(r"href|url\((?!#)|@import|on\w+=", re.sub(r"<(title|text)[^>]*>.*?</\1>", "", drawn))


def test_a_long_name_is_cut_to_its_box_and_whole_in_its_title() -> None:
    name = "a_very_long_name_" * 10
    drawn = picture.of_things(graph_of([(Ref("table", "t", "1"), Ref("table", name, "2"))]))
    assert any(text.endswith("…") for text in texts(drawn))
    assert f"table:{name}@2" in drawn


def test_what_is_too_much_for_a_picture_is_said_to_be_left_out() -> None:
    out = Ref("table", "out", "1")
    nodes = (out, *(Ref("table", f"t{i}", "1") for i in range(1000)))
    graph = LineageGraph(out, Direction.upstream, nodes, tuple(Edge(n, out) for n in nodes[1:]), True)
    drawn = picture.of_things(graph)
    assert f"{1001 - picture.MOST_BOXES} more not drawn" in drawn
    assert len(texts(drawn)) < 3 * picture.MOST_BOXES
    assert drawn == picture.of_things(graph)


def test_columns_are_drawn_with_how_they_act() -> None:
    source, target = Ref("table", "flights", "3"), Ref("table", "out", "1")
    edges = (
        ColumnEdge(source, "delay", target, "late", How.transformation),
        ColumnEdge(source, "tail", target, "tail", How.transformation, is_masked=True),
        ColumnEdge(source, "year", target, "", How.filter),
        ColumnEdge(Ref("table", "x", "1"), "", target, "", How.unknown),
    )
    made = MadeByQuery(target, "", unknown="PIVOT is not followed")
    drawn = picture.of_columns(ColumnGraph(target, "", Direction.upstream, edges, (made,), True))
    assert {"delay", "late", "tail", "year", "computed from it", "decides rows or order"} <= set(texts(drawn))
    assert "table:flights@3#year → all rows of table:out@1: filter" in drawn
    assert "PIVOT is not followed" in drawn
    assert "only a hash or a count" in drawn
