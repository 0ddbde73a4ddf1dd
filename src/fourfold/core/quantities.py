"""Amounts with a unit: memory, and ranges of what a job asks for."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fourfold.core.errors import Refused

_FACTOR = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
    "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40,
}  # fmt: skip
_AMOUNT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


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
        """Read `2`, `"2"`, `"2-8"`, `"2+"`, `"≥16GiB"`.

        >>> Range.parse("2-8", what="cpu"), Range.parse("≥16GiB", what="memory", memory=True).low
        (Range(low=2.0, high=8.0), 17179869184.0)
        >>> Range.parse("8-2", what="cpu")
        Traceback (most recent call last):
        ...
        fourfold.core.errors.Refused: cpu '8-2' runs from more to less
          write for example 2, 2-8 or 2+
        """
        ways_on = ["write for example " + ("4GiB, 4GiB-16GiB or 4GiB+" if memory else "2, 2-8 or 2+")]

        def read(text: str) -> float:
            if memory:
                return float(memory_bytes(text))
            try:
                return float(text)
            except ValueError as error:
                raise Refused(f"{what} '{value}' is not a number or a range", ways_on=ways_on) from error

        if not isinstance(value, str):
            parsed = cls(float(value))
        else:
            text = value.strip()
            if text.startswith(("≥", ">=")):
                parsed = cls(read(text.lstrip("≥>= ")))
            elif text.endswith("+"):
                parsed = cls(read(text[:-1]))
            elif "-" in text:
                low, _, high = text.partition("-")
                parsed = cls(read(low), read(high))
            else:
                parsed = cls(read(text))
        if not 0 <= parsed.low < float("inf"):
            raise Refused(f"{what} {value!r} is not zero or more", ways_on=ways_on)
        if parsed.high is not None and parsed.high < parsed.low:
            raise Refused(f"{what} '{value}' runs from more to less", ways_on=ways_on)
        return parsed
