"""The point-in-time kernel against the slow, obvious reference, row for row."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourfold.core.errors import Refused
from fourfold.core.features import Entity, Function, Kind, Latest, Source, View, Window
from fourfold.mlplatform.features.columns import KeyCodes, normal_table
from fourfold.mlplatform.features.offline import Asked, Known, Lens, unique_events

from . import reference

pytestmark = pytest.mark.property

SOURCE = Source("s", "s", "time", ("id",), "known")
KINDS = {
    "k": Kind.string, "j": Kind.int, "time": Kind.time, "known": Kind.time, "id": Kind.int,
    "x": Kind.float, "n": Kind.int, "t": Kind.string,
}  # fmt: skip
FUNCTIONS: tuple[Function, ...] = ("sum", "count", "mean", "min", "max")
FILTERS = {"n > 1": lambda e: None if e["n"] is None else e["n"] > 1}
VIEW = View(
    "v",
    Entity("e", ("k", "j")),
    SOURCE,
    latest=(Latest("last_x", "x"), Latest("last_t", "t")),
    windows=(
        *(
            Window(f"{function}_{column}_{length}_{hop}_{len(where)}", function, column, length, hop, where)
            for function in FUNCTIONS
            for column in ("x", "n")
            for length, hop, where in ((10, 0, ""), (10, 4, "n > 1"), (25, 10, ""))
        ),
        Window("events", "count", "", 10),
    ),
)

floats = st.one_of(
    st.none(), st.sampled_from([math.nan, math.inf, -math.inf, 0.0, 1e20, 1.0, -1e20]), st.floats(-100, 100)
)
events_: st.SearchStrategy[list[dict[str, Any]]] = st.lists(
    st.fixed_dictionaries(
        {
            "k": st.sampled_from(["a", "b", None]),
            "j": st.sampled_from([1, 2]),
            "time": st.integers(0, 40),
            "lag": st.one_of(st.integers(0, 3), st.integers(-5, 40)),
            "id": st.integers(0, 60),
            "x": floats,
            "n": st.one_of(st.none(), st.integers(-5, 5)),
            "t": st.sampled_from(["p", "q", None]),
        }
    ),
    max_size=40,
)
queries_: st.SearchStrategy[list[dict[str, Any]]] = st.lists(
    st.fixed_dictionaries(
        {
            "k": st.sampled_from(["a", "b", "c", None]),
            "j": st.sampled_from([1, 2, 3]),
            "at": st.one_of(st.integers(-5, 60), st.integers(0, 60), st.none()),
        }
    ),
    min_size=1,
    max_size=20,
)


def table(rows: list[dict[str, Any]], kinds: dict[str, Kind]) -> pa.Table:
    columns = {name: [row[name] for row in rows] for name in kinds}
    return normal_table(
        pa.table({name: pa.chunked_array([pa.array(v, from_pandas=False)]) for name, v in columns.items()}),
        kinds,
        what="test",
    )


def evaluate(
    events: list[dict[str, Any]], queries: list[dict[str, Any]], known: Known, view: View = VIEW
) -> dict[str, list[Any]]:
    lens = Lens(unique_events(table(events, KINDS), SOURCE), SOURCE, view.entity.keys, known)
    asked = table(queries, {"k": Kind.string, "j": Kind.int, "at": Kind.time})
    answer = lens.evaluate(view, KINDS, Asked((asked.column("k"), asked.column("j")), asked.column("at")))
    return {name: array.to_pylist() for name, array in answer.features.items()}


@given(events=events_, queries=queries_, is_naive=st.booleans())
def test_every_row_equals_the_reference_also_with_ties_late_events_and_missing_keys(
    events: list[dict[str, Any]], queries: list[dict[str, Any]], is_naive: bool
) -> None:
    for event in events:
        event["known"] = event["time"] + event["lag"]
    # An id stands for one event that never changes: repeats carry the same values.
    first: dict[int, dict[str, Any]] = {}
    events = [dict(first.setdefault(event["id"], event)) for event in events]
    got = evaluate(events, queries, Known.all if is_naive else Known.available)
    for row, q in enumerate(queries):
        want = reference.features(
            VIEW,
            events,
            (q["k"], q["j"]),
            q["at"],
            lambda e, at=q["at"]: is_naive or e["known"] <= at,  # type: ignore[misc]
            FILTERS,
        )
        for name, expected in want.items():
            assert reference.agrees(got[name][row], expected), (name, row, got[name][row], expected)


@pytest.mark.parametrize("straggler_every", [3, 50, 10_000])
def test_many_events_with_stragglers_equal_the_reference(straggler_every: int) -> None:
    chance = np.random.default_rng(7)
    events: list[dict[str, Any]] = [
        {
            "k": "a" if i % 5 else "b", "j": 1, "time": int(chance.integers(0, 4000)), "lag": 5, "id": i,
            "x": float(chance.normal()), "n": int(chance.integers(-5, 6)), "t": None,
        }
        for i in range(900)
    ]  # fmt: skip
    for i, event in enumerate(events):
        event["known"] = event["time"] + (int(chance.integers(100, 3000)) if i % straggler_every == 0 else 5)
    windows = tuple(Window(f"{f}_{w}", f, "x", w, 7) for f in FUNCTIONS for w in (50, 1000))
    view = View("v", Entity("e", ("k", "j")), SOURCE, (Latest("last", "x"),), windows)
    queries: list[dict[str, Any]] = [
        {"k": "a", "j": 1, "at": int(chance.integers(0, 5000))} for _ in range(60)
    ]
    got = evaluate(events, queries, Known.available, view)
    for row, q in enumerate(queries):
        want = reference.features(view, events, ("a", 1), q["at"], lambda e, q=q: e["known"] <= q["at"], {})  # type: ignore[misc]
        for name, expected in want.items():
            assert reference.agrees(got[name][row], expected), (name, row)


def test_a_small_value_beside_a_large_one_is_not_lost() -> None:
    events = [
        {"k": "a", "j": 1, "time": t, "known": t, "id": t, "x": x, "n": 1, "t": None}
        for t, x in ((0, 1e20), (50, 1.0), (51, math.nan), (90, 2.0))
    ]
    view = View("v", Entity("e", ("k", "j")), SOURCE, windows=(Window("s", "sum", "x", 20),))
    queries = [{"k": "a", "j": 1, "at": at} for at in (51, 52, 100)]
    small, nan, after = evaluate(events, queries, Known.available, view)["s"]
    assert (small, after) == (1.0, 2.0)
    assert math.isnan(nan)


def test_integer_sums_are_exact_and_refused_where_they_do_not_fit() -> None:
    big = 2**62
    events = [
        {"k": "a", "j": 1, "time": t, "known": t, "id": t, "x": 0.0, "n": n, "t": None}
        for t, n in enumerate((big, big, -big, 1))
    ]
    view = View("v", Entity("e", ("k", "j")), SOURCE, windows=(Window("s", "sum", "n", 100),))
    assert evaluate(events, [{"k": "a", "j": 1, "at": 4}], Known.available, view)["s"] == [big + 1]
    with pytest.raises(Refused, match="does not fit 64 bits"):
        evaluate(events, [{"k": "a", "j": 1, "at": 2}], Known.available, view)


def test_key_codes_tell_composite_keys_apart() -> None:
    left, right = pa.chunked_array([["a", "a", "b"]]), pa.chunked_array([[1, 2, 1]])
    codes = KeyCodes([left, right])
    assert len(set(codes.codes.tolist())) == 3
    asked = codes.look_up([pa.chunked_array([["b", "b", None]]), pa.chunked_array([[1, 2, 1]])])
    assert asked.tolist() == [codes.codes[2], -1, -1]
