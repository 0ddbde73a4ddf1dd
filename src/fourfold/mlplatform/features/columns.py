"""Arrow columns as the feature store computes with them: few types, zoned times, ids in order.

Everything is brought to five kinds at the door: int64, double, bool, string, and time as microseconds
UTC. What has no exact place among them (decimals, naive times, lists) is refused by name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fourfold.core.errors import Refused, did_you_mean
from fourfold.core.features import Kind, Scalar, Source, View
from fourfold.mlplatform.features.expressions import names, parse

ARROW = {
    Kind.int: pa.int64(),
    Kind.float: pa.float64(),
    Kind.bool: pa.bool_(),
    Kind.string: pa.string(),
    Kind.time: pa.int64(),
}
OUTSIDE = {**ARROW, Kind.time: pa.timestamp("us", "UTC")}
"""The types in which features leave the store."""

LONGEST_KEY_BYTES = 400
_SIGN = 1 << 63


def kind_of(kind: pa.DataType, *, what: str) -> Kind:
    """The kind of a column, or a refusal that names it."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_integer(kind):
        return Kind.int
    if pa.types.is_floating(kind):
        return Kind.float
    if pa.types.is_boolean(kind):
        return Kind.bool
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return Kind.string
    if pa.types.is_timestamp(kind):
        if kind.tz is None:
            raise Refused(
                f"{what} holds times without a zone",
                ways_on=["attach one: pc.assume_timezone(column, 'America/New_York')"],
            )
        return Kind.time
    raise Refused(
        f"{what} is of type {kind}, which features do not know",
        ways_on=["cast it to an integer, double, boolean, string or zoned timestamp"],
    )


def kinds_of(schema: pa.Schema, columns: Iterable[str], *, what: str) -> dict[str, Kind]:
    """The kinds of these columns; one that the schema does not have is refused by name."""
    found = {}
    for column in columns:
        if column not in schema.names:
            raise Refused(
                f"{what} has no column '{column}'",
                ways_on=did_you_mean(column, schema.names, what="columns"),
                column=column,
            )
        found[column] = kind_of(schema.field(column).type, what=f"column '{column}' of {what}")
    return found


def normal(column: pa.ChunkedArray, kind: Kind, *, what: str) -> pa.ChunkedArray:
    """The column as its kind's one Arrow type. A value that does not fit is refused."""
    if pa.types.is_null(column.type):
        return column.cast(ARROW[kind])
    if kind is Kind.time and pa.types.is_integer(column.type):
        return column.cast(pa.int64())  # an Instant: microseconds UTC
    found = kind_of(column.type, what=what)
    if found is not kind and not (found is Kind.int and kind is Kind.float):
        raise Refused(f"{what} holds {found} values where {kind} is wanted")
    try:
        if kind is Kind.time:
            return column.cast(pa.timestamp("us", column.type.tz)).cast(pa.int64())
        return column.cast(ARROW[kind])
    except pa.ArrowInvalid as error:
        raise Refused(f"{what}: {error}") from error


def normal_table(table: pa.Table, kinds: Mapping[str, Kind], *, what: str) -> pa.Table:
    """These columns of a table, each as its kind's one Arrow type."""
    return pa.table(
        {
            name: normal(table.column(name), kind, what=f"column '{name}' of {what}")
            for name, kind in kinds.items()
        }
    )


def source_columns(source: Source, views: Iterable[View]) -> tuple[str, ...]:
    """The columns of a source's table that its views compute from, sorted."""
    needed = {source.time, source.known, *source.event_id}
    for view in views:
        needed.update(view.entity.keys)
        needed.update(latest.column for latest in view.latest)
        for window in view.windows:
            needed.update(() if not window.column else (window.column,))
            needed.update(names(parse(window.where)) if window.where else ())
    return tuple(sorted(needed))


def ints(column: pa.ChunkedArray | pa.Array) -> np.ndarray[Any, np.dtype[np.int64]]:
    """An int64 column as numpy; nulls become 0 (ask `validity` beside it)."""
    return np.asarray(pc.fill_null(column, 0), np.int64)


