"""Which units can serve a request, and what to say when none ever can."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from fourfold.core.decide.published import published
from fourfold.core.errors import Refused
from fourfold.core.figures import Speed, SpeedFigure, amount_text
from fourfold.core.jobs import Spot, SpotUnit, UnitCapacity
from fourfold.core.ports.engine import Capabilities, Launch, Offer, Resources
from fourfold.core.quantities import bytes_text

MOST_SHOWN = 4
UNKNOWN = float("inf")

Unit = Offer | UnitCapacity


class Shortfall(NamedTuple):
    """One thing that a unit lacks for a request."""

    what: str
    times: float
    """How many times too little it has; infinite where it has none, or where that is not known."""
    asked: str
    offered: str


def match(request: Resources, offers: Iterable[Offer]) -> tuple[Offer, ...]:
    """The offers that meet the request, cheapest first; of equal price the smallest, then by name."""
    met = [offer for offer in offers if meets(request, offer)]
    return tuple(
        sorted(met, key=lambda o: (o.price_usd_per_hour, o.gpu, o.cpu, o.memory_bytes, o.unit)),
    )


def meets(request: Resources, offer: Unit) -> bool:
    """Whether nothing lacks: as `shortfalls`, and quicker."""
    return (
        request.cpu.low <= offer.cpu
        and request.memory_bytes.low <= offer.memory_bytes
        and request.gpu.low <= offer.gpu
        and request.disk_bytes.low <= offer.disk_bytes
        and not unsuited(request, offer)
    )


def shortfalls(request: Resources, offer: Unit) -> tuple[Shortfall, ...]:
    """What the offer lacks, worst first."""
    pairs = (
        ("cores", request.cpu.low, offer.cpu),
        ("memory", request.memory_bytes.low, offer.memory_bytes),
        ("GPUs", request.gpu.low, offer.gpu),
        ("disk", request.disk_bytes.low, offer.disk_bytes),
    )
    lacking = [
        Shortfall(what, asked / given if given else UNKNOWN, _amount(what, asked), _amount(what, given))
        for what, asked, given in pairs
        if asked > given
    ]
    return tuple(sorted([*lacking, *unsuited(request, offer)], key=lambda row: (-row.times, row.what)))


def unsuited(request: Resources, offer: Unit) -> tuple[Shortfall, ...]:
    """Of `shortfalls`, those that no free room makes good: the kind of a unit, its speed and its price.

    What is asked for and not known of the unit counts as lacking: a guess would fail later, and at a cost.
    """
    lacking: list[Shortfall] = []
    if request.gpu.low > 0 and offer.gpu:
        lacking += _unsuited_gpus(request, offer)
    if request.arch and request.arch != offer.arch:
        lacking.append(Shortfall("architecture", 2.0, request.arch, offer.arch or "unknown"))
    if request.speeds:
        lacking += _too_slow(request, offer)
    if request.locations and not _is_in(offer.locations, request.locations):
        there = ", ".join(offer.locations) or "unknown"
        lacking.append(Shortfall("location", 2.0, " or ".join(request.locations), there))
    if (request.spot or offer.spot) and (spot := _spot(request.spot, offer.spot)) is not None:
        lacking.append(spot)
    limit = request.max_price_usd_per_hour
    if limit is not None and offer.price_usd_per_hour > limit:
        times = offer.price_usd_per_hour / limit if limit else UNKNOWN
        lacking.append(
            Shortfall("price", times, f"at most ${limit:g} per hour", f"${offer.price_usd_per_hour:g}")
        )
    return tuple(lacking)


def nearest(request: Resources, offers: Iterable[Unit]) -> list[Unit]:
    """The offers by how little they lack: what is worst in each counts first; of equals by name."""
    return sorted(offers, key=lambda each: ([row.times for row in shortfalls(request, each)], name_of(each)))


def name_of(unit: Unit) -> str:
    return unit.unit if isinstance(unit, Offer) else unit.name


def _unsuited_gpus(request: Resources, offer: Unit) -> Iterable[Shortfall]:
    if request.gpu_name.lower() not in offer.gpu_name.lower():
        yield Shortfall("GPU", 2.0, request.gpu_name, offer.gpu_name or "unnamed")
    asked = request.gpu_memory_bytes.low
    if asked > offer.gpu_memory_bytes:
        told: float = offer.gpu_memory_bytes
        text = bytes_text(told) if told else "unknown"
        if not told and (figure := _figure(offer, Speed.gpu_memory)) is not None:
            told, text = figure.value, str(figure)
        if asked > told:
            yield Shortfall("GPU memory", asked / told if told else UNKNOWN, bytes_text(asked), text)


def _too_slow(request: Resources, offer: Unit) -> Iterable[Shortfall]:
    for demand in request.speeds:
        speed = demand.speed
        if speed.is_of_gpu and not (request.gpu.low and offer.gpu):
            continue  # it asks for none, or that it has none is told already
        figure = _figure(offer, speed)
        if figure is None:
            told = "unknown" if speed.is_of_gpu else "unknown: it was never measured"
            yield Shortfall(speed.words, UNKNOWN, amount_text(speed, demand.amount.low), told)
        elif demand.amount.low > figure.value:
            times = demand.amount.low / figure.value if figure.value else UNKNOWN
            yield Shortfall(speed.words, times, amount_text(speed, demand.amount.low), str(figure))


def _figure(offer: Unit, speed: Speed) -> SpeedFigure | None:
    """What is known of a unit; of its GPUs what is published of their name, where nothing nearer is known."""
    known = offer.figures if not speed.is_of_gpu else (*offer.figures, *published(offer.gpu_name))
    return next((figure for figure in known if figure.speed is speed), None)


def _is_in(labels: Collection[str], asked: Collection[str]) -> bool:
    """Whether one of the labels is one that is asked for, or a part of it: `eu` has `eu-central-1`."""
    return any(
        label == place or label.startswith((f"{place}-", f"{place}/")) for label in labels for place in asked
    )


def _spot(asked: Spot, unit: SpotUnit) -> Shortfall | None:
    match asked, unit:
        case Spot.only, SpotUnit.no:
            return Shortfall("spot", 2.0, "a spot unit", "none")
        case Spot.never, SpotUnit.asked | SpotUnit.open:
            return Shortfall("spot", 2.0, "no spot unit", "one")
        case Spot.unsaid, SpotUnit.asked:
            return Shortfall("spot", 2.0, "no spot unit (it says nothing of spot)", "one")
        case _:
            return None


_CLAIMS: Mapping[str, tuple[str, str]] = {
    "cores": ("asks for {asked} cores, but {most}", "ask for fewer cores, or add a larger unit"),
    "memory": ("asks for {asked} memory, but {most}", "ask for less memory, or add a larger unit"),
    "GPUs": ("asks for {asked} GPUs, but {most}", "ask for fewer GPUs, or add a larger unit"),
    "disk": ("asks for {asked} of free disk, but {most}", "ask for less disk, make room, or add such a unit"),
    "price": (
        "asks for a price of {asked}, but the nearest unit costs {offered}",
        "raise the price, or ask for less",
    ),
    "GPU": (
        "asks for a GPU named '{asked}', but the nearest unit has '{offered}'",
        "name another GPU, or add such a unit",
    ),
    "GPU memory": (
        "asks for GPUs of {asked} each, but those of the nearest unit have {offered}",
        "ask for less memory of a GPU, or add such a unit",
    ),
    "architecture": (
        "asks for architecture {asked}, but that of the nearest unit is {offered}",
        "leave arch away, or add such a unit",
    ),
    "location": (
        "asks for a unit in {asked}, but the place of the nearest unit is {offered}",
        "name another place, or say where a pool is: location under [pools.NAME] in fourfold.toml",
    ),
    "spot": (
        "asks for {asked}, but the nearest unit is {offered}",
        "say spot=true to allow them and spot=false to forbid them, or choose a pool that is none",
    ),
}
"""By what lacks: what is claimed, and the way on. What is not here is a figure of speed."""
_SPEED_CLAIM = (
    "asks for {what} of {asked}, but that of the nearest unit is {offered}",
    "ask for less, or add a faster unit",
)
_UNKNOWN_WAY = "measure it (fourfold unit bench), or declare it under [pools.NAME] in fourfold.toml"


def refusal(
    request: Resources,
    offers: Iterable[Unit],
    *,
    who: str,
    pool: str = "",
    elsewhere: Mapping[str, Sequence[Unit]] | None = None,
) -> Refused:
    """The error for a request that no offer can ever meet: what is asked, what is nearest, the ways on.

    `offers` are those of `pool`; `elsewhere` holds what other pools have: one that could is named, and
    where none could, the nearest unit is sought in all of them.

    >>> from fourfold.core.quantities import Range
    >>> small = Offer("local", cpu=2, memory_bytes=8 << 30)
    >>> print(refusal(Resources(memory_bytes=Range(64 << 30)), [small], who="step 'fit'"))
    step 'fit' asks for 64.0 GiB memory, but no unit can ever give more than 8.0 GiB
      nearest unit: local (2 cores, 8.0 GiB)
      ask for less memory, or add a larger unit
    >>> large = Offer("lab/large", cpu=8, memory_bytes=99 << 30)
    >>> asked = Resources(memory_bytes=Range(64 << 30))
    >>> print(refusal(asked, [small], who="step 'fit'", pool="local", elsewhere={"lab": [large]}))
    step 'fit' asks for 64.0 GiB memory, but no unit of pool 'local' can ever give more than 8.0 GiB
      nearest unit: local (2 cores, 8.0 GiB)
      pool 'lab' could: choose it (pool="lab" in the step, or a line under [flows.pools])
      ask for less memory, or add a larger unit
    """
    able = [
        name
        for name, units in sorted((elsewhere or {}).items())
        if any(meets(request, unit) for unit in units)
    ]
    everything = [*offers]
    if not able:
        everything += [unit for units in (elsewhere or {}).values() for unit in units]
    ranked = nearest(request, everything)
    could = [
        f"pool '{name}' could: choose it (pool=\"{name}\" in the step, or a line under [flows.pools])"
        for name in able[:1]
    ]
    if not ranked:
        there = f"pool '{pool}' has no unit" if pool else "there is no unit at all"
        return Refused(
            f"{who} cannot run: {there}", ways_on=[*could, "add a pool with a unit to fourfold.toml"]
        )
    where = f"no unit of pool '{pool}'" if able else "no pool" if pool and elsewhere else "no unit"
    first, *others = shortfalls(request, ranked[0])
    claim, way_on = _CLAIMS.get(first.what, _SPEED_CLAIM)
    if first.what not in _CLAIMS and first.times == UNKNOWN:
        way_on = _UNKNOWN_WAY
    facts = {"what": first.what, "asked": first.asked, "offered": first.offered}
    claim = claim.format(**facts, most=_most(first, request, ranked, where))
    also = [f"{each.what}: {each.asked} asked for, {each.offered} there" for each in others[:MOST_SHOWN]]
    return Refused(
        f"{who} {claim}",
        ways_on=[
            f"nearest unit: {_list(ranked[:1])}" + (f"; it lacks more: {'; '.join(also)}" if also else ""),
            *([f"other units: {_list(ranked[1:])}"] if len(ranked) > 1 else []),
            *could,
            way_on,
        ],
        nearest=name_of(ranked[0]),
        **facts,
    )


def _most(lack: Shortfall, request: Resources, units: Sequence[Unit], where: str) -> str:
    """What is there of an amount: the most of all units, or what the nearest has where another has enough."""
    amounts: dict[str, tuple[float, list[float]]] = {
        "cores": (request.cpu.low, [unit.cpu for unit in units]),
        "memory": (request.memory_bytes.low, [unit.memory_bytes for unit in units]),
        "GPUs": (request.gpu.low, [unit.gpu for unit in units]),
        "disk": (request.disk_bytes.low, [unit.disk_bytes for unit in units]),
    }
    asked, given = amounts.get(lack.what, (0.0, [0.0]))
    most = max(given)
    if most >= asked:
        return f"the nearest unit has {lack.offered}"
    return f"{where} can ever give more than {_amount(lack.what, most)}"


def _amount(what: str, value: float) -> str:
    return bytes_text(value) if what in ("memory", "disk") else f"{value:g}"


def _list(units: Sequence[Unit]) -> str:
    shown = [
        f"{name_of(each)} ({each.cpu:g} cores, {bytes_text(each.memory_bytes)}"
        + (f", {each.gpu} GPUs)" if each.gpu else ")")
        for each in units[:MOST_SHOWN]
    ]
    more = [f"and {len(units) - MOST_SHOWN} more"] if len(units) > MOST_SHOWN else []
    return ", ".join([*shown, *more])


def check_abilities(launch: Launch, capabilities: Capabilities, *, engine: str) -> None:
    """Refuse a launch that is malformed, or asks for what the engine cannot do.

    >>> able = Capabilities(True, "none", time_limit=True, gpus=False, survives_control_restart=True)
    >>> check_abilities(Launch("fit", ("true",), nodes=4), able, engine="local")
    Traceback (most recent call last):
    ...
    fourfold.core.errors.Refused: job 'fit' asks for several nodes (4), which engine 'local' cannot give
      choose a pool of another engine, or do without
    """
    who = f"job '{launch.key}'"
    if not launch.argv or not launch.argv[0]:
        raise Refused(f"{who} has no command")
    if launch.nodes < 1:
        raise Refused(f"{who} asks for {launch.nodes} nodes", ways_on=["ask for 1 or more"])
    asked = (
        ("to be a service", launch.kind == "service", capabilities.services),
        ("a port to listen on", launch.listens, capabilities.listens),
        (f"several nodes ({launch.nodes})", launch.nodes > 1, capabilities.nodes),
        (f"image '{launch.image}'", bool(launch.image), capabilities.images),
    )
    for what, is_asked, is_able in asked:
        if is_asked and not is_able:
            raise Refused(
                f"{who} asks for {what}, which engine '{engine}' cannot give",
                ways_on=["choose a pool of another engine, or do without"],
            )
