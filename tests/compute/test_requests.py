"""A job's words read together at any door; and what is known of a unit, and from where."""

from __future__ import annotations

import contextlib
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourfold.core.decide.match import meets, refusal, shortfalls
from fourfold.core.decide.published import known_gpus, published
from fourfold.core.decide.unit import left_to_engine, unit_of
from fourfold.core.errors import Refused
from fourfold.core.figures import Origin, Speed, SpeedDemand, SpeedFigure
from fourfold.core.jobs import Resources, Spot, SpotUnit
from fourfold.core.ports.engine import Offer
from fourfold.core.quantities import Range
from fourfold.core.requests import WORDS, read, written
from fourfold.core.settings import Settings
from fourfold.resources.flows.api import step

GIB = 1 << 30

least = st.floats(0.001, 1e9, allow_nan=False)
whole = st.integers(0, 1 << 40)


def ranges(ends: st.SearchStrategy[float]) -> st.SearchStrategy[Range]:
    return st.tuples(ends, st.none() | ends).map(
        lambda drawn: Range(float(drawn[0]), None if drawn[1] is None else float(drawn[0] + drawn[1]))
    )


labels = st.from_regex(r"[a-z0-9][a-z0-9._/-]{0,12}", fullmatch=True)
wholes = ranges(whole.map(float))


@st.composite
def requests(draw: st.DrawFn) -> Resources:
    has_gpu = draw(st.booleans())
    chosen = draw(st.sets(st.sampled_from([each for each in Speed if each is not Speed.gpu_memory])))
    kept = [each for each in Speed if each in chosen and (has_gpu or not each.is_of_gpu)]
    return Resources(
        cpu=draw(ranges(st.floats(0, 1e6))),
        memory_bytes=draw(wholes),
        gpu=draw(wholes.filter(lambda count: count.low > 0)) if has_gpu else Range(0),
        gpu_name=draw(st.just("") | st.from_regex(r"[A-Za-z][A-Za-z0-9._-]{0,12}", fullmatch=True))
        if has_gpu
        else "",
        time_limit_s=draw(st.none() | st.integers(0, 10**6).map(float)),
        max_price_usd_per_hour=draw(st.none() | st.floats(0, 1e6)),
        gpu_memory_bytes=draw(wholes) if has_gpu else Range(0),
        arch=draw(st.sampled_from(["", "x86_64", "aarch64"])),
        disk_bytes=draw(wholes),
        speeds=tuple(SpeedDemand(speed, draw(ranges(least))) for speed in kept),
        locations=tuple(draw(st.lists(labels, unique=True, max_size=3))),
        spot=draw(st.sampled_from(Spot)),
    )


@given(requests())
def test_a_request_reads_back_from_its_words(asked: Resources) -> None:
    words = written(asked)
    assert read(words) == asked
    assert written(read(words)) == words
    assert set(words) <= set(WORDS)


@pytest.mark.parametrize(
    "words",
    [
        {"cpu": "4..8", "memory": "2..16GiB", "disk": "100GiB..", "bandwidth": "40..80GB/s"},
        {"cpu": "4-8", "memory": "2GiB-16GiB", "disk": "100GiB+", "bandwidth": "0.04-0.08TB/s"},
    ],
)
def test_a_range_may_be_written_as_others_write_it(words: dict[str, str]) -> None:
    asked = read(words)
    assert asked.cpu == Range(4, 8)
    assert asked.memory_bytes == Range(2 * GIB, 16 * GIB)
    assert asked.disk_bytes == Range(100 * GIB)
    assert asked.speeds == (SpeedDemand(Speed.bandwidth, Range(40, 80)),)


