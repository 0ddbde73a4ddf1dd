"""The words a job asks with: read at the door, held against what units are."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourfold.core import wire
from fourfold.core.decide.match import match, meets, name_of, refusal, shortfalls
from fourfold.core.decide.place import Hold, Start, Waiting, place
from fourfold.core.errors import Refused
from fourfold.core.figures import Origin, Speed, SpeedDemand, SpeedFigure
from fourfold.core.flows import Policy
from fourfold.core.jobs import Resources, Spot, SpotUnit, UnitCapacity
from fourfold.core.ports.engine import Offer
from fourfold.core.quantities import Range
from fourfold.core.times import Instant
from fourfold.core.words import GpuWord, architecture, price_usd_per_hour
from fourfold.resources.flows.api import step
from fourfold.resources.pools.pool import PoolPlan
from fourfold.testing.clock import MovableClock
from fourfold.testing.engine.fake import FakeEngine

GIB = 1 << 30

amounts = st.integers(0, 1 << 40)
ranges = st.tuples(amounts, st.none() | amounts).map(
    lambda ends: Range(float(ends[0]), None if ends[1] is None else float(ends[0] + ends[1]))
)
named = st.builds(
    GpuWord,
    ranges.filter(lambda count: count.low > 0),
    st.just("") | st.from_regex(r"[A-Za-z][A-Za-z0-9._-]{0,20}", fullmatch=True),
    ranges,
)
speeds = st.lists(
    st.sampled_from([Speed.bandwidth, Speed.fp64, Speed.disk_write, Speed.gpu_capability, Speed.gpu_bf16]),
    unique=True,
    max_size=3,
).map(lambda found: sorted(found, key=list(Speed).index))
demands = st.tuples(speeds, st.sampled_from([1, 8.0, 100])).map(
    lambda drawn: tuple(SpeedDemand(speed, Range(drawn[1])) for speed in drawn[0])
)
figures = st.tuples(speeds, st.sampled_from([0.5, 8.6, 1000]), st.sampled_from(Origin)).map(
    lambda drawn: tuple(SpeedFigure(speed, drawn[1], drawn[2]) for speed in drawn[0])
)
requests = st.builds(
    Resources,
    cpu=st.integers(0, 8).map(Range),
    memory_bytes=st.integers(0, 8).map(lambda gib: Range(gib * GIB)),
    gpu=st.integers(0, 3).map(Range),
    gpu_name=st.sampled_from(["", "a100", "H100"]),
    gpu_memory_bytes=st.sampled_from([0, 40, 80]).map(lambda gib: Range(gib * GIB)),
    arch=st.sampled_from(["", "x86_64", "aarch64"]),
    max_price_usd_per_hour=st.sampled_from([None, 0.0, 2.0]),
    disk_bytes=st.sampled_from([0, 10, 100]).map(lambda gib: Range(gib * GIB)),
    speeds=demands,
    locations=st.sampled_from([(), ("eu",), ("eu-central-1", "lab")]),
    spot=st.sampled_from(Spot),
)
offers = st.builds(
    Offer,
    st.just("unit"),
    cpu=st.integers(0, 8).map(float),
    memory_bytes=st.integers(0, 8).map(lambda gib: gib * GIB),
    gpu=st.integers(0, 3),
    gpu_name=st.sampled_from(["", "NVIDIA A100", "NVIDIA H100"]),
    price_usd_per_hour=st.sampled_from([0.0, 1.0, 3.0]),
    gpu_memory_bytes=st.sampled_from([0, 40 * GIB, 80 * GIB]),
    arch=st.sampled_from(["", "x86_64", "aarch64"]),
    disk_bytes=st.sampled_from([0, 50 * GIB]),
    figures=figures,
    locations=st.sampled_from([(), ("eu-central-1",), ("us-east-1", "lab")]),
    spot=st.sampled_from(SpotUnit),
)
BOX = Offer("box", 8, 64 * GIB, 2, "NVIDIA A100", 3.0, gpu_memory_bytes=40 * GIB, arch="x86_64")


@given(named | ranges.map(GpuWord))
def test_a_gpu_word_reads_back_as_it_is_printed(word: GpuWord) -> None:
    assert GpuWord.parse(str(word)) == word


@pytest.mark.parametrize("value", [2, "2", "2+", {"count": 2}, {"count": "2+"}])
def test_a_plain_count_of_gpus_is_read_as_ever(value: object) -> None:
    assert GpuWord.parse(value) == GpuWord(Range(2))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("a100:2:40GiB:x", "has 4 parts"),
        ("2:40GiB", "'2' is not the name of a GPU"),
        ("a100:two", "is not a number or a range"),
        ("a100:0", "for none of it"),
        ({"name": "a/100"}, "is not the name of a GPU"),
        ({"count": [2]}, "is not an amount"),
        ({"count": True}, "is not an amount"),
        ({"memroy": "40GiB"}, "did you mean 'memory'?"),
        ("a100:1:40 gigs", "is not an amount of memory"),
    ],
)
def test_a_wrong_gpu_word_is_refused_with_what_to_write(value: object, words: str) -> None:
    with pytest.raises(Refused, match=r"write") as refused:
        GpuWord.parse(value)  # type: ignore[arg-type]
    assert words in str(refused.value)


@pytest.mark.parametrize("value", ["cheap", -1, float("nan"), float("inf")])
def test_a_wrong_price_is_refused(value: float | str) -> None:
    with pytest.raises(Refused, match="dollars per hour"):
        price_usd_per_hour(value)


def test_a_step_carries_all_words_into_its_policy() -> None:
    @step(gpu="a100:1-2:40GiB", arch="amd64", max_price="$2")
    def fit() -> None: ...

    assert fit.policy.resources == Resources(
        gpu=Range(1, 2),
        gpu_name="a100",
        gpu_memory_bytes=Range(40 * GIB),
        arch="x86_64",
        max_price_usd_per_hour=2.0,
    )
    with pytest.raises(Refused, match="architectures"):
        step(arch="sparc")
    assert architecture("") == ""


@given(requests)
def test_a_stored_policy_keeps_every_word(resources: Resources) -> None:
    policy = Policy(resources)
    assert wire.decode(wire.encode(policy), Policy, what="a policy") == policy


def test_a_policy_stored_before_there_were_these_words_asks_for_none() -> None:
    old = '{"resources": {"cpu": {"low": 2}, "memory_bytes": {"low": 0}, "gpu": {"low": 0}}}'
    assert wire.decode(old, Policy, what="a policy") == Policy(Resources(cpu=Range(2)))


@given(requests, offers, st.data())
def test_a_bigger_or_cheaper_offer_never_stops_matching(
    request_: Resources, offer: Offer, data: st.DataObject
) -> None:
    bigger = replace(
        offer,
        cpu=offer.cpu + data.draw(st.integers(0, 4)),
        memory_bytes=offer.memory_bytes + data.draw(st.integers(0, GIB)),
        gpu=offer.gpu + (data.draw(st.integers(0, 2)) if offer.gpu else 0),
        gpu_memory_bytes=offer.gpu_memory_bytes
        + (data.draw(st.integers(0, GIB)) if offer.gpu_memory_bytes else 0),  # 0 is unknown
        price_usd_per_hour=offer.price_usd_per_hour * data.draw(st.floats(0, 1)),
    )
    bigger = replace(
        bigger,
        disk_bytes=offer.disk_bytes + data.draw(st.integers(0, GIB)),
        figures=tuple(replace(each, value=each.value * data.draw(st.floats(1, 9))) for each in offer.figures),
        locations=(*offer.locations, "moon"),
    )
    assert {row[0] for row in shortfalls(request_, bigger)} <= {row[0] for row in shortfalls(request_, offer)}
    assert meets(request_, offer) <= meets(request_, bigger)


@given(requests, st.lists(offers, min_size=1, max_size=5))
def test_the_nearest_unit_of_a_refusal_is_there_and_none_lacks_less(
    request_: Resources, found: list[Offer]
) -> None:
    units = [replace(each, unit=f"u{index}") for index, each in enumerate(found)]
    if match(request_, units):
        return
    refused = refusal(request_, units, who="step 'fit'")
    lack = {name_of(unit): [row.times for row in shortfalls(request_, unit)] for unit in units}
    assert lack[str(refused.facts["nearest"])] == min(lack.values())
    assert f"nearest unit: {refused.facts['nearest']} (" in str(refused)


@given(requests, offers)
def test_shortfalls_are_just_what_lacks(request_: Resources, offer: Offer) -> None:
    """Each thing that lacks is named, and once it is there nothing lacks."""
    lacking = {row[0] for row in shortfalls(request_, offer)}
    fast = tuple(SpeedFigure(each.speed, each.amount.low, Origin.measured) for each in request_.speeds)
    cures: dict[str, dict[str, object]] = {
        "cores": {"cpu": request_.cpu.low},
        "memory": {"memory_bytes": round(request_.memory_bytes.low)},
        "disk": {"disk_bytes": round(request_.disk_bytes.low)},
        "GPUs": {
            "gpu": round(request_.gpu.low),
            "gpu_name": offer.gpu_name if offer.gpu else request_.gpu_name,
            "gpu_memory_bytes": offer.gpu_memory_bytes if offer.gpu else round(request_.gpu_memory_bytes.low),
            "figures": offer.figures if offer.gpu else (*fast, *offer.figures),
        },
        "GPU": {"gpu_name": request_.gpu_name},
        "GPU memory": {"gpu_memory_bytes": round(request_.gpu_memory_bytes.low)},
        "architecture": {"arch": request_.arch},
        "location": {"locations": request_.locations},
        "spot": {"spot": SpotUnit.asked if request_.spot is Spot.only else SpotUnit.no},
        "price": {"price_usd_per_hour": 0.0},
    }
    cured = offer
    for what in sorted(lacking, key=[*cures, *(each.words for each in Speed)].index):
        if what in cures or what in {row[0] for row in shortfalls(request_, cured)}:
            assert what in {row[0] for row in shortfalls(request_, cured)}
            cured = replace(cured, **cures.get(what, {"figures": fast}))  # type: ignore[arg-type]
    assert shortfalls(request_, cured) == ()
    assert (match(request_, [offer]) == (offer,)) is meets(request_, offer) is (not lacking)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (
            Resources(gpu=Range(1), gpu_memory_bytes=Range(80 * GIB)),
            "GPUs of 80.0 GiB each, but those of the",
        ),
        (Resources(arch="aarch64"), "architecture aarch64, but that of the nearest unit is x86_64"),
    ],
)
def test_a_refusal_names_the_word_that_no_unit_meets(request_: Resources, words: str) -> None:
    assert words in str(refusal(request_, [BOX], who="step 'fit'"))


@given(requests, offers)
def test_a_unit_of_a_pool_suits_just_what_the_offer_it_was_made_from_suits(
    request_: Resources, offer: Offer
) -> None:
    engine = FakeEngine(MovableClock())
    units = PoolPlan("lab", open=lambda: engine).units([offer], engine.capabilities())
    assert meets(request_, units[0]) is meets(request_, offer)
    (decision,) = place(units, [], [Waiting("w", request_, Instant(0))], Instant(0))
    assert isinstance(decision, Start) is meets(request_, offer)


def test_what_never_fits_by_its_kind_is_told_with_the_nearest_unit() -> None:
    units = [UnitCapacity("lab/box", 8, 64 * GIB, 2, "NVIDIA A100", 40 * GIB, "x86_64", 3.0)]
    told = str(refusal(Resources(arch="aarch64", max_price_usd_per_hour=2), units, who="step 'fit'"))
    assert "asks for architecture aarch64, but that of the nearest unit is x86_64" in told
    assert "it lacks more: price: at most $2 per hour asked for, $3 there" in told
    (decision,) = place(units, [], [Waiting("w", Resources(arch="aarch64"), Instant(0))], Instant(0))
    assert isinstance(decision, Hold)
    assert decision.reason == (
        "no unit suits it now; nearest is lab/box (architecture: aarch64 asked for, x86_64 there)"
    )
