"""The way to the store is measured over HTTP against a real S3 server, and nothing of it stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.s3 import Answer, Ask, Asked, Proxy, fresh_bucket, refusal

from fourfold.adapters.local_blobs import LocalBlobs
from fourfold.adapters.object_blobs import ObjectBlobs
from fourfold.adapters.object_store import ObstoreObjects
from fourfold.catalog.database import Catalog
from fourfold.core import times
from fourfold.core.compute import Figure, FigureName, Unit
from fourfold.core.decide.measured import OF_A_GPU, OF_THE_STORE
from fourfold.core.objects import ObjectAddress
from fourfold.core.times import Instant
from fourfold.foundation.compute import bench, to_store
from fourfold.foundation.compute.to_store import Store, measure_store
from fourfold.foundation.storage.upkeep import Upkeep
from fourfold.testing.clock import MovableClock

pytestmark = pytest.mark.slow

DEADLINE_S = 60
MEASURE = """
import sys
from fourfold.adapters.object_blobs import ObjectBlobs
from fourfold.adapters.object_store import ObstoreObjects
from fourfold.core.objects import ObjectAddress
from fourfold.foundation.compute.to_store import Store, measure_store
blobs = ObjectBlobs(ObstoreObjects(ObjectAddress.parse(sys.argv[1])))
sys.stdin.readline()
measure_store(Store(sys.argv[1], True, lambda: blobs), quick=True, tell=print)
"""


def objects_at(address: str) -> ObstoreObjects:
    return ObstoreObjects(ObjectAddress.parse(address))


def store_at(address: str) -> Store:
    return Store(address, True, lambda: ObjectBlobs(objects_at(address)))


def test_both_ways_and_both_sizes_are_measured_and_nothing_is_left(s3: str) -> None:
    told: list[Figure] = []
    assert measure_store(store_at(s3), quick=True, tell=told.append) == ()
    assert {figure.name for figure in told} == OF_THE_STORE
    for figure in told:
        assert 0 < figure.low <= figure.value <= figure.high
        assert figure.repeat_count >= to_store.LEAST_REPEATS
    left = [stat.key for stat in objects_at(s3).listing("")]
    assert [key for key in left if not key.startswith(".fourfold/")] == []  # the store's probe stays


def test_a_store_that_cannot_be_reached_is_said_and_the_rest_is_measured(
    aws: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = store_at("s3://lake/team?endpoint=http://127.0.0.1:9&patience_s=1")
    made = bench.measure_unit(
        Unit("local", 1, 1 << 30), folder=tmp_path, clock=MovableClock(), quick=True, store=store
    )
    assert {figure.name for figure in made.figures} == set(FigureName) - OF_THE_STORE - OF_A_GPU
    (note,) = [note for note in made.notes if "was not measured to the end" in note]
    assert store.name in note
    assert made.versions["store"] == store.name


def test_a_store_that_refuses_half_way_keeps_the_figures_made_before(
    moto: str, aws: pytest.MonkeyPatch
) -> None:
    def refuses_large(asked: Asked, ask: Ask) -> Answer:
        return refusal(403, "AccessDenied") if len(asked.body) > to_store.SMALL_BYTES else ask(asked)

    told: list[Figure] = []
    with Proxy(moto, refuses_large) as proxy:
        address = f"s3://{fresh_bucket(moto)}/team?endpoint={proxy.endpoint}&patience_s=1"
        (note,) = measure_store(store_at(address), quick=True, tell=told.append)
    assert {figure.name for figure in told} == {FigureName.store_put_4k, FigureName.store_get_4k}
    assert "was not measured to the end" in note


def test_a_folder_of_this_machine_is_called_one(tmp_path: Path) -> None:
    told: list[Figure] = []
    blobs = LocalBlobs(tmp_path)
    (note,) = measure_store(Store("file:///x", False, lambda: blobs), quick=True, tell=told.append)
    assert note.startswith("the store is a folder of this machine, file:///x: ")
    assert {figure.name for figure in told} == OF_THE_STORE
    assert list(blobs.entries()) == []


def test_what_a_killed_measurement_left_is_removed_as_garbage(
    moto: str, aws: pytest.MonkeyPatch, sqlite_catalog: Catalog, tmp_path: Path
) -> None:
    def kills(asked: Asked, ask: Ask) -> Answer | None:
        if asked.method == "GET" and "/blobs/" in asked.path:  # a blob is there, and on its way back
            process.send_signal(signal.SIGKILL)
            return None
        return ask(asked)

    bucket = fresh_bucket(moto)
    with Proxy(moto, kills) as proxy:
        through = f"s3://{bucket}/team?endpoint={proxy.endpoint}"
        process = subprocess.Popen(
            [sys.executable, "-c", MEASURE, through], stdin=subprocess.PIPE, env=dict(os.environ)
        )
        process.communicate(b"\n", DEADLINE_S)
    assert process.returncode == -signal.SIGKILL
    blobs = ObjectBlobs(objects_at(f"s3://{bucket}/team?endpoint={moto}"))
    (left,) = blobs.entries()
    later = MovableClock(Instant(times.after(left.put_at, 8 * 86_400)))
    uploads = LocalBlobs(tmp_path / "uploads")
    collected = Upkeep(sqlite_catalog, blobs, uploads, later, folder=tmp_path).collect_garbage()
    assert collected.removed_count == 1
    assert list(blobs.entries()) == []