@pytest.mark.parametrize(
    "gpu",
    [
        "a100:2:40GiB, capability>=8.0, bf16>=300TFLOP/s",
        "a100:2, memory>=40GiB, capability>=8.0, bf16>=300000",
        "name=a100, count=2, memory=40GiB, capability≥8, bf16=0.3PFLOP/s",
        {"name": "a100", "count": 2, "memory": "40GiB", "capability": 8.0, "bf16": "300TFLOPS"},
    ],
)
def test_a_gpu_may_be_asked_for_in_several_ways(gpu: object) -> None:
    assert read({"gpu": gpu}) == Resources(
        gpu=Range(2),
        gpu_name="a100",
        gpu_memory_bytes=Range(40 * GIB),
        speeds=(
            SpeedDemand(Speed.gpu_capability, Range(8)),
            SpeedDemand(Speed.gpu_bf16, Range(300_000)),
        ),
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            {"bandwith": "40GB/s"},
            (
                "asks for 'bandwith', which is not a word for resources\n"
                "  did you mean 'bandwidth'?\n"
                "  words: arch, bandwidth, cpu, disk, flops, gpu, location, max_price, memory, "
                "spot, time_limit"
            ),
        ),
        (
            {"gpu": "a100, capabilty>=8"},
            (
                "gpu 'capabilty' is not a word for GPUs\n"
                "  did you mean 'capability'?\n"
                "  words: bandwidth, bf16, capability, count, fp16, fp32, fp64, memory, name, tf32"
            ),
        ),
        (
            {"gpu": "a100, fast"},
            "gpu 'fast' is not a name with an amount",
        ),
        (
            {"gpu": "a100, bf16>=1, bf16>=2"},
            "gpu says 'bf16' twice",
        ),
        (
            {"gpu": "a100, bandwidth>=2TB"},
            (
                "gpu bandwidth '2TB' is not a number or a range\n"
                "  write for example 100GB/s, 100GB/s-200GB/s or 100GB/s+"
            ),
        ),
        (
            {"flops": "int8>=4"},
            (
                "flops 'int8' is not a word for FLOP/s\n"
                "  words: fp32, fp64\n"
                '  write for example "500GFLOP/s" (of FP32) or "fp64>=200GFLOP/s"'
            ),
        ),
        ({"flops": "200 GB/s"}, "flops fp32 '200 GB/s' is not a number or a range"),
        ({"disk": "100 gigs"}, "'100 gigs' is not an amount of memory"),
        ({"disk": {"sise": 4}}, "disk 'sise' is not a word for disks\n  did you mean 'size'?"),
        (
            {"location": "New York"},
            (
                "location 'new york' is not a label\n"
                "  take letters, digits and . _ / -, such as eu-central-1 or on-prem"
            ),
        ),
        (
            {"spot": "maybe"},
            (
                "spot 'maybe' is not known\n"
                "  write true (spot units too), false (never) or only; left away, only where all may"
            ),
        ),
        ({"cpu": [2]}, "cpu [2] is not an amount"),
        ({"memory": True}, "memory True is not an amount"),
        ({"location": 4}, "location 4 is not a label"),
        ({"time_limit": {}}, "time_limit {} is not an amount"),
        ({"time_limit": "soon"}, "'soon' is not a duration"),
        ({"cpu": "8..2"}, "cpu '8..2' runs from more to less"),
        ({"cpu": "nan"}, "cpu 'nan' is not zero or more"),
    ],
)
def test_a_wrong_word_is_refused_with_what_would_be_taken(words: dict[str, object], told: str) -> None:
    with pytest.raises(Refused) as refused:
        read(words)
    assert told in str(refused.value)


@given(st.dictionaries(st.sampled_from([*WORDS, "x"]), st.text(max_size=8) | st.integers() | st.booleans()))
def test_whatever_is_asked_is_a_request_or_a_refusal(words: dict[str, object]) -> None:
    with contextlib.suppress(Refused):
        assert isinstance(read(words), Resources)


def test_a_step_takes_every_word() -> None:
    @step(
        cpu="2-4",
        memory="1GiB",
        gpu="t4, capability>=7.5",
        disk="10GiB",
        bandwidth="20GB/s",
        flops="fp64>=10GFLOP/s",
        arch="x64",
        location="eu, lab",
        spot=False,
        max_price=2,
    )
    def fit() -> None: ...

    assert set(written(fit.policy.resources)) == set(WORDS) - {"time_limit"}  # a step's is its `timeout`


# What is published.


def test_every_row_of_the_catalogue_is_found_by_its_own_name() -> None:
    for name in known_gpus():
        own = published(name)
        assert {figure.origin for figure in own} == {Origin.catalogue}
        assert {Speed.gpu_memory, Speed.gpu_bandwidth, Speed.gpu_fp32, Speed.gpu_fp16} <= {
            figure.speed for figure in own
        }


