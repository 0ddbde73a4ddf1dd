"""Which units can serve a request, and what to say when none ever can."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fourfold.core.errors import Refused
from fourfold.core.jobs import UnitCapacity
from fourfold.core.ports.engine import Capabilities, Launch, Offer, Resources
from fourfold.core.quantities import bytes_text

MOST_SHOWN = 4


def match(request: Resources, offers: Iterable[Offer]) -> tuple[Offer, ...]:
    """The offers that meet the request, cheapest first; of equal price the smallest, then by name."""
    met = [offer for offer in offers if not shortfalls(request, offer)]
    return tuple(
        sorted(met, key=lambda o: (o.price_usd_per_hour, o.gpu, o.cpu, o.memory_bytes, o.unit)),
    )


def shortfalls(request: Resources, offer: Offer | UnitCapacity) -> tuple[tuple[str, float, str, str], ...]:
    """What the offer lacks: (name, how many times too little, asked, offered), worst first."""
    pairs = (
        ("cores", request.cpu.low, offer.cpu, f"{request.cpu.low:g}", f"{offer.cpu:g}"),
        (
            "memory",
            request.memory_bytes.low,
            float(offer.memory_bytes),
            bytes_text(request.memory_bytes.low),
            bytes_text(offer.memory_bytes),
        ),
        ("GPUs", request.gpu.low, float(offer.gpu), f"{request.gpu.low:g}", str(offer.gpu)),
    )
    lacking = [
        (what, asked / offered if offered else float("inf"), asked_text, offered_text)
        for what, asked, offered, asked_text, offered_text in pairs
        if asked > offered
    ]
    return tuple(sorted([*lacking, *unsuited(request, offer)], key=lambda row: (-row[1], row[0])))


def unsuited(request: Resources, offer: Offer | UnitCapacity) -> tuple[tuple[str, float, str, str], ...]:
    """Of `shortfalls`, those that no free room makes good: the kind of a unit and its price.

    What is asked for and not known of the unit counts as lacking: a guess would fail later, and at a cost.
    """
    lacking: list[tuple[str, float, str, str]] = []
    if request.gpu.low > 0 and offer.gpu:
        if request.gpu_name.lower() not in offer.gpu_name.lower():
            lacking.append(("GPU", 2.0, request.gpu_name, offer.gpu_name or "unnamed"))
        asked, given = request.gpu_memory_bytes.low, offer.gpu_memory_bytes
        if asked > given:
            given_text = bytes_text(given) if given else "unknown"
            ratio = asked / given if given else float("inf")
            lacking.append(("GPU memory", ratio, bytes_text(asked), given_text))
    if request.arch and request.arch != offer.arch:
        lacking.append(("architecture", 2.0, request.arch, offer.arch or "unknown"))
    limit = request.max_price_usd_per_hour
    if limit is not None and offer.price_usd_per_hour > limit:
        ratio = offer.price_usd_per_hour / limit if limit else float("inf")
        lacking.append(("price", ratio, f"at most ${limit:g} per hour", f"${offer.price_usd_per_hour:g}"))
    return tuple(lacking)


def refusal(request: Resources, offers: Iterable[Offer], *, who: str) -> Refused:
    """The error for a request that no offer can ever meet: what is asked, what is nearest, the ways on.

    >>> from fourfold.core.quantities import Range
    >>> small = Offer("local", cpu=2, memory_bytes=8 << 30)
    >>> print(refusal(Resources(memory_bytes=Range(64 << 30)), [small], who="step 'fit'"))
    step 'fit' asks for 64.0 GiB memory, but no unit can ever give more than 8.0 GiB
      nearest unit: local (2 cores, 8.0 GiB)
      ask for less memory, or add a larger unit
    """
    ranked = sorted(offers, key=lambda offer: ([row[1] for row in shortfalls(request, offer)], offer.unit))
    if not ranked:
        return Refused(
            f"{who} cannot run: there is no unit at all", ways_on=["add a pool with a unit to fourfold.toml"]
        )
    nearest = ranked[0]
    what, _, asked, offered = shortfalls(request, nearest)[0]
    if what == "price":
        claim = f"asks for a price of {asked}, but the nearest unit costs {offered}"
        way_on = "raise the price, or ask for less"
    elif what == "GPU":
        claim = f"asks for a GPU named '{asked}', but the nearest unit has '{offered}'"
        way_on = "name another GPU, or add such a unit"
    elif what == "GPU memory":
        claim = f"asks for GPUs of {asked} each, but those of the nearest unit have {offered}"
        way_on = "ask for less memory of a GPU, or add such a unit"
    elif what == "architecture":
        claim = f"asks for architecture {asked}, but that of the nearest unit is {offered}"
        way_on = "leave arch away, or add such a unit"
    else:
        claim = f"asks for {asked} {what}, but no unit can ever give more than {offered}"
        way_on = f"ask for less {what}" if what == "memory" else f"ask for fewer {what}"
        way_on += ", or add a larger unit"
    others = [f"other units: {_list(ranked[1:])}"] if len(ranked) > 1 else []
    return Refused(
        f"{who} {claim}",
        ways_on=[f"nearest unit: {_list([nearest])}", *others, way_on],
        asked=asked,
        offered=offered,
        what=what,
        nearest=nearest.unit,
    )


def _list(offers: Sequence[Offer]) -> str:
    shown = [
        f"{each.unit} ({each.cpu:g} cores, {bytes_text(each.memory_bytes)}"
        + (f", {each.gpu} GPUs)" if each.gpu else ")")
        for each in offers[:MOST_SHOWN]
    ]
    more = [f"and {len(offers) - MOST_SHOWN} more"] if len(offers) > MOST_SHOWN else []
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
