"""The words a job asks with, each read at the door. `core.requests` reads all of a job's words together.

Amounts of cores and memory are ranges alone (`core.quantities`); what is here has more to it than one
number. Several things about one word stand in one text, separated by commas: `"a100:2, capability>=8.0"`.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fourfold.core.errors import Refused, did_you_mean
from fourfold.core.figures import Speed, SpeedDemand
from fourfold.core.jobs import Spot
from fourfold.core.quantities import Range
from fourfold.core.times import Instant, after, duration_s, instant, iso

ARCHITECTURES = {
    "x86_64": "x86_64",
    "amd64": "x86_64",
    "x64": "x86_64",
    "x86-64": "x86_64",
    "aarch64": "aarch64",
    "arm64": "aarch64",
}
"""What people write, and what Linux calls it."""

SPOT = {
    "true": Spot.allowed,
    "yes": Spot.allowed,
    "allowed": Spot.allowed,
    "false": Spot.never,
    "no": Spot.never,
    "never": Spot.never,
    "only": Spot.only,
}

Word = float | str | Mapping[str, object]
"""What a word may be given as: a number, text, or a table of its parts."""

When = float | str | dt.timedelta | dt.datetime | None
"""What a deadline may be given as; `None` is none."""

_GPU_SPEEDS = {
    "capability": Speed.gpu_capability,
    "bandwidth": Speed.gpu_bandwidth,
    "fp64": Speed.gpu_fp64,
    "fp32": Speed.gpu_fp32,
    "tf32": Speed.gpu_tf32,
    "bf16": Speed.gpu_bf16,
    "fp16": Speed.gpu_fp16,
}
_DISK_SPEEDS = {"write": Speed.disk_write, "read": Speed.disk_read}
_FLOPS_SPEEDS = {"fp32": Speed.fp32, "fp64": Speed.fp64}

_GPU_EXAMPLES = (
    'write for example 2, "1-4", "a100", "a100:2", "a100:2:40GiB", "a100:2, capability>=8.0" '
    'or {"count": 2, "memory": "40GiB"}'
)
_DISK_EXAMPLES = 'write for example "100GiB", "100GiB, write>=500MB/s" or {"size": "100GiB"}'
_FLOPS_EXAMPLES = 'write for example "500GFLOP/s" (of FP32) or "fp64>=200GFLOP/s"'
_WHEN_EXAMPLES = "write a duration such as 2h, or a time with its zone such as 2026-11-26T06:00+01:00"
_GPU_NAME = re.compile(r"[A-Za-z][A-Za-z0-9 ._-]{0,63}")
_PLACE = re.compile(r"[a-z0-9][a-z0-9._/-]{0,62}")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_PART = re.compile(r"([A-Za-z][A-Za-z0-9_]*)\s*(?:>=|≥|=)\s*(.+)")
_RATE = re.compile(r"\s*(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*([A-Za-z/]*)\s*")
_RATES: Mapping[str, tuple[Mapping[str, float], str]] = {
    "GB/s": ({"": 1, "gb/s": 1, "tb/s": 1e3, "mb/s": 1e-3}, "100GB/s, 100GB/s-200GB/s or 100GB/s+"),
    "MB/s": ({"": 1, "mb/s": 1, "gb/s": 1e3}, "500MB/s, 500MB/s-1GB/s or 500MB/s+"),
    "GFLOP/s": (
        {"": 1, "gflop/s": 1, "gflops": 1, "tflop/s": 1e3, "tflops": 1e3, "pflop/s": 1e6, "pflops": 1e6},
        "500GFLOP/s, 1TFLOP/s-2TFLOP/s or 500GFLOP/s+",
    ),
    "": ({"": 1}, "8.0, 8.0-9.0 or 8.0+"),
}
"""By the dimension that figures are counted in: what people write behind a number, and an example."""


@dataclass(frozen=True, slots=True)
class GpuWord:
    """What is asked of GPUs: how many, by what name (a part of it is enough), with how much memory each,
    and how fast each must be."""

    count: Range = Range(0)
    name: str = ""
    memory_bytes: Range = Range(0)
    speeds: tuple[SpeedDemand, ...] = ()

    @classmethod
    def parse(cls, value: Word) -> GpuWord:
        """Read a count, `NAME[:COUNT[:MEMORY]]` (`:2:40GiB` of any name), more behind commas, or a table.

        >>> word = GpuWord.parse("a100:2, memory>=40GiB, capability>=8.0")
        >>> word.name, word.count.low, word.memory_bytes.low, word.speeds[0].amount.low
        ('a100', 2.0, 42949672960.0, 8.0)
        >>> GpuWord.parse({"count": "1-4"}).count
        Range(low=1.0, high=4.0)
        >>> GpuWord.parse({"cuont": 2})
        Traceback (most recent call last):
        ...
        fourfold.core.errors.Refused: gpu 'cuont' is not a word for GPUs
          did you mean 'count'?
          words: bandwidth, bf16, capability, count, fp16, fp32, fp64, memory, name, tf32
          write for example 2, "1-4", "a100", "a100:2", "a100:2:40GiB", "a100:2, capability>=8.0" or \
{"count": 2, "memory": "40GiB"}
        """
        if not isinstance(value, str | Mapping):
            return cls(_count(value))
        head, table = _parts(value, what="gpu", of="GPUs", keys=_GPU_KEYS, example=_GPU_EXAMPLES)
        if head and not (":" in head or head[0].isalpha()):
            if not table:
                return cls(_count(head))
            table = {"count": head} | table
        elif head:
            name, *rest = (part.strip() for part in head.split(":"))
            if len(rest) > 2:
                raise Refused(f"gpu '{head}' has {len(rest) + 1} parts", ways_on=[_GPU_EXAMPLES])
            table = {"name": name, **dict(zip(("count", "memory"), rest, strict=False))} | table
        return _gpu_of(table)

    def __str__(self) -> str:
        """As `parse` reads it.

        >>> str(GpuWord.parse({"name": "a100", "memory": "40GiB+", "count": "1-4", "capability": 8}))
        'a100:1..4:42949672960B, capability>=8'
        """
        text = self.count.text()
        if self.name or self.memory_bytes != Range(0):
            memory = f":{self.memory_bytes.text('B')}" if self.memory_bytes != Range(0) else ""
            text = f"{self.name}:{text}{memory}"
        return ", ".join([text, *_speed_texts(self.speeds, _GPU_SPEEDS)])


_GPU_KEYS = ("name", "count", "memory", *_GPU_SPEEDS)


@dataclass(frozen=True, slots=True)
class DiskWord:
    """What is asked of the disk where a job's files are: free room, and how fast it is."""

    size_bytes: Range = Range(0)
    speeds: tuple[SpeedDemand, ...] = ()

    @classmethod
    def parse(cls, value: Word) -> DiskWord:
        """Read an amount of bytes, with speeds behind commas, or a table of them.

        >>> word = DiskWord.parse("100GiB, write>=500MB/s")
        >>> word.size_bytes.low, word.speeds[0].amount.low
        (107374182400.0, 500.0)
        """
        keys = ("size", *_DISK_SPEEDS)
        head, table = _parts(value, what="disk", of="disks", keys=keys, example=_DISK_EXAMPLES)
        size = table.pop("size", head or 0)
        return cls(
            Range.parse(amount_of(size, "disk", _DISK_EXAMPLES), what="disk", memory=True),
            _speeds(table, _DISK_SPEEDS, "disk", _DISK_EXAMPLES),
        )

    def __str__(self) -> str:
        return ", ".join([self.size_bytes.text("B"), *_speed_texts(self.speeds, _DISK_SPEEDS)])


