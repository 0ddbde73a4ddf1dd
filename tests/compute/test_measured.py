"""Two measurements of one unit are held against each other: what changed, and why it may have."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourfold.core.compute import Figure, FigureName, Measurement
from fourfold.core.decide.measured import causes, changes, earlier, standing_text, standings
from fourfold.core.times import Instant


def figure(value: float, name: FigureName = FigureName.triad_all, spread: float = 0.02) -> Figure:
    dimension = "ms" if name is FigureName.fsync_4k else "GB/s"
    return Figure(name, value, dimension, value * (1 - spread / 2), value * (1 + spread / 2), 5)


def measured(at: int, *figures: Figure, busy: float = 0.0, quick: bool = False) -> Measurement:
    return Measurement(f"b{at}", "local", "f", Instant(at), 3.0, quick, figures, {"numpy": "2.1"}, busy)


def test_a_drop_is_told_and_what_lies_within_the_spread_is_not() -> None:
    (change,) = changes(measured(2, figure(8.0)), measured(1, figure(10.0)))
    assert (change.name, change.is_worse) == (FigureName.triad_all, True)
    assert change.share == pytest.approx(-0.2)
    assert changes(measured(2, figure(9.5)), measured(1, figure(10.0))) == ()
    assert changes(measured(2, figure(8.0, spread=0.6)), measured(1, figure(10.0))) == ()


def test_a_longer_time_is_worse_and_a_higher_rate_is_better() -> None:
    slow, fast = figure(2.0, FigureName.fsync_4k), figure(1.0, FigureName.fsync_4k)
    assert [each.is_worse for each in changes(measured(2, slow), measured(1, fast))] == [True]
    assert [each.is_worse for each in changes(measured(2, figure(12.0)), measured(1, figure(10.0)))] == [
        False
    ]


def test_other_versions_and_other_work_are_named_as_causes() -> None:
    now = replace(measured(2, busy=1.24), versions={"numpy": "2.2", "blas": "x"})
    assert causes(now, measured(1)) == (
        "blas absent → x",
        "numpy 2.1 → 2.2",
        "others kept 1.2 cores busy, 0.0 before",
    )
    assert causes(measured(2), measured(1)) == ()


def test_it_is_held_against_the_newest_undisturbed_one_of_its_kind() -> None:
    others = [measured(1), measured(2), measured(3, busy=1.0), measured(4, quick=True), measured(9)]
    assert earlier(measured(5), others) == others[1]
    assert earlier(measured(5), [others[2], others[3]]) == others[2]
    assert earlier(measured(1), others) is None


def test_the_ways_to_two_stores_are_not_held_against_each_other() -> None:
    def to(store: str, at: int, value: float) -> Measurement:
        made = measured(at, figure(value, FigureName.store_up), figure(value))
        return replace(made, versions={"store": store})

    assert [each.name for each in changes(to("a", 2, 8.0), to("a", 1, 10.0))] == [
        "store_up",
        "triad_all_threads",
    ]
    assert [each.name for each in changes(to("b", 2, 8.0), to("a", 1, 10.0))] == ["triad_all_threads"]


def of_unit(machine: str, at: int, value: float, *, busy: float = 0.0, quick: bool = False) -> Measurement:
    made = measured(at, figure(value), figure(value, FigureName.fsync_4k), busy=busy, quick=quick)
    return replace(made, id=f"{machine}{at}", versions={"machine": machine})


def test_a_unit_is_held_against_the_median_of_the_others_of_its_pool() -> None:
    others = [of_unit(f"m{index}", index, value) for index, value in enumerate((9.0, 10.0, 10.2, 11.0, 30.0))]
    rate, wait = standings(of_unit("mine", 9, 8.0), [*others, of_unit("mine", 1, 99.0)])
    assert (rate.median, rate.low, rate.high, rate.other_count) == (10.2, 10.0, 11.0, 5)
    assert (rate.is_worse, rate.is_telling) == (True, True)
    assert (wait.is_worse, wait.is_telling) == (False, True)  # a shorter time is better
    assert standing_text(rate, "lab") == (
        "triad_all_threads: 22% slower than the median of 5 other units of pool lab "
        "(8 GB/s; theirs 10.2, quarters 10 to 11)"
    )
    assert "than 1 other unit of pool lab" in standing_text(standings(others[0], others[4:])[0], "lab")


def test_each_other_unit_counts_once_by_its_newest_undisturbed_measurement() -> None:
    others = [of_unit("a", 1, 10.0), of_unit("a", 2, 20.0), of_unit("a", 3, 5.0, busy=1.0)]
    rate, _ = standings(of_unit("mine", 9, 10.0), [*others, of_unit("a", 4, 1.0, quick=True)])
    assert (rate.median, rate.other_count) == (20.0, 1)


def test_what_may_have_been_this_unit_is_no_other() -> None:
    before = replace(of_unit("", 1, 10.0), versions={})  # from before machines were kept
    elsewhere = replace(before, fingerprint="other")
    assert standings(of_unit("mine", 9, 8.0), [before]) == ()
    assert standings(of_unit("mine", 9, 8.0), [elsewhere])[0].other_count == 1


def test_what_lies_within_the_quarters_of_the_others_tells_nothing() -> None:
    others = [of_unit(f"m{index}", index, value) for index, value in enumerate((5.0, 10.0, 15.0))]
    assert [each.is_telling for each in standings(of_unit("mine", 9, 8.0), others)] == [False, False]


def test_an_earlier_one_of_the_same_machine_goes_before_a_newer_of_equal_hardware() -> None:
    others = [of_unit("mine", 1, 10.0), of_unit("a", 2, 10.0)]
    assert earlier(of_unit("mine", 9, 8.0), others) == others[0]
    assert earlier(of_unit("mine", 9, 8.0), others[1:]) == others[1]


@pytest.mark.property
@given(st.floats(0.1, 1e6), st.lists(st.floats(0.1, 1e6), min_size=1, max_size=9), st.randoms())
def test_how_a_unit_stands_does_not_depend_on_the_order_of_the_others(
    mine: float, values: list[float], random: Random
) -> None:
    others = [of_unit(f"m{index}", index, value) for index, value in enumerate(values)]
    shuffled = random.sample(others, len(others))
    stands = standings(of_unit("mine", 99, mine), others)
    assert stands == standings(of_unit("mine", 99, mine), shuffled)
    for each in stands:
        assert min(values) * 0.98 <= each.low <= each.median <= each.high <= max(values) * 1.02


@pytest.mark.property
@given(st.floats(0.1, 1e6), st.floats(0.1, 1e6), st.floats(0, 0.5))
def test_what_is_worse_one_way_is_better_the_other(one: float, two: float, spread: float) -> None:
    a, b = measured(1, figure(one, spread=spread)), measured(1, figure(two, spread=spread))
    there, back = changes(a, b), changes(b, a)
    assert changes(a, a) == ()
    if there and back:
        assert there[0].is_worse is not back[0].is_worse
