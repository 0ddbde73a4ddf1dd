"""Rows of Arrow as Python's own values, and values as JSON can hold them.

Arrow keeps days and times that Python's `date` and `datetime` have no word for: those beyond the years 1 to
9999, infinity as DuckDB has it, and nanoseconds. They are given as text.
"""

from __future__ import annotations

import math
from datetime import date, time, timedelta
from typing import Any

import numpy as np
import pyarrow as pa


def rows_of(table: pa.Table | pa.RecordBatch) -> list[dict[str, Any]]:
    """The rows, each by the names of its columns.

    >>> rows_of(pa.table({"day": pa.array([0, 2**30], pa.date32())}))
    [{'day': datetime.date(1970, 1, 1)}, {'day': '2941775-04-07'}]
    """
    names = table.schema.names
    columns = [values_of(table.column(index)) for index in range(len(names))]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def values_of(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    """The values of a column."""
    if not _is_nanoseconds(column.type):
        try:
            values: list[Any] = column.to_pylist()
            return values
        except (OverflowError, ValueError):
            pass
    return [value_of(each) for each in column]


def value_of(value: pa.Scalar) -> Any:
    """One value."""
    kind = value.type
    if not value.is_valid:
        return None
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return _moment(value)
    if pa.types.is_time64(kind) and kind.unit == "ns":
        return value.cast(pa.string()).as_py()
    if pa.types.is_struct(kind):
        return {kind.field(index).name: value_of(value[index]) for index in range(kind.num_fields)}
    if pa.types.is_map(kind):
        return [tuple(value_of(entry[index]) for index in range(2)) for entry in value.values]
    if pa.types.is_nested(kind) and hasattr(value, "values"):
        return [value_of(each) for each in value.values]
    if pa.types.is_dictionary(kind):
        return value_of(value.dictionary[value.index.as_py()])
    try:
        return value.as_py()
    except (OverflowError, ValueError):
        return str(value.value)


def plain(value: object) -> object:
    """A value as JSON can hold it.

    >>> plain([float("nan"), b"ab", date(2013, 1, 1)])
    ['NaN', '6162', '2013-01-01']
    """
    match value:
        case float() if not math.isfinite(value):
            return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        case None | bool() | int() | float() | str():
            return value
        case bytes():
            return value.hex()
        case date() | time():
            return value.isoformat()
        case timedelta():
            return str(value)
        case dict():
            return {str(name): plain(each) for name, each in value.items()}
        case list() | tuple():
            return [plain(each) for each in value]
        case _:
            return str(value)


def _is_nanoseconds(kind: pa.DataType) -> bool:
    """Pandas' own type would come of these, or an error where there is no pandas."""
    return bool((pa.types.is_timestamp(kind) or pa.types.is_time64(kind)) and kind.unit == "ns")


def _moment(value: pa.Scalar) -> Any:
    kind = value.type
    if not _is_nanoseconds(kind):
        try:
            return value.as_py()
        except (OverflowError, ValueError):
            pass
    width = pa.int32() if pa.types.is_date32(kind) else pa.int64()
    unit: Any = "D" if pa.types.is_date32(kind) else "ms" if pa.types.is_date64(kind) else kind.unit
    text = str(np.datetime64(value.cast(width).as_py(), unit)).replace("T", " ")
    return f"{text}+00:00" if getattr(kind, "tz", None) else text