@pytest.mark.parametrize(
    ("name", "bandwidth"),
    [
        ("NVIDIA A100-SXM4-80GB", 2039),
        ("NVIDIA A100 80GB PCIe", 1935),
        ("NVIDIA A100-SXM4-40GB", 1555),
        ("A100", 1555),
        ("NVIDIA H100 80GB HBM3", 3350),
        ("NVIDIA_H100_PCIe", 2000),
        ("NVIDIA H200", 4800),
        ("Tesla T4", 320),
        ("NVIDIA L4", 300),
        ("NVIDIA L40S", 864),
        ("NVIDIA GeForce RTX 4090", 1008),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("NVIDIA A1000", None),
        ("", None),
    ],
)
def test_a_gpu_is_found_by_the_name_its_driver_gives(name: str, bandwidth: float | None) -> None:
    found = [figure.value for figure in published(name) if figure.speed is Speed.gpu_bandwidth]
    assert found == ([] if bandwidth is None else [bandwidth])


# What is known of a unit.

BARE = Offer("n1", 8, 64 * GIB, 2, "a100")


def test_what_was_measured_comes_before_what_is_published_and_that_before_what_is_declared() -> None:
    settings = Settings.parse(
        {
            "pools": {
                "lab": {
                    "location": "eu-central-1, rack-7",
                    "spot": True,
                    "gpu": "memory>=80GiB, fp32>=1TFLOP/s",
                    "disk": "500GiB, write>=1GB/s",
                    "bandwidth": "100GB/s",
                    "flops": "fp64>=1TFLOP/s",
                }
            }
        },
        {},
    )
    measured = (SpeedFigure(Speed.bandwidth, 61.2, Origin.measured),)
    unit = unit_of(BARE, name="lab/n1", traits=settings.pools["lab"].traits("lab"), measured=measured)
    told = {figure.speed: str(figure) for figure in unit.figures}
    assert told[Speed.bandwidth] == "61.2 GB/s, measured"
    assert told[Speed.gpu_fp32] == "19,500 GFLOP/s by the catalogue, not measured"
    assert told[Speed.fp64] == "1,000 GFLOP/s as declared, not measured"
    assert told[Speed.disk_write] == "1,000 MB/s as declared, not measured"
    assert (unit.gpu_memory_bytes, unit.disk_bytes) == (80 * GIB, 500 * GIB)
    assert (unit.locations, unit.spot) == (("eu-central-1", "rack-7"), SpotUnit.asked)


@pytest.mark.parametrize(
    ("pool", "told"),
    [
        ({"spot": "sometimes"}, "setting 'pools.lab' is spot 'sometimes', which is not known"),
        ({"bandwidth": "fast"}, "bandwidth 'fast' is not a number or a range"),
        ({"location": "a b"}, "location 'a b' is not a label"),
        ({"gpu": "a100, memroy>=4"}, "did you mean 'memory'?"),
    ],
)
def test_a_pool_that_says_what_cannot_be_read_is_refused_when_the_settings_are(
    pool: dict[str, str], told: str
) -> None:
    with pytest.raises(Refused) as refused:
        Settings.parse({"pools": {"lab": pool}}, {})
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("asked", "unit", "fits"),
    [
        ("eu", "eu-central-1", True),
        ("eu-central-1", "eu-central-1/a", True),
        ("eu-central", "eu-central-1", True),
        ("eu-c", "eu-central-1", False),
        ("eu-central-1", "eu", False),
        ("us, eu", "eu", True),
        ("eu", "", False),
    ],
)
def test_a_place_has_its_parts(asked: str, unit: str, fits: bool) -> None:
    offer = Offer("u", 1, GIB, locations=(unit,) if unit else ())
    assert meets(read({"location": asked}), offer) is fits


@pytest.mark.parametrize(
    ("asked", "on_plain", "on_asked", "on_open"),
    [
        (None, True, False, True),
        (False, True, False, False),
        (True, True, True, True),
        ("only", False, True, True),
    ],
)
def test_nothing_runs_on_a_spot_unit_unless_it_or_the_pool_says_so(
    asked: object, on_plain: bool, on_asked: bool, on_open: bool
) -> None:
    request = read({"spot": asked})
    found = [meets(request, Offer("u", 1, GIB, spot=kind)) for kind in SpotUnit]
    assert found == [on_plain, on_asked, on_open]


