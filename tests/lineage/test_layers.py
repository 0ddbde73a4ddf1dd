"""The layout of layers: boxes never overlap, links run forward, and the same graph is the same picture."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourfold.core.layers import Box, Layout, Link, arrange

GAP = 10.0


def placed(boxes: list[Box], pairs: list[tuple[int, int]]) -> Layout:
    links = [Link(s, t, boxes[s].height / 2, boxes[t].height / 2) for s, t in pairs]
    return arrange(boxes, links, gap_x=40, gap_y=GAP)


graphs = st.integers(1, 14).flatmap(
    lambda count: st.tuples(
        st.lists(
            st.builds(Box, st.floats(10, 80), st.floats(5, 60)),
            min_size=count,
            max_size=count,
        ),
        st.lists(st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)), max_size=30),
    )
)


@pytest.mark.property
@given(graph=graphs)
def test_boxes_never_overlap_and_stay_within_the_picture(
    graph: tuple[list[Box], list[tuple[int, int]]],
) -> None:
    boxes, pairs = graph
    layout = placed(boxes, pairs)
    rows: dict[float, list[tuple[float, float]]] = {}
    for box, corner in zip(boxes, layout.corners, strict=True):
        rows.setdefault(corner.x, []).append((corner.y, corner.y + box.height))
        assert corner.y >= -1e-6
        assert corner.y + box.height <= layout.height + 1e-6
        assert corner.x + box.width <= layout.width + 1e-6
    for row in rows.values():
        for (_, below), (above, _) in pairwise(sorted(row)):
            assert above - below >= GAP - 1e-6
    assert layout == placed(boxes, pairs)


@pytest.mark.property
@given(graph=graphs)
def test_links_run_to_the_right_where_there_is_no_circle(
    graph: tuple[list[Box], list[tuple[int, int]]],
) -> None:
    boxes, pairs = graph
    forward = [(min(pair), max(pair)) for pair in pairs if pair[0] != pair[1]]
    layout = placed(boxes, forward)
    for (source, target), course in zip(forward, layout.courses, strict=True):
        assert layout.corners[source].x + boxes[source].width < layout.corners[target].x
        assert [point.x for point in course] == sorted(point.x for point in course)


def test_a_tree_is_drawn_without_a_crossing_whatever_its_order() -> None:
    names = list(range(15))
    random.Random(7).shuffle(names)
    pairs = [(names[(i - 1) // 2], names[i]) for i in range(1, 15)]
    layout = placed([Box(30, 20)] * 15, sorted(pairs))
    ends = sorted(
        (layout.corners[s].x, layout.corners[s].y, layout.corners[t].x, layout.corners[t].y) for s, t in pairs
    )
    for one in ends:
        for other in ends:
            if one[0] == other[0]:
                assert (one[1] - other[1]) * (one[3] - other[3]) >= 0


def test_a_source_stands_just_before_what_it_goes_into() -> None:
    layout = placed([Box(10, 10)] * 4, [(0, 1), (1, 2), (3, 2)])
    assert layout.corners[3].x == layout.corners[1].x


def test_no_boxes_are_a_picture_too() -> None:
    assert arrange([], [], gap_x=1, gap_y=1) == Layout((), (), 0.0, 0.0)
