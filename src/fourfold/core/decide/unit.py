"""What a unit is, from all who know of it: its engine, measurements, the catalogue, the settings."""

from __future__ import annotations

from collections.abc import Sequence

from fourfold.core.compute import FigureName, Measurement, Unit
from fourfold.core.decide.published import published
from fourfold.core.figures import Origin, Speed, SpeedFigure, profile
from fourfold.core.jobs import Resources, Spot, UnitCapacity
from fourfold.core.ports.engine import Offer
from fourfold.core.quantities import Range
from fourfold.core.traits import UnitTraits
from fourfold.core.values import replace

MEASURED = {
    Speed.bandwidth: FigureName.triad_all,
    Speed.fp32: FigureName.fp32_all,
    Speed.fp64: FigureName.fp64_all,
    Speed.disk_write: FigureName.disk_write,
    Speed.disk_read: FigureName.disk_read,
    Speed.gpu_bandwidth: FigureName.gpu_triad,
    Speed.gpu_fp32: FigureName.gpu_fp32,
    Speed.gpu_tf32: FigureName.gpu_tf32,
    Speed.gpu_bf16: FigureName.gpu_bf16,
    Speed.gpu_fp16: FigureName.gpu_fp16,
}
"""Which figure of a measurement answers which demand: those of a whole unit, and of one GPU."""


NOTHING_SAID = UnitTraits()


def measured_figures(measurement: Measurement | None) -> tuple[SpeedFigure, ...]:
    """What a measurement tells of the figures that may be asked for."""
    if measurement is None:
        return ()
    values = {speed: measurement.value(name) for speed, name in MEASURED.items()}
    return tuple(
        SpeedFigure(speed, value, Origin.measured) for speed, value in values.items() if value is not None
    )


def unit_of(
    offer: Offer,
    *,
    name: str,
    price_usd_per_hour: float = 0.0,
    traits: UnitTraits | None = None,
    measured: Sequence[SpeedFigure] = (),
    most_nodes: int = 1,
) -> UnitCapacity:
    """The unit behind an engine's offer. Of each figure what was measured comes first, then what the maker
    publishes, then what the engine and the settings say."""
    traits = traits or NOTHING_SAID
    gpu_name = offer.gpu_name or (traits.gpu_name if offer.gpu else "")
    of_gpu = published(gpu_name) if offer.gpu else ()
    return UnitCapacity(
        name,
        offer.cpu,
        offer.memory_bytes,
        offer.gpu,
        gpu_name,
        offer.gpu_memory_bytes or (traits.gpu_memory_bytes if offer.gpu else 0),
        offer.arch,
        max(offer.price_usd_per_hour, price_usd_per_hour),
        most_nodes,
        offer.disk_bytes or traits.disk_bytes,
        tuple(
            figure
            for figure in profile(measured, of_gpu, offer.figures, traits.figures)
            if offer.gpu or not figure.speed.is_of_gpu
        ),
        tuple(dict.fromkeys((*offer.locations, *traits.locations))),
        traits.spot or offer.spot,
    )


def left_to_engine(asked: Resources, traits: UnitTraits, units: Sequence[UnitCapacity] = ()) -> Resources:
    """What of a request is left to ask of the engine, once the rules have chosen the pool's unit.

    An engine chooses among its own machines by amounts and by what it knows of GPUs. Where a pool is, what
    was measured there and what its settings declare it does not know, and would refuse.
    """
    knows_gpus = not traits.gpu_name
    declared = {figure.speed for figure in traits.figures}
    declared |= {each.speed for unit in units for each in unit.figures if each.origin is Origin.measured}
    return replace(
        asked,
        gpu_name=asked.gpu_name if knows_gpus else "",
        gpu_memory_bytes=Range(0) if traits.gpu_memory_bytes else asked.gpu_memory_bytes,
        disk_bytes=Range(0),
        speeds=tuple(
            each
            for each in asked.speeds
            if each.speed.is_of_gpu and knows_gpus and each.speed not in declared
        ),
        locations=(),
        spot=Spot.unsaid,
    )


def offer_of(unit: Unit, *, price_usd_per_hour: float = 0.0, disk_bytes: int = 0) -> Offer:
    """What a machine as found offers. Of several GPUs the least counts."""
    capability = min((float(gpu.capability or 0) for gpu in unit.gpus), default=0.0)
    figures = (SpeedFigure(Speed.gpu_capability, capability, Origin.declared),) if capability else ()
    return Offer(
        unit.name,
        unit.cores,
        unit.memory_bytes,
        len(unit.gpus),
        unit.gpus[0].name if unit.gpus else "",
        price_usd_per_hour,
        gpu_memory_bytes=min((gpu.memory_bytes for gpu in unit.gpus), default=0),
        arch=unit.architecture,
        disk_bytes=disk_bytes,
        figures=figures,
    )
