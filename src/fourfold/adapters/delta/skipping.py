"""What a file's statistics prove about conditions: that no row meets them, or that every row does."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from enum import Enum
from typing import Any

import pyarrow as pa

from fourfold.adapters.delta.actions import DataFile
from fourfold.adapters.delta.partitions import partition_value
from fourfold.core.decide import schemas
from fourfold.core.storage import Condition

OWN_FILE = re.compile(r"part-[0-9a-f]{32}\.parquet")
_MILLISECOND_US = 1000
_CUT_TEXT = 32
"""Other programs note only so much of a text."""


class Verdict(Enum):
    none = "no row meets the conditions"
    some = "the file must be read"
    every = "every row meets them"


@dataclass(frozen=True, slots=True)
class Range:
    """What is known of a column's values in one file. Comparable values; times in microseconds."""

    rows: int
    nulls: int | None
    least: Any = None
    most: Any = None
    is_exact: bool = False
    """Whether both ends are values of the file. Other programs cut texts and times."""

    @property
    def is_known(self) -> bool:
        return self.least is not None and self.most is not None


@dataclass(frozen=True, slots=True)
class Test:
    """A condition with its value as the column's statistics are compared with it."""

    column: str
    operator: str
    values: tuple[Any, ...]
    """One; several for `in` and `not in`; `None` for null."""
    is_never: bool = False
    """A comparison with NaN: it holds for no value."""


def tests(name: str, where: Sequence[Condition], schema: pa.Schema) -> tuple[Test, ...]:
    """The conditions, checked already by `schemas.expression`, ready to hold against many files."""
    return tuple(_test(name, schema.field(column), operator, value) for column, operator, value in where)


def verdict(file: DataFile, asked: Sequence[Test], schema: pa.Schema) -> Verdict:
    """What the file's statistics say about all the conditions together."""
    answers = {_held(range_of(file, schema.field(test.column)), test) for test in asked}
    if Verdict.none in answers:
        return Verdict.none
    return Verdict.some if Verdict.some in answers else Verdict.every


def may_meet(files: Iterable[DataFile], asked: Sequence[Test], schema: pa.Schema) -> list[DataFile]:
    """The files that may hold a row for which all conditions hold."""
    return [file for file in files if verdict(file, asked, schema) is not Verdict.none]


def range_of(file: DataFile, field: pa.Field) -> Range:
    """What is known of a column in a file."""
    if field.name in file.partition_values:
        value = comparable(partition_value(file.partition_values[field.name], field))
        return Range(file.rows, file.rows if value is None else 0, value, value, is_exact=True)
    noted, is_own = file.noted, OWN_FILE.fullmatch(file.path) is not None
    nulls = _of(noted, "nullCount", field.name)
    nulls = nulls if isinstance(nulls, int) else None
    if pa.types.is_floating(field.type) and not is_own:
        return Range(file.rows, nulls)  # others leave NaN out of the range
    least = _parsed(_of(noted, "minValues", field.name), field.type)
    most = _parsed(_of(noted, "maxValues", field.name), field.type)
    if least is None or most is None:
        return Range(file.rows, nulls)
    if pa.types.is_timestamp(field.type) and not is_own:  # others cut it down to the millisecond
        most += _MILLISECOND_US
    if isinstance(most, str) and not is_own and len(most) >= _CUT_TEXT:
        return Range(file.rows, nulls)  # it may be the beginning of a longer one
    return Range(file.rows, nulls, least, most, is_exact=is_own)


def comparable(value: pa.Scalar) -> Any:
    """A value as ranges hold it, times and days as numbers; `None` for null."""
    if not value.is_valid:
        return None
    is_time = pa.types.is_timestamp(value.type) or pa.types.is_date(value.type)
    return value.value if is_time else value.as_py()


def _test(name: str, field: pa.Field, operator: str, value: Any) -> Test:
    items = value if isinstance(value, (tuple, list)) else (value,)
    found = tuple(comparable(schemas.scalar(name, field, item)) for item in items)
    is_never = operator not in {"in", "not in"} and found[0] is not None and found[0] != found[0]
    return Test(field.name, operator, found, is_never)


def _held(known: Range, test: Test) -> Verdict:
    nulls, rows, operator = known.nulls, known.rows, test.operator
    if test.values == (None,):
        wanted = nulls if operator == "==" else None if nulls is None else rows - nulls
        return _counted(wanted, rows)
    if test.is_never:
        if operator != "!=":
            return Verdict.none
        return _counted(None if nulls is None else rows - nulls, rows)
    if nulls is not None and nulls == rows:
        return Verdict.none  # a comparison with null holds for none
    if not known.is_known:
        return Verdict.none if operator == "in" and not test.values else Verdict.some
    may, must = _compared(known, test)
    if not may:
        return Verdict.none
    return Verdict.every if must and nulls == 0 else Verdict.some


def _counted(wanted: int | None, rows: int) -> Verdict:
    if wanted is None:
        return Verdict.some
    return Verdict.none if wanted == 0 else Verdict.every if wanted == rows else Verdict.some


def _compared(known: Range, test: Test) -> tuple[bool, bool]:
    """Whether some value of the range can meet the test, and whether all must."""
    values = test.values
    least, most = known.least, known.most
    if any(isinstance(value, float) for value in values) and isinstance(least, int):
        least, most = float(least), float(most)  # as Arrow compares them
    inside = [value for value in values if least <= value <= most]
    is_one = known.is_exact and least == most
    match test.operator:
        case "<":
            return least < values[0], most < values[0]
        case "<=":
            return least <= values[0], most <= values[0]
        case ">":
            return most > values[0], least > values[0]
        case ">=":
            return most >= values[0], least >= values[0]
        case "==" | "in":
            return bool(inside), is_one and bool(inside)
        case "!=" | "not in":
            return not (is_one and inside), not inside
        case _:
            return True, False


def _of(noted: dict[str, Any], what: str, column: str) -> Any:
    found = noted.get(what)
    return found.get(column) if isinstance(found, dict) else None


def _parsed(said: Any, kind: pa.DataType) -> Any:
    """A noted value, read; `None` where it is not said, or not as we know it."""
    of = pa.types
    try:
        if said is None or isinstance(said, bool):
            return None
        if of.is_integer(kind):
            return int(said)
        if of.is_floating(kind):
            return float(said)
        if of.is_decimal(kind):
            return Decimal(str(said))
        if of.is_string(kind):
            return said if isinstance(said, str) else None
        if of.is_date(kind):
            return (date.fromisoformat(said) - date(1970, 1, 1)).days
        if of.is_timestamp(kind):
            found = datetime.fromisoformat(said)
            since = found.replace(tzinfo=UTC) if found.tzinfo is None else found
            delta = since - datetime(1970, 1, 1, tzinfo=UTC)
            return (delta.days * 86400 + delta.seconds) * 1_000_000 + delta.microseconds
    except (ValueError, TypeError, InvalidOperation):
        return None
    return None
