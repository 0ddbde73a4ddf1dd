"""What was acknowledged stays: through kill -9, between pushers, across definitions that change."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from fourfold.catalog.database import Catalog
from fourfold.core import context
from fourfold.core.errors import Unavailable
from fourfold.mlplatform.features import api as fs
from fourfold.testing.clock import MovableClock

from .conftest import Delays, Store, airport, definitions, delays, departures, flights, open_store, service


def event(number: int, minutes: int = 0, origin: str = "JFK") -> pa.Table:
    return flights((number, origin, minutes, 5, 1.0, 1))


PUSHER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from fourfold.catalog.database import Catalog
from fourfold.testing.clock import MovableClock
from tests.conftest import import_all_tables
from tests.features.conftest import flights, open_store
import_all_tables()
store = open_store(Catalog(sys.argv[2]), Path(sys.argv[3]), MovableClock())
number = 0
while True:
    pushed = store.features.push("departures", flights((number, "JFK", 0, 5, 1.0, 1)))
    print(number, pushed.watermark, flush=True)
    number += 1
"""


@pytest.mark.slow
def test_an_acknowledged_push_survives_the_pusher_being_killed(store: Store) -> None:
    root = str(Path(__file__).parents[2])
    child = subprocess.Popen(
        [sys.executable, "-c", PUSHER, root, store.catalog.url, str(store.home)], stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    acknowledged = [child.stdout.readline().split() for _ in range(25)]
    os.kill(child.pid, signal.SIGKILL)
    acknowledged += [line.split() for line in child.stdout.read().splitlines() if line.count(b" ") == 1]
    child.wait(timeout=60)
    sequences = [int(watermark) for _, watermark in acknowledged]
    assert sequences == list(range(1, len(sequences) + 1))
    repeated = store.features.push(
        "departures", flights(*((n, "JFK", 0, 5, 1.0, 1) for n in range(len(sequences))))
    )
    assert repeated.duplicates == len(sequences)
    store.features.flush("departures")
    in_table = store.storage.read("departures")["flight"].to_pylist()
    assert sorted(in_table) == list(range(len(in_table)))  # each once, the one in doubt at most once
    assert len(sequences) <= len(in_table) <= len(sequences) + 1


@pytest.mark.slow
def test_pushers_at_once_give_every_event_a_number_of_its_own(
    store: Store, sqlite_catalog: Catalog, clock: MovableClock
) -> None:
    other = open_store(sqlite_catalog, store.home, clock)
    seen: list[int] = []

    def push(features: Any, first: int) -> None:
        for number in range(first, first + 20):
            seen.append(features.push("departures", event(number)).watermark)
            features.push("departures", event(number % 5))

    threads = [
        threading.Thread(target=push, args=(store.features, 100)),
        threading.Thread(target=push, args=(other.features, 200)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(set(seen)) == 40
    assert store.features.freshness()[0].applied == 45
    assert store.features.flush("departures") == 45
    assert store.storage.describe("departures").rows == 45
    other.online.close()


@pytest.mark.slow
def test_a_flush_that_was_cut_off_appends_nothing_twice(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        store.features.push("departures", event(number))
    append = type(store.storage).append

    def cut_off(self: Any, *args: Any, **kwargs: Any) -> None:
        append(self, *args, **kwargs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(store.storage), "append", cut_off)
        with pytest.raises(KeyboardInterrupt):
            store.features.flush("departures")
    store.features.push("departures", event(3))
    store.features.flush("departures")
    assert sorted(store.storage.read("departures")["flight"].to_pylist()) == [0, 1, 2, 3]


def test_a_view_defined_later_is_refused_until_it_has_read_what_came_before(store: Store) -> None:
    store.features.push("departures", event(1, minutes=0))
    store.features.push("departures", event(2, minutes=1))

    @fs.view(entity=airport, source=departures)
    class Seats:
        chairs = fs.sum("seats", over="30d")

    both = fs.FeatureService("both", [Delays, Seats])
    store.features.apply(definitions(both))
    plan = store.features.plan("both")
    with pytest.raises(Unavailable, match="run materialize"):
        plan.read([{"origin": "JFK"}])
    assert store.features.online("delays", [{"origin": "JFK"}]).rows[0].values[0] == 1.0
    store.features.push("departures", event(3, minutes=2))
    store.features.materialize()
    store.features.push("departures", event(4, minutes=3))
    (vector,), watermark = plan.read([{"origin": "JFK"}])
    assert (dict(zip(plan.names, vector.values, strict=True))["chairs"], watermark) == (4, 4)


@pytest.mark.slow
def test_a_view_that_was_changed_back_is_built_anew(store: Store) -> None:
    store.features.push("departures", event(1))

    @fs.view(entity=airport, source=departures, name="Delays")
    class Other:
        n = fs.count(over="1d")

    handle: Any = Other
    for name in ("a", "b", "c"):  # more than the versions of a service that are kept up to date
        other = fs.FeatureService("delays", [handle.rename({"n": name})])
        store.features.apply(definitions(other))
        store.features.materialize()
    store.features.push("departures", event(2))
    store.features.apply(definitions(service))
    with pytest.raises(Unavailable):
        store.features.online("delays", [{"origin": "JFK"}])
    store.features.materialize()
    assert store.features.online("delays", [{"origin": "JFK"}]).rows[0].values[2] == 2


@pytest.mark.slow
def test_definitions_and_sets_are_kept_by_either_database(
    catalog: Catalog, tmp_path: Path, clock: MovableClock
) -> None:
    store = open_store(catalog, tmp_path, clock)
    store.storage.append("departures", event(1))
    first = store.features.apply(definitions(service))
    assert first.created == (f"Delays@{delays.view.version}", f"delays@{service.value.version}")
    assert store.features.apply(definitions(service)).unchanged == first.created
    labels = pa.table({"origin": ["JFK"], "hour": [1], "t": pa.array([clock.now()], pa.int64())})
    store.features.training_set("delays", labels, at="t")

    other = open_store(catalog, tmp_path, clock)
    assert other.features.view("Delays").view == delays.view
    assert other.features.service("delays").service == service.value
    assert other.features.service("delays").kinds["left_1h"] == "int"
    assert [info.rows for info in other.features.training_sets(service="delays")] == [1]
    for each in (store, other):
        each.online.close()


class Recorder:
    """An ambient that keeps what is reported."""

    def __init__(self) -> None:
        self.read: list[context.Ref] = []
        self.written: list[context.Ref] = []
        self.executing = context.Executing("run", "call", 1, "code", "env")

    def record_read(self, ref: context.Ref) -> None:
        self.read.append(ref)

    def record_write(self, ref: context.Ref) -> None:
        self.written.append(ref)

    def write_key(self) -> str:
        raise AssertionError("moving pushed events to their table is not the step's own write")


@pytest.mark.slow
def test_a_training_set_reports_what_it_read_also_when_it_was_kept(store: Store) -> None:
    store.features.push("departures", event(1))
    labels = pa.table({"origin": ["JFK"], "hour": [1], "t": pa.array([store.clock.now()], pa.int64())})
    reports = []
    for _ in range(2):
        here = Recorder()
        with context.within(here):
            store.features.training_set("delays", labels, at="t")
        reports.append({str(ref) for ref in here.read})
    assert reports[0] == reports[1]
    assert "table:departures@1" in reports[0]
