"""An engine that hangs, in any of its calls, holds up no other pool, no asker and no end of the process."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.flows.conftest import Project, opened

from fourfold.adapters.system_clock import SystemClock
from fourfold.catalog.ids import new_id
from fourfold.core import context
from fourfold.core.decide.pools import PoolRules
from fourfold.core.ports.engine import Engine, Offer
from fourfold.resources.flows.crew import Settings
from fourfold.resources.flows.service import FlowService
from fourfold.resources.pools import pool as pools
from fourfold.resources.pools.beside import Beside
from fourfold.resources.pools.pool import PoolPlan
from fourfold.testing.engine import Course, FakeEngine

pytestmark = pytest.mark.slow

WITHIN_S = 60.0
SOURCE = """
@ff.step
def here():
    return 1

@ff.step(pool="lab")
def there():
    return 1

@ff.flow
def local():
    return here().result()

@ff.flow
def afar():
    return there().result()
"""


class Trap:
    """A call that does not return until it is let."""

    def __init__(self) -> None:
        self.begun, self._may_end = threading.Event(), threading.Event()

    def __call__(self, *_: object, **__: object) -> Any:
        self.begun.set()
        self._may_end.wait(WITHIN_S)
        raise OSError("let go")

    def spring(self) -> None:
        self._may_end.set()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    with opened(tmp_path_factory.mktemp("hanging")) as project:
        project.module("hanging", SOURCE)
        yield project


@contextmanager
def served(project: Project, lab: Callable[[], Engine]) -> Iterator[FlowService]:
    flows = FlowService(
        project.catalog,
        project.blobs,
        home=project.folder / ".fourfold",
        pools=lambda: (*project.pools(), PoolPlan("lab", lab, engine="lab://")),
        clock=SystemClock(),
        new_id=new_id,
        environment=lambda: "env",
        accounts=project.compute,
        settings=Settings(pools=PoolRules("local"), stop_grace_s=0.1),
    )
    services: Any = SimpleNamespace(flows=flows)
    context.set_opener(lambda: services)
    try:
        yield flows
    finally:
        flows.close()


@pytest.mark.parametrize(
    ("call", "lasts_s"),
    [
        ("open", 600),
        ("capabilities", 600),
        ("offers", 600),
        ("reap", 600),
        ("submit", 600),
        ("status", 600),
        ("logs", 0),  # asked of a worker that ended before it connected
        ("stop", 600),
        ("wait", 600),
        ("close", 600),
    ],
)
def test_an_engine_that_hangs_in_this_call_holds_up_nobody_else(
    project: Project, monkeypatch: pytest.MonkeyPatch, call: str, lasts_s: float
) -> None:
    for bound, within_s in {"LOOK_S": 0.05, "END_WITHIN_S": 1.0, "OPEN_WITHIN_S": 0.5}.items():
        monkeypatch.setattr(pools, bound, within_s)
    trap = Trap()
    engine = FakeEngine(
        SystemClock(), offers=(Offer("node", 64, 64 << 30),), course=lambda _: Course(lasts_s)
    )
    if call != "open":
        monkeypatch.setattr(engine, call, trap)
    module = sys.modules["hanging"]
    try:
        with served(project, trap if call == "open" else lambda: engine) as flows:
            waits = module.afar.submit()
            if call in ("stop", "wait"):
                until(lambda: is_launched(flows, waits.id, engine), "its worker is launched")
                flows.cancel(waits.id)
            if call != "close":
                assert trap.begun.wait(WITHIN_S), f"'{call}' was not asked"
            assert module.local.run(show=False) == 1
            assert {pool.name for pool in flows.pools()} == {"local", "lab"}
            assert module.local.run(show=False) == 1
        assert trap.begun.is_set()
    finally:
        trap.spring()


def is_launched(flows: FlowService, run: str, engine: FakeEngine) -> bool:
    return any(each.worker in engine.launched for each in flows.graph(run).attempts)


def until(holds: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)


ENDS = """
import threading
from fourfold.resources.pools.pool import Pool, PoolPlan
begun = threading.Event()
def hangs():
    begun.set()
    threading.Event().wait()
pool = Pool(PoolPlan("lab", hangs), lambda _: None)
pool.open()
begun.wait()
print("over", flush=True)
"""


def test_a_process_ends_though_an_engine_hangs(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENDS], capture_output=True, text=True, timeout=WITHIN_S, check=False
    )
    assert (done.returncode, done.stdout) == (0, "over\n"), done.stderr


def test_what_waits_when_it_is_closed_is_cancelled_and_what_came_later_too() -> None:
    beside, trap = Beside(1, name="test"), Trap()
    under_way = beside.submit(trap)
    assert trap.begun.wait(WITHIN_S)
    waiting = beside.submit(int)
    beside.close()
    later = beside.submit(int)
    assert waiting.cancelled()
    assert later.cancelled()
    trap.spring()
    assert isinstance(under_way.exception(WITHIN_S), OSError)
