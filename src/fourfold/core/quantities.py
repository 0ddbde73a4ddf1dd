"""Amounts with a unit: memory, and ranges of what a job asks for."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

from fourfold.core.errors import Refused

_FACTOR = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
    "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40,
}  # fmt: skip
_AMOUNT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")
_BARE = re.compile(r"\d+(?:\.\d+)?")
_UNIT = re.compile(r"[A-Za-z/]+\s*$")


def memory_bytes(value: int | str) -> int:
    """Read an amount of memory: bytes, or text such as `"4GiB"`.

    >>> memory_bytes("4GiB"), memory_bytes("1.5 MB"), memory_bytes(1024)
    (4294967296, 1500000, 1024)
    >>> memory_bytes("4 gigs")
    Traceback (most recent call last):
    ...
    fourfold.core.errors.Refused: '4 gigs' is not an amount of memory
      write a number and a unit, such as 512MiB or 4GiB
    """
    if isinstance(value, int):
        amount = value
    else:
        match = _AMOUNT.fullmatch(value)
        factor = _FACTOR.get(match[2].lower()) if match else None
        if match is None or factor is None:
            raise Refused(
                f"'{value}' is not an amount of memory",
                ways_on=["write a number and a unit, such as 512MiB or 4GiB"],
            )
        amount = round(float(match[1]) * factor)
    if amount < 0:
        raise Refused(f"memory of {value!r} is negative")
    return amount


def bytes_text(count: float) -> str:
    """Bytes for people.

    >>> bytes_text(0), bytes_text(4294967296), bytes_text(1500000)
    ('0 B', '4.0 GiB', '1.4 MiB')
    """
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"


@dataclass(frozen=True, slots=True)
class Range:
    """From `low` to `high`, both included; `high=None` is "or more"."""

    low: float
    high: float | None = None

    def holds(self, amount: float) -> bool:
        """Whether `amount` is enough (more than `high` is enough too: a bigger unit serves)."""
        return amount >= self.low

    @classmethod
    def parse(cls, value: float | str, *, what: str, memory: bool = False) -> Range:
        """Read `2`, `"2"`, `"2-8"` or `"2..8"`, `"2+"` or `"2.."`, `"≥16GiB"` or `">=16GiB"`.

        >>> Range.parse("2-8", what="cpu"), Range.parse("≥16GiB", what="memory", memory=True).low
        (Range(low=2.0, high=8.0), 17179869184.0)
        >>> Range.parse("4..", what="cpu"), Range.parse("2..4GiB", what="memory", memory=True).low
        (Range(low=4.0, high=None), 2147483648.0)
        >>> Range.parse("8-2", what="cpu")
        Traceback (most recent call last):
        ...
        fourfold.core.errors.Refused: cpu '8-2' runs from more to less
          write for example 2, 2-8 or 2+
        """
        if memory:
            return cls.read(value, what=what, end=memory_bytes, example="4GiB, 4GiB-16GiB or 4GiB+")
        return cls.read(value, what=what, end=_number, example="2, 2-8 or 2+")

    @classmethod
    def read(cls, value: float | str, *, what: str, end: Callable[[str], float], example: str) -> Range:
        """As `parse`, of amounts whose ends `end` reads; it raises `ValueError` for what is none."""
        ways_on = [f"write for example {example}"]
        if not isinstance(value, str):
            ends = [float(value)]
        else:
            try:
                ends = [float(end(text)) for text in _ends(value.strip())]
            except ValueError as error:
                raise Refused(f"{what} '{value}' is not a number or a range", ways_on=ways_on) from error
        parsed = cls(*ends)
        if not 0 <= parsed.low < float("inf"):
            raise Refused(f"{what} {value!r} is not zero or more", ways_on=ways_on)
        if parsed.high is not None and not parsed.low <= parsed.high < float("inf"):
            raise Refused(f"{what} '{value}' runs from more to less", ways_on=ways_on)
        return parsed

    def text(self, unit: str = "") -> str:
        """As `parse` reads it, with the unit behind each end.

        >>> Range(2, 8).text(), Range(0.5).text(), Range(1024).text("B")
        ('2..8', '0.5', '1024B')
        """
        ends = [self.low] if self.high is None else [self.low, self.high]
        return "..".join(f"{_plain(end)}{unit}" for end in ends)


def _plain(end: float) -> str:
    """Written out: the sign of an exponent would read as the mark of a range."""
    return str(int(end)) if end == int(end) else f"{Decimal(repr(end)):f}"


def _ends(text: str) -> list[str]:
    """The texts of a range's ends; a single one is "or more". A low end without a unit has the high one's."""
    for sign in ("≥", ">="):
        if text.startswith(sign):
            return [text.removeprefix(sign)]
    for sign in ("+", ".."):
        if text.endswith(sign):
            return [text.removesuffix(sign)]
    sign = ".." if ".." in text else "-"
    low, has_high, high = text.partition(sign)
    if not has_high:
        return [text]
    unit = _UNIT.search(high)
    return [low + unit[0] if unit and _BARE.fullmatch(low.strip()) else low, high]


def _number(text: str) -> float:
    return float(text)
