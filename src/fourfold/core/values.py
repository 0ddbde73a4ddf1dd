"""Changing a field of a frozen value, quickly enough for the loop's hot path."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from operator import attrgetter
from typing import Any, TypeVar

V = TypeVar("V")


def replace(value: V, /, **changes: Any) -> V:
    """As `dataclasses.replace`, for frozen dataclasses with slots: a fourth of its time.

    That one calls `__init__`, which sets each field of a frozen class through `object.__setattr__`; a step
    of a flow changes some twenty values. Here the slots are copied.

    >>> from fourfold.core.context import Ref
    >>> replace(Ref("table", "flights", "3"), version="4")
    Ref(kind='table', name='flights', version='4')
    >>> replace(Ref("table", "flights", "3"), versoin="4")
    Traceback (most recent call last):
    ...
    TypeError: Ref has no field 'versoin'
    """
    kind = type(value)
    read, slots = _copier(kind)  # type: ignore[arg-type]  # a class is hashable
    copy = object.__new__(kind)
    for write, kept in zip(slots.values(), read(value), strict=True):
        write(copy, kept)
    for name, new in changes.items():
        if name not in slots:
            raise TypeError(f"{kind.__name__} has no field {name!r}")
        slots[name](copy, new)
    return copy


@cache
def _copier(kind: type) -> tuple[Callable[[Any], tuple[Any, ...]], dict[str, Callable[[Any, Any], None]]]:
    """How all fields of such a value are read at once, and how each is written."""
    names = [field.name for field in dataclasses.fields(kind)]
    if hasattr(kind, "__post_init__"):
        raise TypeError(f"{kind.__name__} checks itself when it is made: use dataclasses.replace")
    if len(names) < 2 or not all(hasattr(getattr(kind, name, None), "__set__") for name in names):
        raise TypeError(f"{kind.__name__} is not a dataclass of at least two slots: use dataclasses.replace")
    return attrgetter(*names), {name: getattr(kind, name).__set__ for name in names}
