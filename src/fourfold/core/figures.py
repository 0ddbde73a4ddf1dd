"""How fast a unit is, as one may ask for it: figures by name, each with where it comes from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from fourfold.core.quantities import Range, bytes_text


class Speed(StrEnum):
    """A figure that a job may ask for. Those of a GPU are of each GPU; the others are of a whole unit."""

    bandwidth = "bandwidth"
    fp32 = "fp32"
    fp64 = "fp64"
    disk_write = "disk_write"
    disk_read = "disk_read"
    gpu_memory = "gpu_memory"
    gpu_capability = "gpu_capability"
    gpu_bandwidth = "gpu_bandwidth"
    gpu_fp64 = "gpu_fp64"
    gpu_fp32 = "gpu_fp32"
    gpu_tf32 = "gpu_tf32"
    gpu_bf16 = "gpu_bf16"
    gpu_fp16 = "gpu_fp16"

    @property
    def is_of_gpu(self) -> bool:
        return self.value.startswith("gpu_")

    @property
    def words(self) -> str:
        """For people: `bandwidth`, `FP32`, `disk write`, `GPU BF16`."""
        word = self.value.replace("_", " ").replace("gpu", "GPU")
        return " ".join(part.upper() if part[:2] in _FORMATS else part for part in word.split(" "))

    @property
    def dimension(self) -> str:
        """The unit that its value is counted in; a compute capability has none."""
        return _DIMENSIONS.get(self.value.removeprefix("gpu_"), "GFLOP/s")


_FORMATS = ("fp", "tf", "bf")
_DIMENSIONS = {
    "bandwidth": "GB/s",
    "disk_write": "MB/s",
    "disk_read": "MB/s",
    "memory": "B",
    "capability": "",
}


class Origin(StrEnum):
    """Where a figure comes from."""

    measured = "measured"
    """By `fourfold unit bench`, on this very hardware."""
    catalogue = "catalogue"
    """Published by the hardware's maker, and never measured here."""
    declared = "declared"
    """Said by the pool's engine or its settings."""


_SAID = {
    Origin.measured: ", measured",
    Origin.catalogue: " by the catalogue, not measured",
    Origin.declared: " as declared, not measured",
}


@dataclass(frozen=True, slots=True)
class SpeedFigure:
    """How fast a unit is in one respect, and how that is known.

    >>> print(SpeedFigure(Speed.gpu_bandwidth, 2039, Origin.catalogue))
    2,039 GB/s by the catalogue, not measured
    """

    speed: Speed
    value: float
    origin: Origin

    def __str__(self) -> str:
        return amount_text(self.speed, self.value) + _SAID[self.origin]


@dataclass(frozen=True, slots=True)
class SpeedDemand:
    """What is asked of a figure. The low end must be met; a faster unit always serves."""

    speed: Speed
    amount: Range


def amount_text(speed: Speed, value: float) -> str:
    """A figure's value for people.

    >>> amount_text(Speed.gpu_bf16, 312_000), amount_text(Speed.gpu_capability, 8)
    ('312,000 GFLOP/s', '8.0')
    >>> amount_text(Speed.fp64, 61.23)
    '61.2 GFLOP/s'
    """
    if speed is Speed.gpu_capability:
        return f"{value:.1f}"
    if speed is Speed.gpu_memory:
        return bytes_text(value)
    return f"{value:,.0f} {speed.dimension}" if value >= 1000 else f"{value:.3g} {speed.dimension}"


def profile(*layers: Iterable[SpeedFigure]) -> tuple[SpeedFigure, ...]:
    """One figure for each speed: that of the first layer that knows it.

    >>> slow = SpeedFigure(Speed.fp64, 50, Origin.measured)
    >>> profile([slow], [SpeedFigure(Speed.fp64, 90, Origin.declared)]) == (slow,)
    True
    """
    known: dict[Speed, SpeedFigure] = {}
    for layer in layers:
        for figure in layer:
            known.setdefault(figure.speed, figure)
    return tuple(known[speed] for speed in Speed if speed in known)
