"""Which workers are kept warm: each pool has its own bound, and what idles makes room for what waits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fourfold.core.flows import Code
from fourfold.core.jobs import Resources, UnitCapacity
from fourfold.core.ports.control import WorkerSpec
from fourfold.core.quantities import Range
from fourfold.core.times import Instant
from fourfold.resources.pools.workers import Worker, Workers

CODE = Code("digest", "", "")


def worker(name: str, pool: str, *, cpu: float = 1, idle_since: int | None = None, busy: int = 0) -> Worker:
    spec = WorkerSpec("step", "python", CODE, Resources(cpu=Range(cpu)), pool=pool)
    made = Worker(name, spec, pool, is_joined=True)
    made.idle_since = None if idle_since is None else Instant(idle_since)
    made.task = ("run", name, busy) if busy else None
    return made


def test_each_pool_keeps_its_own_number_of_idle_workers() -> None:
    workers = Workers(most_idle=1, idle_s=300.0, most_idle_in={"lab": 2})
    for index in range(3):
        workers.add(worker(f"a{index}", "local", idle_since=index))
        workers.add(worker(f"b{index}", "lab", idle_since=index))
    assert [each.name for each in workers.surplus(Instant(3))] == ["a0", "b0", "a1"]


def test_each_pool_keeps_its_idle_workers_for_its_own_time() -> None:
    workers = Workers(most_idle=8, idle_s=300.0, idle_s_in={"lab": 60.0})
    workers.add(worker("here", "local", idle_since=0))
    workers.add(worker("there", "lab", idle_since=10))
    over_at = workers.next_over_at()
    assert over_at == Instant(60_000_010)
    assert workers.surplus(Instant(over_at - 1)) == []
    assert [each.name for each in workers.surplus(over_at)] == ["there"]
    assert [each.name for each in workers.surplus(Instant(300_000_000))] == ["here", "there"]


def test_a_warm_worker_serves_its_own_pool_only() -> None:
    workers = Workers(most_idle=8, idle_s=300.0)
    workers.add(here := worker("a", "local", idle_since=1))
    lab = worker("b", "lab").spec
    assert workers.warm(lab) is None
    assert workers.warm(here.spec) is here


@given(
    idle=st.lists(st.sampled_from([0.5, 1.0, 2.0]), max_size=6),
    busy=st.lists(st.sampled_from([0.5, 1.0, 2.0]), max_size=3),
    cpu=st.sampled_from([0.5, 1.0, 2.0, 4.0]),
)
def test_what_idles_makes_room_but_no_more_than_is_needed(
    idle: list[float], busy: list[float], cpu: float
) -> None:
    workers = Workers(most_idle=8, idle_s=300.0)
    for index, each in enumerate(idle):
        workers.add(worker(f"idle{index}", "lab", cpu=each, idle_since=index))
    for index, each in enumerate(busy):
        workers.add(worker(f"busy{index}", "lab", cpu=each, busy=index + 1))
    workers.add(worker("elsewhere", "local", cpu=4, idle_since=0))
    workers.add(new := worker("new", "lab", cpu=cpu, busy=99))
    unit = UnitCapacity("lab/node", 4, 1 << 30)
    ended = workers.in_the_way(new, [unit])
    assert all(each.task is None and each.spec.pool == "lab" for each in ended)
    left = sum(idle) + sum(busy) + cpu - sum(each.spec.resources.cpu.low for each in ended)
    assert left <= unit.cpu or len(ended) == len(idle), "it fits, or nothing idle is left"
    if ended:
        assert left + ended[-1].spec.resources.cpu.low > unit.cpu, "the last one was needed"
