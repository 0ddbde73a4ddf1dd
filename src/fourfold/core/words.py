"""The words a job asks with, read at the door: GPUs, architecture, price.

Amounts of cores and memory are ranges alone (`core.quantities`); what is here has more to it than one number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from fourfold.core.errors import Refused, did_you_mean
from fourfold.core.quantities import Range

ARCHITECTURES = {
    "x86_64": "x86_64",
    "amd64": "x86_64",
    "x64": "x86_64",
    "x86-64": "x86_64",
    "aarch64": "aarch64",
    "arm64": "aarch64",
}
"""What people write, and what Linux calls it."""

_GPU_KEYS = ("name", "count", "memory")
_GPU_EXAMPLES = (
    'write for example 2, "1-4", "a100", "a100:2", "a100:2:40GiB" or {"count": 2, "memory": "40GiB"}'
)
_GPU_NAME = re.compile(r"[A-Za-z][A-Za-z0-9 ._-]{0,63}")


@dataclass(frozen=True, slots=True)
class GpuWord:
    """What is asked of GPUs: how many, by what name (a part of it is enough), with how much memory each."""

    count: Range = Range(0)
    name: str = ""
    memory_bytes: Range = Range(0)

    @classmethod
    def parse(cls, value: float | str | Mapping[str, object]) -> GpuWord:
        """Read a count, `NAME[:COUNT[:MEMORY]]` (`:2:40GiB` of any name), or a table of the same three.

        >>> word = GpuWord.parse("a100:2:40GiB")
        >>> word.name, word.count.low, word.memory_bytes.low
        ('a100', 2.0, 42949672960.0)
        >>> GpuWord.parse({"count": "1-4"}).count
        Range(low=1.0, high=4.0)
        >>> GpuWord.parse({"cuont": 2})
        Traceback (most recent call last):
        ...
        fourfold.core.errors.Refused: gpu 'cuont' is not a word for GPUs
          did you mean 'count'?
          words: count, memory, name
          write for example 2, "1-4", "a100", "a100:2", "a100:2:40GiB" or {"count": 2, "memory": "40GiB"}
        """
        if isinstance(value, Mapping):
            return _of_table(value)
        if not isinstance(value, str) or not (":" in value or value.strip()[:1].isalpha()):
            return cls(_count(value))
        name, *rest = (part.strip() for part in value.split(":"))
        if len(rest) > 2:
            raise Refused(f"gpu '{value}' has {len(rest) + 1} parts", ways_on=[_GPU_EXAMPLES])
        table = {"name": name, **dict(zip(("count", "memory"), rest, strict=False))}
        return _of_table(table)

    def __str__(self) -> str:
        """As `parse` reads it.

        >>> str(GpuWord.parse({"name": "a100", "memory": "40GiB+", "count": "1-4"}))
        'a100:1-4:42949672960B'
        """
        count = _range_text(self.count)
        if not self.name and self.memory_bytes == Range(0):
            return count
        memory = f":{_range_text(self.memory_bytes, 'B')}" if self.memory_bytes != Range(0) else ""
        return f"{self.name}:{count}{memory}"


def architecture(value: str) -> str:
    """Read an architecture; nothing is any.

    >>> architecture("ARM64"), architecture("")
    ('aarch64', '')
    >>> architecture("x86_46")
    Traceback (most recent call last):
    ...
    fourfold.core.errors.Refused: arch 'x86_46' is not known
      did you mean 'x86_64'?
      architectures: aarch64, amd64, arm64, x64, x86-64, x86_64
    """
    word = str(value).strip().lower()
    if word and word not in ARCHITECTURES:
        ways_on = did_you_mean(word, ARCHITECTURES, what="architectures")
        raise Refused(f"arch '{value}' is not known", ways_on=ways_on)
    return ARCHITECTURES.get(word, "")


def price_usd_per_hour(value: float | str | None) -> float | None:
    """Read the most that an hour of a whole unit may cost; `None` is no limit.

    >>> price_usd_per_hour("$2.50"), price_usd_per_hour(0), price_usd_per_hour(None)
    (2.5, 0.0, None)
    """
    if value is None:
        return None
    try:
        price = float(value.strip().removeprefix("$") if isinstance(value, str) else value)
    except (TypeError, ValueError):
        price = math.nan
    if not 0 <= price < math.inf:
        raise Refused(
            f"max_price {value!r} is not a price",
            ways_on=["write US dollars per hour of a whole unit, such as 2.50"],
        )
    return price


def _of_table(table: Mapping[str, object]) -> GpuWord:
    for key in table:
        if key not in _GPU_KEYS:
            ways_on = [*did_you_mean(str(key), _GPU_KEYS, what="words"), _GPU_EXAMPLES]
            raise Refused(f"gpu '{key}' is not a word for GPUs", ways_on=ways_on)
    name = str(table.get("name", "")).strip()
    if name and _GPU_NAME.fullmatch(name) is None:
        raise Refused(f"gpu '{name}' is not the name of a GPU", ways_on=[_GPU_EXAMPLES])
    memory = table.get("memory", 0)
    asked = GpuWord(
        _count(table.get("count", 1)),
        name,
        Range.parse(_amount(memory), what="GPU memory", memory=True),
    )
    if asked.count.low == 0 and asked != GpuWord(asked.count):
        raise Refused(
            "gpu asks for a kind of GPU, but for none of it",
            ways_on=["write a count of 1 or more, or leave gpu away"],
        )
    return asked


def _count(value: object) -> Range:
    return Range.parse(_amount(value), what="gpu")


def _amount(value: object) -> float | str:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise Refused(f"gpu {value!r} is not an amount", ways_on=[_GPU_EXAMPLES])
    return value


def _range_text(amount: Range, unit: str = "") -> str:
    ends = [amount.low] if amount.high is None else [amount.low, amount.high]
    return "-".join(f"{int(end) if end == int(end) else end}{unit}" for end in ends)
