"""Values as bytes and back."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import math
import pickle
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourfold.core import frames
from fourfold.core.errors import Corrupted
from fourfold.core.flows import Unstorable
from fourfold.resources.flows import codec

pytestmark = pytest.mark.property


class Colour(enum.Enum):
    red = 1


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    y: tuple[float, ...] = ()


class Custom:
    def __init__(self, n: int) -> None:
        self.n = n

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Custom) and other.n == self.n

    __hash__ = None  # type: ignore[assignment]


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.dates()
    | st.datetimes()
    | st.datetimes(timezones=st.just(dt.UTC))
    | st.timedeltas()
    | st.just(Colour.red)
    | st.builds(Point, st.integers(), st.tuples(st.floats(allow_nan=False)))
)
trees = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text(), inner)
        | st.dictionaries(st.integers() | st.dates(), inner)
        | st.sets(st.integers())
        | st.frozensets(st.text())
    ),
    max_leaves=12,
)


@given(trees)
def test_plain_values_come_back_as_they_were(value: Any) -> None:
    data = codec.encode(value)
    back = codec.decode(data)
    assert back == value
    assert type(back) is type(value)
    assert codec.encode(back) == data


def test_what_is_not_finite_comes_back() -> None:
    nan, infinite, negative = codec.decode(codec.encode((math.nan, math.inf, -math.inf)))
    assert math.isnan(nan)
    assert (infinite, negative) == (math.inf, -math.inf)


def test_paths_and_dictionaries_with_marks_come_back() -> None:
    value = {"!t": [1], "path": Path("a/b"), "pure": PurePosixPath("c")}
    assert codec.decode(codec.encode(value)) == value


def kinds(data: bytes) -> set[str]:
    """The formats of the binary parts of an encoded value."""
    (header, _), *rest = frames.Frames().feed(data)
    assert not rest

    def walk(tree: Any) -> set[str]:
        if isinstance(tree, list):
            return {kind for item in tree for kind in walk(item)}
        if isinstance(tree, dict):
            own = {tree["!p"][0]} if "!p" in tree else set()
            return own | {kind for item in tree.values() for kind in walk(item)}
        return set()

    return walk(header["tree"])


def test_tables_arrays_and_frames_travel_in_their_own_formats() -> None:
    table = pa.table({"a": [1, None], "b": [dt.date(2013, 1, 1), None]})
    array = np.arange(6, dtype="float32").reshape(2, 3)
    frame = pd.DataFrame(
        {
            "n": np.array([1, 2], dtype="uint8"),
            "x": [1.5, np.nan],
            "s": pd.array(["a", None], dtype="string"),
            "t": pd.to_datetime(["2013-01-01", "2013-01-02"]),
            "z": pd.to_datetime(["2013-01-01", "2013-01-02"]).tz_localize("America/New_York"),
            "k": pd.Categorical(["u", "v"]),
        },
        index=pd.Index([5, 7], name="row"),
    )
    data = codec.encode([table, array, np.float32(1.5), frame])
    assert kinds(data) == {"arrow", "npy", "npy0", "pandas"}
    back_table, back_array, back_scalar, back_frame = codec.decode(data)
    assert back_table.equals(table)
    assert back_array.dtype == array.dtype
    assert (back_array == array).all()
    assert (type(back_scalar), back_scalar) == (np.float32, 1.5)
    pd.testing.assert_frame_equal(back_frame, frame)


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame({"o": pd.Series([{1}, "x"], dtype=object)}),
        pd.DataFrame(np.zeros((2, 2))),
        pd.DataFrame({"a": [1, 2]}, index=pd.date_range("2020-01-01", periods=2)),
    ],
    ids=["objects", "numbered columns", "a regular index"],
)
def test_a_frame_that_arrow_would_change_comes_back_as_it_was(frame: pd.DataFrame) -> None:
    data = codec.encode(frame)
    assert kinds(data) == {"pickle"}
    pd.testing.assert_frame_equal(codec.decode(data), frame)


def test_other_objects_are_pickled_and_what_cannot_be_is_refused_with_words() -> None:
    assert codec.decode(codec.encode({"made": Custom(3)})) == {"made": Custom(3)}
    with pytest.raises(Unstorable, match=r"the result of step 'x' holds a 'generator'") as caught:
        codec.encode([1, (i for i in range(2))], what="the result of step 'x'")
    assert "or keep it in a file" in str(caught.value)


def test_futures_are_left_out_and_their_values_put_in() -> None:
    class Future:
        def __init__(self, index: int) -> None:
            self.index = index

    def number(value: Any) -> int | None:
        return value.index if isinstance(value, Future) else None

    data = codec.encode([Future(1), {"deep": (Future(0),)}], future=number)
    assert codec.decode(data, inputs=["a", "b"]) == ["b", {"deep": ("a",)}]


def test_an_exception_travels_only_if_it_comes_back() -> None:
    class Awkward(Exception):
        def __init__(self, a: int, b: int) -> None:
            super().__init__("only one")

    travelled = codec.encode_error(ValueError("x", 2))
    assert travelled is not None
    assert codec.decode(travelled).args == ("x", 2)
    assert codec.encode_error(Awkward(1, 2)) is None


@pytest.mark.parametrize(
    "data",
    [b"", b"\x00\x00\x00\x04\x00\x00\x00\x02{}", pickle.dumps(1)],
    ids=["nothing", "no value", "pickle"],
)
def test_bytes_of_another_kind_are_refused(data: bytes) -> None:
    with pytest.raises(Corrupted, match="not a stored value of ours"):
        codec.decode(data)