def flops(value: Word) -> tuple[SpeedDemand, ...]:
    """Read how much a unit's processors must do: of FP32 where nothing else is said.

    >>> [(each.speed.value, each.amount.low) for each in flops("fp64>=1TFLOP/s, fp32>=2TFLOP/s")]
    [('fp32', 2000.0), ('fp64', 1000.0)]
    """
    head, table = _parts(value, what="flops", of="FLOP/s", keys=tuple(_FLOPS_SPEEDS), example=_FLOPS_EXAMPLES)
    if head not in ("", 0):
        table = {"fp32": head} | table
    return _speeds(table, _FLOPS_SPEEDS, "flops", _FLOPS_EXAMPLES)


def flops_text(speeds: Iterable[SpeedDemand]) -> str:
    """As `flops` reads it."""
    return ", ".join(_speed_texts(speeds, _FLOPS_SPEEDS))


def bandwidth(value: float | str) -> tuple[SpeedDemand, ...]:
    """Read how fast a unit's memory must be: GB/s of its processors, by triad.

    >>> bandwidth("0.1TB/s")[0].amount.low, bandwidth(0)
    (100.0, ())
    >>> bandwidth("fast")
    Traceback (most recent call last):
    ...
    fourfold.core.errors.Refused: bandwidth 'fast' is not a number or a range
      write for example 100GB/s, 100GB/s-200GB/s or 100GB/s+
    """
    demand = _speed(Speed.bandwidth, value, "bandwidth")
    return (demand,) if demand.amount.low else ()


