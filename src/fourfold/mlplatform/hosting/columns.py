"""Rows of JSON values as typed columns: every value is checked at the door, before it meets other requests.

A request is refused here, by the name of its column, or it can go into a batch with strangers without
harming them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from operator import itemgetter
from typing import Any

import pyarrow as pa

from fourfold.core.errors import Refused, did_you_mean
from fourfold.core.hosting import Scalar
from fourfold.core.times import Instant, instant, iso

Row = tuple[Any, ...]
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_NONE = type(None)
_TYPES_REMEMBERED_MAX = 256


class Columns:
    """The columns that a model takes: checks rows and lays them out."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self.names: tuple[str, ...] = tuple(schema.names)
        self._readers = [reader(field.type, field.name) for field in schema]
        self._pick = _picker(self.names)
        self._plain = [_plain_types(field.type) for field in schema]
        self._bounds = [
            (position, *_int_bounds(field.type))
            for position, field in enumerate(schema)
            if pa.types.is_integer(field.type)
        ]
        self._good_types: set[tuple[type, ...]] = set()

    def rows(self, given: Sequence[Mapping[str, Scalar]]) -> list[Row]:
        """The rows' values in the columns' order, each of its column's type; or `Refused`."""
        return [self._row(row, position) for position, row in enumerate(given)]

    def batch(self, rows: Sequence[Row]) -> pa.RecordBatch:
        """Checked rows as Arrow."""
        columns = zip(*rows, strict=True) if rows else ((),) * len(self.names)
        return pa.record_batch(
            [array(values, field.type) for values, field in zip(columns, self.schema, strict=True)],
            schema=self.schema,
        )

    def _row(self, given: Mapping[str, Scalar], position: int) -> Row:
        try:
            values = self._pick(given)
        except KeyError:
            lacking = [name for name in self.names if name not in given]
            raise Refused(
                f"row {position} has no '{lacking[0]}'"
                + (f" (nor {len(lacking) - 1} more)" if len(lacking) > 1 else ""),
                ways_on=["give every column; null where a value is not known", *_listed(self.names)],
                lacking=lacking,
            ) from None
        # Almost all requests of a client have the same types: a look in a set replaces a check per value.
        types = tuple(map(type, values))
        if types not in self._good_types:
            if all(kind in plain for kind, plain in zip(types, self._plain, strict=True)):
                if len(self._good_types) < _TYPES_REMEMBERED_MAX:
                    self._good_types.add(types)
            else:
                values = tuple(read(value) for read, value in zip(self._readers, values, strict=True))
        for index, low, high in self._bounds:
            value = values[index]
            if value is not None and not low <= value <= high:
                raise Refused(
                    f"'{self.names[index]}' is {value}, beyond its type {self.schema.field(index).type}"
                )
        return values


def unknown_columns(given: Iterable[str], known: Iterable[str]) -> Refused | None:
    """The refusal of a row that has columns nobody asked for, if it has."""
    names = set(known)
    for name in given:
        if name not in names:
            return Refused(f"column '{name}' is not known", ways_on=did_you_mean(name, names, what="columns"))
    return None


def reader(kind: pa.DataType, name: str) -> Callable[[Scalar], Any]:
    """A function that reads a JSON value as this Arrow type, or refuses it by the column's name."""
    words, convert = _reading(kind)

    def read(value: Scalar) -> Any:
        if value is None:
            return None
        try:
            return convert(value)
        except (TypeError, ValueError, OverflowError, Refused):
            raise Refused(f"'{name}' is {_short(value)}; it takes {words}", column=name) from None

    return read


def array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Values that a `reader` gave, as an array. Times are integers of microseconds."""
    if pa.types.is_timestamp(kind):
        return pa.array(values, pa.timestamp("us", kind.tz)).cast(kind)
    return pa.array(values, kind)


def json_values(column: pa.Array) -> list[Scalar]:
    """A column as JSON can carry it: times as ISO text, what is not finite as text."""
    kind = column.type
    if pa.types.is_floating(kind):
        values = column.to_pylist()
        return [
            value if value is None or math.isfinite(value) else _not_finite_text(value) for value in values
        ]
    if pa.types.is_timestamp(kind):
        micros = column.cast(pa.timestamp("us", kind.tz)).cast(pa.int64()).to_pylist()
        return [None if value is None else iso(Instant(value)) for value in micros]
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind) or _is_text(kind):
        return column.to_pylist()  # type: ignore[no-any-return]
    return [None if value is None else str(value) for value in column.to_pylist()]


def _not_finite_text(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _picker(names: tuple[str, ...]) -> Callable[[Mapping[str, Scalar]], Row]:
    if len(names) == 1:
        only = names[0]
        return lambda row: (row[only],)
    return itemgetter(*names) if names else lambda _: ()


def _reading(kind: pa.DataType) -> tuple[str, Callable[[Any], Any]]:
    """What a type takes, in words, and how it is read."""
    if pa.types.is_floating(kind):
        return "a number, or 'NaN', 'Infinity', '-Infinity'", _float
    if pa.types.is_integer(kind):
        return "a whole number", _int
    if pa.types.is_boolean(kind):
        return "true or false", _bool
    if _is_text(kind):
        return "text", _text
    if pa.types.is_timestamp(kind):
        return "a time such as 2013-01-01T06:00:00Z (or microseconds since 1970)", _naive_time if (
            kind.tz is None
        ) else _time
    if pa.types.is_date(kind):
        return "a day such as 2013-01-01", _day
    return str(kind), lambda value: pa.scalar(value, kind).as_py()


def _plain_types(kind: pa.DataType) -> frozenset[type]:
    """Python types whose values need no reading (integers' bounds are looked at anyway)."""
    if pa.types.is_floating(kind):
        return frozenset({float, _NONE})
    if pa.types.is_integer(kind):
        return frozenset({int, _NONE})
    if pa.types.is_boolean(kind):
        return frozenset({bool, _NONE})
    if _is_text(kind):
        return frozenset({str, _NONE})
    return frozenset({_NONE})


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _int_bounds(kind: pa.DataType) -> tuple[int, int]:
    bits = kind.bit_width
    if pa.types.is_unsigned_integer(kind):
        return 0, 2**bits - 1
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def _float(value: Any) -> float:
    if isinstance(value, str):
        if value not in _NOT_FINITE:
            raise ValueError
        return _NOT_FINITE[value]
    if isinstance(value, bool):
        raise TypeError
    return float(value)


def _int(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise TypeError
    return int(value)


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    value.encode()  # half a surrogate pair is not text
    return value


def _time(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return instant(datetime.fromisoformat(value))


def _naive_time(value: Any) -> int:
    """A time of a column without a zone: it is kept as written."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    parsed = datetime.fromisoformat(value)
    return instant(parsed.replace(tzinfo=parsed.tzinfo or UTC))


def _day(value: Any) -> date:
    return date.fromisoformat(value)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _listed(names: tuple[str, ...]) -> tuple[str, ...]:
    shown = ", ".join(names[:30]) + (f", and {len(names) - 30} more" if len(names) > 30 else "")
    return (f"columns: {shown}",)
