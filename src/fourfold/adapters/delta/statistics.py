"""What is noted of a data file's values when it is written, as the Delta protocol's JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

INDEXED_COLUMNS = 32
"""Columns whose smallest and largest values are noted per file, as the Delta protocol's default."""
LONGEST_TEXT = 64
"""Longer texts are not noted."""
EXACT_DIGITS = 15
"""Decimals of more digits are not noted: a reader may take the number for a float."""


class Tally:
    """Counts the rows and nulls of a file and finds the ends of its columns, piece by piece."""

    def __init__(self, schema: pa.Schema, *, also: Sequence[str] = ()) -> None:
        names = [*schema.names[:INDEXED_COLUMNS], *also]
        self._columns = [
            name for name in dict.fromkeys(names) if not pa.types.is_nested(schema.field(name).type)
        ]
        self._schema = schema
        self._rows = 0
        self._nulls = dict.fromkeys(self._columns, 0)
        self._ends: dict[str, tuple[Any, Any]] = {}
        self._vague: set[str] = set()
        """Columns of which no range may be stated."""

    @property
    def rows(self) -> int:
        return self._rows

    def add(self, piece: pa.Table) -> None:
        self._rows += len(piece)
        for name in self._columns:
            values = piece.column(name)
            self._nulls[name] += values.null_count
            if name in self._vague or values.null_count == len(values):
                continue
            if (ends := _ends(values)) is None:
                self._vague.add(name)
            elif (before := self._ends.get(name)) is None:
                self._ends[name] = ends
            else:
                self._ends[name] = min(before[0], ends[0]), max(before[1], ends[1])

    def text(self) -> str:
        least: dict[str, Any] = {}
        most: dict[str, Any] = {}
        for name, ends in self._ends.items():
            if name in self._vague:
                continue
            said = [spelled(end) for end in ends]
            if None not in said:
                least[name], most[name] = said
        return json.dumps(
            {"numRecords": self._rows, "minValues": least, "maxValues": most, "nullCount": self._nulls}
        )


def has_nan(values: pa.ChunkedArray) -> bool:
    """Whether a range would mislead: NaN is outside every range, and engines order it differently.

    Infinities count too: not every reader's numbers have them.
    """
    if not pa.types.is_floating(values.type) or not len(values):
        return False
    total = pc.sum(values).as_py()  # one quick pass tells it of nearly every column
    if total is None or total - total == 0:
        return False
    return not pc.all(pc.is_finite(values)).as_py()


def spelled(value: Any) -> Any:
    """A value as Delta's JSON has it; `None` where it cannot be said."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=None).isoformat(timespec="microseconds") + ("Z" if value.tzinfo else "")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, str) and len(value) > LONGEST_TEXT:
        return None
    return value


def _ends(values: pa.ChunkedArray) -> tuple[Any, Any] | None:
    """The smallest and largest value; `None` where they would mislead."""
    kind = values.type
    is_known = (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_string(kind)
        or pa.types.is_timestamp(kind)
        or pa.types.is_date(kind)
        or (pa.types.is_decimal(kind) and kind.precision <= EXACT_DIGITS)
    )
    if not is_known or has_nan(values):
        return None
    ends = pc.min_max(values)
    try:
        return ends["min"].as_py(), ends["max"].as_py()
    except (ValueError, OverflowError):
        return None  # a time that Python's calendar does not have