def speed_text(demand: SpeedDemand) -> str:
    """The amount of a demand, as the words read it."""
    return demand.amount.text(demand.speed.dimension)


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


def locations(value: str | Iterable[str]) -> tuple[str, ...]:
    """Read places, any of which will do: labels separated by commas, or a list of them.

    >>> locations("eu-central-1, on-prem"), locations("")
    (('eu-central-1', 'on-prem'), ())
    """
    if not isinstance(value, str | Iterable):
        raise Refused(f"location {value!r} is not a label", ways_on=["write for example eu-central-1"])
    given = value.split(",") if isinstance(value, str) else list(value)
    labels = tuple(dict.fromkeys(str(each).strip().lower() for each in given if str(each).strip()))
    for label in labels:
        if _PLACE.fullmatch(label) is None:
            raise Refused(
                f"location '{label}' is not a label",
                ways_on=["take letters, digits and . _ / -, such as eu-central-1 or on-prem"],
            )
    return labels


def spot(value: bool | str | None) -> Spot:
    """Read whether a job may run on units that can be taken away from it.

    >>> spot(True), spot("only"), spot(None)
    (<Spot.allowed: 'allowed'>, <Spot.only: 'only'>, <Spot.unsaid: ''>)
    """
    word = "" if value is None else str(value).strip().lower()
    if word and word not in SPOT:
        raise Refused(
            f"spot {value!r} is not known",
            ways_on=["write true (spot units too), false (never) or only; left away, only where all may"],
        )
    return SPOT.get(word, Spot.unsaid)


def deadline(value: When) -> tuple[float | None, Instant | None]:
    """Read by when something must be done: so long after its run was made, or at a time with its zone.

    >>> deadline("2h"), deadline("2026-11-26T06:00Z"), deadline(None)
    ((7200.0, None), (None, 1795672800000000), (None, None))
    >>> deadline("2026-11-26 06:00")
    Traceback (most recent call last):
    ...
    fourfold.core.errors.Refused: deadline '2026-11-26 06:00' is no time with a zone
      write a duration such as 2h, or a time with its zone such as 2026-11-26T06:00+01:00
    """
    if value is None or value == "":
        return None, None
    if isinstance(value, dt.datetime):
        return None, instant(value)
    if isinstance(value, str) and _DAY.match(value.strip()):
        return None, _moment(value.strip())
    if not isinstance(value, dt.timedelta):
        value = amount_of(value, "deadline", _WHEN_EXAMPLES)
    return duration_s(value), None


def deadline_text(value: When) -> str:
    """As `deadline` reads it, to be kept with a flow.

    >>> deadline_text("90m"), deadline_text(dt.datetime(2026, 11, 26, 6, tzinfo=dt.UTC))
    ('5400s', '2026-11-26T06:00:00Z')
    """
    after_s, at = deadline(value)
    if at is not None:
        return iso(at)
    return "" if after_s is None else f"{after_s:.6f}".rstrip("0").rstrip(".") + "s"


