"""Placement: never over capacity, by turn, and nobody waits for ever behind smaller work."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourfold.core.decide.match import meets
from fourfold.core.decide.place import (
    HEADS,
    PATIENCE_S,
    Hold,
    Lease,
    Start,
    Waiting,
    place,
    too_many,
)
from fourfold.core.jobs import Resources, UnitCapacity
from fourfold.core.quantities import Range
from fourfold.core.times import SECOND_US, Instant

pytestmark = pytest.mark.property

SMALL = UnitCapacity("small", 2, 8 << 30)
GPU = UnitCapacity("gpu", 8, 64 << 30, 2)
NOW = Instant(1000 * SECOND_US)


def asks(cpu: float = 1, memory_gib: float = 0, gpu: float = 0) -> Resources:
    return Resources(cpu=Range(cpu), memory_bytes=Range(memory_gib * 2**30), gpu=Range(gpu))


def waits(
    holder: str, resources: Resources | None = None, *, since_s: float = 999, priority: int = 0
) -> Waiting:
    return Waiting(holder, resources or asks(), Instant(round(since_s * SECOND_US)), priority)


def can(units: list[UnitCapacity], work: Waiting) -> bool:
    """Whether the units can ever give what is asked."""
    met = any(meets(work.resources, unit) for unit in units)
    return met and (work.nodes == 1 or not too_many(units, work.resources, work.nodes))


REQUESTS = st.builds(
    asks, st.sampled_from([0.5, 1, 2, 8]), st.sampled_from([0, 4, 60]), st.sampled_from([0, 0, 1])
)
WAITING = st.lists(st.tuples(REQUESTS, st.integers(900, 1000), st.integers(0, 2)), max_size=20).map(
    lambda rows: [waits(f"w{i}", r, since_s=s, priority=p) for i, (r, s, p) in enumerate(rows)]
)


@given(WAITING, st.randoms(use_true_random=False))
def test_no_unit_is_ever_given_more_than_it_has(waiting: list[Waiting], chance) -> None:  # type: ignore[no-untyped-def]
    decisions = place([SMALL, GPU], [], waiting, NOW)
    held: defaultdict[str, list[float]] = defaultdict(lambda: [0, 0, 0])
    for each in decisions:
        if isinstance(each, Start):
            for index, amount in enumerate((each.lease.cpu, each.lease.memory_bytes, each.lease.gpu)):
                held[each.lease.unit][index] += amount
    for unit in (SMALL, GPU):
        cpu, memory, gpu = held[unit.name]
        assert cpu <= unit.cpu
        assert memory <= unit.memory_bytes
        assert gpu <= unit.gpu
    assert [each.holder for each in decisions] == [
        work.holder for work in sorted(waiting, key=lambda w: (-w.priority, w.ready_at, w.holder))
    ]
    chance.shuffle(waiting)
    assert place([SMALL, GPU], [], waiting, NOW) == decisions  # the order of the list means nothing


@given(WAITING)
def test_what_is_held_is_taken_off_and_the_reason_says_what_is_free(waiting: list[Waiting]) -> None:
    full = [Lease("x", ("small",), 2, 8 << 30), Lease("y", ("gpu",), 8, 64 << 30, 2)]
    decisions = place([SMALL, GPU], full, waiting, NOW)
    assert all(isinstance(each, Hold) and each.reason for each in decisions)


LAB = [UnitCapacity(f"lab/n{i}", 4, 16 << 30) for i in range(3)]
SHARED = UnitCapacity("box", 8, 64 << 30, most_nodes=256)
ALONE = UnitCapacity("pod", 8, 64 << 30, most_nodes=0)
GANGS = st.lists(
    st.tuples(st.sampled_from([1, 2, 4]), st.integers(900, 1000), st.integers(0, 1), st.integers(1, 5)),
    max_size=12,
).map(
    lambda rows: [
        Waiting(f"w{i}", asks(cpu), Instant(s * SECOND_US), priority, nodes)
        for i, (cpu, s, priority, nodes) in enumerate(rows)
    ]
)


@given(GANGS, st.lists(st.integers(0, 2), max_size=2))
def test_a_gang_gets_all_of_its_places_or_none_and_never_more_than_there_is(
    waiting: list[Waiting], busy: list[int]
) -> None:
    units = [*LAB, SHARED, ALONE]
    held = [Lease(f"x{i}", (LAB[index].name,), 2, 0) for i, index in enumerate(busy)]
    decisions = place(units, held, waiting, NOW)
    nodes = {work.holder: work.nodes for work in waiting}
    started = [each.lease for each in decisions if isinstance(each, Start)]
    assert all(len(lease.units) == nodes[lease.holder] for lease in started)
    for unit in units:
        of_unit = [(lease, lease.units.count(unit.name)) for lease in [*held, *started]]
        assert sum(lease.cpu * count for lease, count in of_unit) <= unit.cpu
        for lease, count in of_unit:
            assert count <= (max(1, unit.most_nodes) if len(lease.units) > 1 else 1)
            assert count == 0 or len(lease.units) == 1 or unit is not ALONE


@given(GANGS)
def test_gangs_and_small_work_all_get_their_turn(waiting: list[Waiting]) -> None:
    """Whoever starts ends a minute later; what has started since is taken off by its lease."""
    units, now = [*LAB, SHARED], NOW
    left = {work.holder: work for work in waiting if can(units, work)}
    for _ in range(2 * len(waiting) + 2):
        starts = [each for each in place(units, [], [*left.values()], now) if isinstance(each, Start)]
        assert starts or not left, "on empty units somebody always starts: nobody waits for another's half"
        for each in starts:
            del left[each.holder]
        now = Instant(now + 60 * SECOND_US)
    assert not left


def test_small_work_that_keeps_coming_starves_no_gang() -> None:
    gang = Waiting("gang", asks(4), NOW, nodes=3)
    leases = [Lease("s0", (LAB[0].name,), 1, 0)]
    now, count = NOW, 1
    for _ in range(40):
        now = Instant(now + 5 * SECOND_US)
        small = Waiting(f"s{count}", asks(1), now)
        decisions = {each.holder: each for each in place(LAB, leases, [gang, small], now)}
        if isinstance(decisions["gang"], Start):
            break
        count += 1
        leases = [each.lease for each in decisions.values() if isinstance(each, Start)]  # five seconds each
    else:
        raise AssertionError("the gang never started")
    assert (now - NOW) / SECOND_US <= PATIENCE_S + 10


def test_reasons_of_gangs_tell_how_many_nodes_there_are() -> None:
    lease = Lease("x", ("lab/n0",), 2, 0)
    (held,) = place(LAB, [lease], [Waiting("a", asks(4), NOW, nodes=3)], NOW)
    assert held.reason == (
        "needs 3 nodes of 4 cpu at once, and 2 could start now; lab/n0 has 2 cpu, 16.0 GiB free; "
        "lab/n1 has 4 cpu, 16.0 GiB free; lab/n2 has 4 cpu, 16.0 GiB free"
    )
    (begun,) = place(LAB, [], [Waiting("a", asks(4), NOW, nodes=2)], NOW)
    assert begun.reason == "2 nodes of 4 cpu free on lab/n0,lab/n1"
    assert too_many([ALONE], asks(), 2) == "asks for 2 nodes but its engine starts a step on one node only"
    assert too_many([SHARED], asks(), 8) == ""
    told = too_many(LAB, asks(4), 4)
    assert told.endswith("never more than 3 at once: lab/n0 has 4 cpu, 16.0 GiB; and 2 more")


def test_work_is_taken_by_priority_then_by_who_waits_longest() -> None:
    order = place(
        [GPU], [], [waits("b", since_s=2), waits("c", since_s=9, priority=1), waits("a", since_s=3)], NOW
    )
    assert [each.holder for each in order] == ["c", "b", "a"]


def test_smaller_work_passes_until_the_one_passed_over_has_waited_long() -> None:
    lease = Lease("x", ("small",), 1.5, 0)
    large, little = asks(2), asks(0.5)
    fresh = place([SMALL], [lease], [waits("large", large), waits("little", little)], NOW)
    assert isinstance(fresh[1], Start)
    assert isinstance(fresh[0], Hold)
    assert fresh[0].reason == "needs 2 cpu; small has 0.5 cpu, 8.0 GiB free"
    long_ago = 1000 - PATIENCE_S
    held = place([SMALL], [lease], [waits("large", large, since_s=long_ago), waits("little", little)], NOW)
    assert isinstance(held[1], Hold)
    assert held[1].reason == "the next free unit is kept for large, which waits longest"


def test_only_the_heads_of_a_long_queue_are_looked_at() -> None:
    assert len(place([SMALL], [], [waits(f"w{i}") for i in range(3 * HEADS)], NOW)) == HEADS


def test_a_lease_of_a_unit_that_is_gone_holds_nothing() -> None:
    (decision,) = place([SMALL], [Lease("x", ("sold",), 99, 0)], [waits("a", asks(2))], NOW)
    assert isinstance(decision, Start)
    assert (decision.lease.unit, decision.reason) == ("small", "2 cpu free on small")


def test_what_a_service_holds_is_in_use_and_named_to_who_waits_for_it() -> None:
    service = Lease("service web", ("small",), 1.5, 1 << 30, is_lasting=True)
    elsewhere = Lease("service other", ("sold",), 1, 0, is_lasting=True)
    (held,) = place([SMALL], [service, elsewhere], [waits("a", asks(1))], NOW)
    assert held == Hold(
        "a", "needs 1 cpu; small has 0.5 cpu, 7.0 GiB free; service web holds 1.5 cpu, 1.0 GiB"
    )
    (started,) = place([SMALL], [service], [waits("a", asks(0.5))], NOW)
    assert isinstance(started, Start)


@given(REQUESTS)
def test_what_can_fit_starts_on_empty_units_and_what_cannot_never_does(request_: Resources) -> None:
    (decision,) = place([SMALL, GPU], [], [waits("a", request_)], NOW)
    assert isinstance(decision, Start) is any(meets(request_, unit) for unit in (SMALL, GPU))


def test_what_no_unit_can_hold_keeps_none_from_others() -> None:
    """A unit may have shrunk since it was asked for: its disk has filled, say."""
    long_ago = 1000 - 2 * PATIENCE_S
    large = Resources(cpu=Range(1), disk_bytes=Range(100 << 30))
    units = [UnitCapacity("small", 2, 8 << 30, disk_bytes=10 << 30)]
    held, start = place(units, [], [waits("large", large, since_s=long_ago), waits("little")], NOW)
    assert isinstance(held, Hold)
    assert held.reason == "needs 1 cpu, 100.0 GiB disk; small has 2 cpu, 8.0 GiB, 10.0 GiB disk free"
    assert isinstance(start, Start)


def test_room_on_the_disk_is_held_like_memory() -> None:
    unit = UnitCapacity("small", 4, 8 << 30, disk_bytes=10 << 30)
    half = Resources(disk_bytes=Range(6 << 30))
    first, second = place([unit], [], [waits("a", half), waits("b", half)], NOW)
    assert isinstance(first, Start)
    assert first.lease.disk_bytes == 6 << 30
    assert isinstance(second, Hold)
    later = place([unit], [first.lease], [waits("b", half)], NOW)
    assert isinstance(later[0], Hold)
