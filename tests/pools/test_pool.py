"""One pool's engine side: an engine that is down or hangs holds up nobody, and comes back by itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

import pytest

from fourfold.core.errors import Refused, Unavailable
from fourfold.core.jobs import Exit, ExitKind, Resources
from fourfold.core.ports.control import Gone, Placed, PoolChanged, PutOff
from fourfold.core.ports.engine import Capabilities, Launch, Offer
from fourfold.resources.pools import pool as pools
from fourfold.resources.pools.pool import Pool, PoolPlan
from fourfold.testing.clock import MovableClock
from fourfold.testing.engine import Course, FakeEngine

WITHIN_S = 10.0
Reported = Gone | Placed | PutOff | PoolChanged


class Heard:
    """What a pool has reported."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Reported] = SimpleQueue()

    def __call__(self, arrival: Reported) -> None:
        self._queue.put(arrival)

    def next(self) -> Reported:
        return self._queue.get(timeout=WITHIN_S)


@contextmanager
def opened(open_it: Callable[[], Any], **options: Any) -> Iterator[tuple[Pool, Heard]]:
    heard = Heard()
    pool = Pool(PoolPlan("lab", open_it, **options), heard)
    pool.open().result(WITHIN_S)
    try:
        yield pool, heard
    finally:
        pool.close()


def launch(able: Capabilities, key: str = "worker") -> Launch:
    return Launch(key, ("true",))


def test_units_carry_the_name_of_their_pool_and_are_bounded() -> None:
    offers = tuple(Offer(f"node{i}", 2, 1 << 30) for i in range(3))
    with opened(lambda: FakeEngine(MovableClock(), offers=offers), most_units=2) as (pool, heard):
        assert heard.next() == PoolChanged("lab")
        assert [unit.name for unit in pool.view.units] == ["lab/node0", "lab/node1"]
        assert pool.view.fault == ""
    with opened(lambda: FakeEngine(MovableClock(), offers=(Offer("lab", 2, 1 << 30),))) as (pool, _):
        assert [unit.name for unit in pool.view.units] == ["lab"], "a unit called like its pool is all of it"


def test_a_pool_that_is_down_says_why_and_is_back_without_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "RETRY_S", 0.0)
    is_down = True

    def open_it() -> FakeEngine:
        if is_down:
            raise Unavailable("the controller does not answer")
        return FakeEngine(MovableClock())

    with opened(open_it) as (pool, heard):
        assert pool.view.fault == "the controller does not answer"
        assert heard.next() == PoolChanged("lab")
        pool.launch("worker", launch)
        put_off = heard.next()
        assert isinstance(put_off, PutOff)
        assert put_off.reason == "pool 'lab' cannot be used now: the controller does not answer"
        is_down = False
        pool.look()
        assert heard.next() == PoolChanged("lab")
        assert pool.view.fault == ""
        assert pool.view.units


def test_a_launch_that_the_engine_cannot_take_now_is_put_off_and_one_that_it_refuses_is_lost() -> None:
    engine = FakeEngine(MovableClock())
    with opened(lambda: engine) as (pool, heard):
        heard.next()
        engine.fail_next("submit")
        pool.launch("first", lambda able: launch(able, "first"))
        assert heard.next() == PoolChanged("lab")
        put_off = heard.next()
        assert isinstance(put_off, PutOff)
        assert put_off.worker == "first"

        def refuse(able: Capabilities) -> Launch:
            raise Refused("no such code")

        pool.launch("second", refuse)
        assert heard.next() == Gone(
            "second", Exit(ExitKind.worker_lost, "it could not be started: no such code")
        )


def test_an_engine_that_hangs_holds_up_nobody_who_asks() -> None:
    begun, may_end = threading.Event(), threading.Event()

    class Hangs(FakeEngine):
        def offers(self, request: Resources) -> tuple[Offer, ...]:
            begun.set()
            may_end.wait(WITHIN_S)
            return super().offers(request)

    pool = Pool(PoolPlan("lab", lambda: Hangs(MovableClock())), Heard())
    opening = pool.open()
    assert begun.wait(WITHIN_S)
    pool.launch("worker", launch)  # each of these returns while the engine hangs
    pool.look()
    pool.stop("other", 0.0, lambda: True)
    assert not opening.done()
    assert pool.view.fault == "its engine has not answered yet"
    may_end.set()
    opening.result(WITHIN_S)
    assert pool.view.fault == ""
    pool.close()


def test_a_worker_that_ends_before_it_connects_is_a_loss_with_its_last_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pools, "LOOK_S", 0.0)
    engine = FakeEngine(MovableClock(), course=lambda _: Course(600))
    with opened(lambda: engine) as (pool, heard):
        heard.next()
        pool.launch("worker", launch)
        pool._submits["worker"].result(WITHIN_S)
        engine.lose("worker", "node3 died")
        pool.look()
        gone = heard.next()
        assert isinstance(gone, Gone)
        assert gone.exit is not None
        assert gone.exit.reason.startswith("it ended before it began (node3 died)")


def test_stopping_waits_for_the_start_that_is_under_way() -> None:
    """Else the engine would hear of the end before the beginning, and start what nobody wants."""
    may_start = threading.Event()
    engine = FakeEngine(MovableClock(), course=lambda _: Course(600))

    def slowly(able: Capabilities) -> Launch:
        may_start.wait(WITHIN_S)
        return launch(able)

    with opened(lambda: engine) as (pool, heard):
        heard.next()
        pool.launch("worker", slowly)
        pool.stop("worker", 0.0, lambda: False)
        may_start.set()
        gone = heard.next()
        assert gone == Gone("worker", Exit(ExitKind.cancelled, "it was stopped"))
        ended = engine.status(["worker"])["worker"].exit
        assert ended is not None
        assert ended.kind is ExitKind.cancelled