def deadline_instant(value: When, began: Instant) -> Instant | None:
    """A run's deadline as a time, for one that was made, or due, at `began`."""
    after_s, at = deadline(value)
    return at if after_s is None else after(began, after_s)


def _moment(text: str) -> Instant:
    at = None
    with contextlib.suppress(ValueError):
        at = dt.datetime.fromisoformat(text)
    if at is None or at.tzinfo is None:
        raise Refused(f"deadline '{text}' is no time with a zone", ways_on=[_WHEN_EXAMPLES])
    return instant(at)


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


def _parts(
    value: Word, *, what: str, of: str, keys: tuple[str, ...], example: str
) -> tuple[str, dict[str, object]]:
    """What stands first in a text, and what stands behind its commas by name; of a table, its entries."""
    table: dict[str, object] = {}
    if isinstance(value, Mapping):
        head, table = "", {str(key): each for key, each in value.items()}
    else:
        head, *rest = (part.strip() for part in str(amount_of(value, what, example)).split(","))
        if _PART.fullmatch(head):
            head, rest = "", [head, *rest]
        for part in rest:
            if (found := _PART.fullmatch(part)) is None:
                raise Refused(f"{what} '{part}' is not a name with an amount", ways_on=[example])
            if found[1].lower() in table:
                raise Refused(f"{what} says '{found[1]}' twice", ways_on=[example])
            table[found[1].lower()] = found[2]
    for key in table:
        if key not in keys:
            ways_on = [*did_you_mean(key, keys, what="words"), example]
            raise Refused(f"{what} '{key}' is not a word for {of}", ways_on=ways_on)
    return head, table


def _gpu_of(table: Mapping[str, object]) -> GpuWord:
    name = str(table.get("name", "")).strip()
    if name and _GPU_NAME.fullmatch(name) is None:
        raise Refused(f"gpu '{name}' is not the name of a GPU", ways_on=[_GPU_EXAMPLES])
    memory = amount_of(table.get("memory", 0), "gpu", _GPU_EXAMPLES)
    asked = GpuWord(
        _count(table.get("count", 1)),
        name,
        Range.parse(memory, what="GPU memory", memory=True),
        _speeds(table, _GPU_SPEEDS, "gpu", _GPU_EXAMPLES),
    )
    if asked.count.low == 0 and asked != GpuWord(asked.count):
        raise Refused(
            "gpu asks for a kind of GPU, but for none of it",
            ways_on=["write a count of 1 or more, or leave gpu away"],
        )
    return asked


def _count(value: object) -> Range:
    return Range.parse(amount_of(value, "gpu", _GPU_EXAMPLES), what="gpu")


def amount_of(value: object, what: str, example: str) -> float | str:
    """A number or text; anything else is refused."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise Refused(f"{what} {value!r} is not an amount", ways_on=[example])
    return value


def _speeds(
    table: Mapping[str, object], names: Mapping[str, Speed], what: str, example: str
) -> tuple[SpeedDemand, ...]:
    """The demands of a table, in the order of `names`; of nothing, nothing is asked."""
    found = [
        _speed(speed, amount_of(table[name], what, example), f"{what} {name}")
        for name, speed in names.items()
        if name in table
    ]
    return tuple(demand for demand in found if demand.amount.low > 0)


def _speed(speed: Speed, value: float | str, what: str) -> SpeedDemand:
    factors, example = _RATES[speed.dimension]

    def end(text: str) -> float:
        found = _RATE.fullmatch(text)
        if found is None or found[2].lower() not in factors:
            raise ValueError(text)
        return float(found[1]) * factors[found[2].lower()]

    amount = amount_of(value, what, f"write for example {example}")
    return SpeedDemand(speed, Range.read(amount, what=what, end=end, example=example))


def _speed_texts(speeds: Iterable[SpeedDemand], names: Mapping[str, Speed]) -> list[str]:
    by_speed = {speed: name for name, speed in names.items()}
    return [f"{by_speed[each.speed]}>={speed_text(each)}" for each in speeds if each.speed in by_speed]