def validity(column: pa.ChunkedArray | pa.Array) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Where a column is not null."""
    return np.asarray(pc.is_valid(column))


class KeyCodes:
    """Numbers for the keys of some events, so that other tables' keys can be looked up among them."""

    def __init__(self, columns: Sequence[pa.ChunkedArray]) -> None:
        self._values: list[pa.Array] = []
        self._known: list[np.ndarray[Any, np.dtype[np.int64]]] = []
        for column in columns:
            self._values.append(column.combine_chunks().unique().drop_null())
        self.codes = self._code(columns, is_first=True)

    def look_up(self, columns: Sequence[pa.ChunkedArray]) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The codes of these keys; -1 for a key that has no event, or has a null in it."""
        return self._code(columns, is_first=False)

    def _code(
        self, columns: Sequence[pa.ChunkedArray], *, is_first: bool
    ) -> np.ndarray[Any, np.dtype[np.int64]]:
        total = np.zeros(len(columns[0]), np.int64)
        for place, (column, values) in enumerate(zip(columns, self._values, strict=True)):
            index = pc.index_in(column.combine_chunks(), values, skip_nulls=True)
            code = np.where(validity(index), ints(index), -1)
            if len(columns) == 1:
                return code  # dense already
            pair = np.where((total < 0) | (code < 0), -1, total * len(values) + code)
            # Made dense after each column: the product of several columns' counts could overflow.
            if is_first:
                self._known.append(np.unique(pair))
            total = _index_in(pair, self._known[place])
        return total


def _index_in(
    values: np.ndarray[Any, np.dtype[np.int64]], known: np.ndarray[Any, np.dtype[np.int64]]
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The place of each value among the sorted `known`; -1 for one that is not there."""
    if not len(known):
        return np.full(len(values), -1, np.int64)
    place = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return np.where((known[place] == values) & (values >= 0), place, -1)


# -- keys and ids as bytes ------------------------------------------------------------------------------


def encode_key(values: Sequence[Scalar]) -> bytes:
    """Bytes that sort as the values do: integers by size, strings by character.

    >>> encode_key([-1]) < encode_key([2]), encode_key(["a", 1]) < encode_key(["ab", 0])
    (True, True)
    """
    parts = []
    for value in values:
        if isinstance(value, str):
            parts.append(value.encode().replace(b"\0", b"\0\xff") + b"\0\0")
        else:
            assert isinstance(value, int), "keys are integers, strings, booleans or times"
            parts.append((value + _SIGN).to_bytes(8, "big"))
    return b"".join(parts)


def store_key(key: bytes) -> bytes:
    """The key as the online store takes it: as it is, or a digest of one that is too long."""
    return key if len(key) <= LONGEST_KEY_BYTES else b"\xff" + hashlib.blake2b(key, digest_size=32).digest()


def encode_keys(columns: Sequence[pa.ChunkedArray]) -> list[bytes | None]:
    """`encode_key` for whole columns; `None` where any part is null."""
    parts = [_encode_column(column) for column in columns]
    if len(parts) == 1:
        return parts[0]
    return [None if None in row else b"".join(row) for row in zip(*parts, strict=True)]


def _encode_column(column: pa.ChunkedArray) -> list[bytes | None]:
    if pa.types.is_string(column.type):
        return [
            None if value is None else value.encode().replace(b"\0", b"\0\xff") + b"\0\0"
            for value in column.to_pylist()
        ]
    data = (ints(column.cast(pa.int64())) ^ np.int64(-_SIGN)).astype(">i8").tobytes()
    found: list[bytes | None] = [data[start : start + 8] for start in range(0, len(data), 8)]
    if column.null_count:
        for row in np.flatnonzero(~validity(column)).tolist():
            found[row] = None
    return found


def check_key(value: object, kind: Kind, *, column: str) -> Scalar:
    """A request's key value, checked against the key's kind."""
    if value is None:
        return None
    if kind is Kind.string:
        if isinstance(value, str):
            return value
    elif kind is Kind.bool:
        if isinstance(value, (bool, np.bool_)):
            return bool(value)
    elif isinstance(value, (int, np.integer)) and not isinstance(value, bool) and abs(int(value)) < _SIGN:
        return int(value)
    raise Refused(
        f"key '{column}' is {value!r}, but it must be of type {kind}", column=column, wanted=str(kind)
    )
