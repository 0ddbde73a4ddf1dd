"""Values as bytes and back: JSON with types checked at the door.

Frozen dataclasses, enums, tuples and mappings travel as JSON; what comes in is checked against the
annotation, and a difference is refused with the path to the field. Non-finite floats travel as
`"NaN"`, `"Infinity"` and `"-Infinity"` where the annotation is `Number`.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, NewType, TypeVar

import msgspec

from fourfold.core.errors import Refused, did_you_mean

T = TypeVar("T")

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are no JSON of ours: broken, not UTF-8, or nested without end."""

Number = float | str
"""A float that may be NaN or infinite: written as text in JSON then. Read it with `number`."""


def number(value: float | str) -> float:
    """The float of a `Number`.

    >>> number("NaN") != number("NaN"), number(1.5)
    (True, 1.5)
    """
    return float(value)


def number_out(value: float) -> float | str:
    """A float as a `Number`: text when it is not finite.

    >>> number_out(float("inf")), number_out(0.5)
    ('Infinity', 0.5)
    """
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def encode(value: object) -> bytes:
    """JSON of a value; the same value always gives the same bytes (keys sorted).

    >>> encode({"b": (1, 2), "a": None})
    b'{"a":null,"b":[1,2]}'
    """
    return msgspec.json.encode(value, order="deterministic")


def decode(data: bytes | str, kind: type[T], *, what: str = "value") -> T:
    """Read JSON as `kind`, or refuse it naming the field.

    >>> decode(b'[1, "x"]', list[int], what="rows")
    Traceback (most recent call last):
    ...
    fourfold.core.errors.Refused: rows: Expected `int`, got `str` - at `$[1]`
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except UNREADABLE as error:  # ValidationError is one of these
        raise Refused(f"{what}: {error}") from error


def convert(value: object, kind: Any, *, what: str = "value", text: bool = False, exact: bool = False) -> Any:
    """Plain data (from JSON, or text from a query when `text`) as `kind`, or refused naming the field.

    `exact` refuses fields that `kind` does not have: doors want that (a misspelt field would be silently
    ignored), readers of stored records do not (a later release may have written more).
    """
    if exact:
        _refuse_unknown_fields(value, kind, what)
    try:
        return msgspec.convert(value, type=kind, strict=not text)
    except msgspec.ValidationError as error:
        raise Refused(f"{what}: {error}") from error


def _refuse_unknown_fields(value: object, kind: Any, at: str) -> None:
    if isinstance(kind, NewType):
        return
    options = typing.get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type) and isinstance(value, Mapping):
        hints = typing.get_type_hints(kind)
        known = [field.name for field in dataclasses.fields(kind)]
        for name, inner in value.items():
            if name not in known:
                raise Refused(
                    f"{at} has no field '{name}'",
                    ways_on=did_you_mean(str(name), known, what="fields"),
                    field=str(name),
                )
            _refuse_unknown_fields(inner, hints[name], f"{at}.{name}")
    elif typing.get_origin(kind) in {typing.Union, types.UnionType}:
        named = [option for option in options if dataclasses.is_dataclass(option)]
        for option in named if len(named) == 1 else ():  # of several, msgspec picks by tag
            _refuse_unknown_fields(value, option, at)
    elif isinstance(value, Mapping) and len(options) == 2:
        for name, inner in value.items():
            _refuse_unknown_fields(inner, options[1], f"{at}.{name}")
    elif isinstance(value, list) and options:
        for index, inner in enumerate(value):
            item = options[min(index, len(options) - 1)]
            _refuse_unknown_fields(inner, options[0] if item is Ellipsis else item, f"{at}[{index}]")


def plain(value: object) -> Any:
    """A value as plain dicts, lists, numbers and strings (what `encode` would write)."""
    return msgspec.to_builtins(value)