def test_what_is_not_known_does_not_match_and_says_how_to_know_it() -> None:
    plain = Offer("local", 8, 64 * GIB)
    refused = refusal(read({"bandwidth": "40GB/s"}), [plain], who="step 'fit'")
    assert str(refused) == (
        "step 'fit' asks for bandwidth of 40 GB/s, but that of the nearest unit is unknown: it was never "
        "measured\n"
        "  nearest unit: local (8 cores, 64.0 GiB)\n"
        "  measure it (fourfold unit bench), or declare it under [pools.NAME] in fourfold.toml"
    )


def test_a_refusal_says_where_a_figure_comes_from() -> None:
    refused = refusal(read({"gpu": "a100, bandwidth>=2TB/s"}), [BARE], who="step 'fit'")
    assert (
        "asks for GPU bandwidth of 2,000 GB/s, but that of the nearest unit is 1,555 GB/s by the catalogue, "
        "not measured" in str(refused)
    )
    assert not shortfalls(read({"gpu": "a100:2:40GiB, capability>=8"}), BARE)
    assert "37" not in str(refused)


def test_another_pool_that_could_is_named_and_else_the_nearest_of_all() -> None:
    small, large = Offer("local", 2, 4 * GIB), Offer("lab/n1", 8, 64 * GIB, 2)
    asked = read({"gpu": 4})
    said = str(refusal(asked, [small], who="step 'fit'", pool="local", elsewhere={"lab": [large]}))
    assert "asks for 4 GPUs, but no pool can ever give more than 2" in said
    assert "nearest unit: lab/n1 (8 cores, 64.0 GiB, 2 GPUs)" in said
    said = str(refusal(read({"gpu": 2}), [small], who="step 'fit'", pool="local", elsewhere={"lab": [large]}))
    assert "no unit of pool 'local' can ever give more than 0" in said
    assert "pool 'lab' could: choose it" in said


def test_an_engine_is_asked_only_what_it_can_know() -> None:
    asked = read(
        {
            "cpu": 2,
            "gpu": "a100:1:40GiB, capability>=8, fp32>=1TFLOP/s",
            "bandwidth": "40GB/s",
            "location": "eu",
            "spot": True,
            "disk": "4GiB",
        }
    )
    pools = {"lab": {"gpu": "fp32>=1TFLOP/s"}, "dark": {"gpu": "a100, memory>=40GiB"}}
    settings = Settings.parse({"pools": pools}, {})
    left = left_to_engine(asked, settings.pools["lab"].traits("lab"))
    assert written(left) == {"cpu": "2", "gpu": "a100:1:42949672960B, capability>=8"}
    left = left_to_engine(asked, settings.pools["dark"].traits("dark"))
    assert written(left) == {"cpu": "2", "gpu": "1"}
    assert meets(left, Offer("n", 2, GIB, 1))


# What the page says.

PAGE = (Path(__file__).parents[2] / "docs" / "words.md").read_text()


def test_the_page_lists_the_words_that_are_read() -> None:
    rows = [line.split("|") for line in PAGE.splitlines() if line.startswith("| `")]
    assert [row[1].strip().strip("`") for row in rows] == list(WORDS)
    for _, word, _, examples, _ in rows:
        for example in re.findall(r"`([^`]+)`", examples):
            value = {"True": True, "False": False}.get(example, example.strip('"'))
            assert isinstance(read({word.strip().strip("`"): value}), Resources)


def test_the_page_lists_the_gpus_of_the_catalogue() -> None:
    (line,) = (line for line in PAGE.splitlines() if line.startswith("The catalogue knows"))
    assert re.findall(r"`([^`]+)`", line) == list(known_gpus())


def test_the_page_shows_settings_that_are_read_and_a_refusal_as_it_is() -> None:
    toml = tomllib.loads(re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)[0])
    pool = Settings.parse(toml, {}).pools["lab"]
    assert pool.traits("lab").gpu_memory_bytes == 80 * GIB
    shown = re.findall(r"```text\n(.*?)\n```", PAGE, re.DOTALL)[0]
    small, large = Offer("local", 2, 4 * GIB), Offer("lab/n1", 8, 64 * GIB, 2)
    asked, who = read({"gpu": 4}), "step 'fit' of flow 'train'"
    assert shown == str(refusal(asked, [small], who=who, pool="local", elsewhere={"lab": [large]}))
