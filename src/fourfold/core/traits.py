"""What a pool's settings say of its units: where they are, whether they may be taken away, what they have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fourfold.core import requests, words
from fourfold.core.errors import Refused
from fourfold.core.figures import Origin, SpeedFigure
from fourfold.core.jobs import SpotUnit

SPOT = {
    "": SpotUnit.no,
    "false": SpotUnit.no,
    "true": SpotUnit.asked,
    "asked": SpotUnit.asked,
    "open": SpotUnit.open,
}

DECLARED = ("gpu", "disk", "bandwidth", "flops")
"""The words that a pool's settings take, to say what its engine does not know of its units."""


@dataclass(frozen=True, slots=True)
class UnitTraits:
    """What a pool's settings say of each of its units."""

    locations: tuple[str, ...] = ()
    spot: SpotUnit = SpotUnit.no
    gpu_name: str = ""
    gpu_memory_bytes: int = 0
    disk_bytes: int = 0
    figures: tuple[SpeedFigure, ...] = ()

    @classmethod
    def parse(cls, *, location: str, spot: str, declared: Mapping[str, str], who: str) -> UnitTraits:
        """Read them by the words that steps ask with.

        >>> said = {"gpu": "a100, memory>=80GiB"}
        >>> traits = UnitTraits.parse(location="de", spot="true", declared=said, who="pool 'lab'")
        >>> traits.gpu_name, traits.gpu_memory_bytes >> 30, traits.spot
        ('a100', 80, <SpotUnit.asked: 'asked'>)
        """
        kind = SPOT.get(spot.strip().lower())
        if kind is None:
            ways_on = ['write true (only work that says so runs there) or "open" (all may), or leave it away']
            raise Refused(f"{who} is spot '{spot}', which is not known", ways_on=ways_on)
        said = requests.read(dict(declared), who=who)
        return cls(
            words.locations(location),
            kind,
            said.gpu_name,
            round(said.gpu_memory_bytes.low),
            round(said.disk_bytes.low),
            tuple(SpeedFigure(each.speed, each.amount.low, Origin.declared) for each in said.speeds),
        )
