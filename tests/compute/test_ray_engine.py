"""The Ray engine keeps the port's promises on a real cluster of three nodes, and its own."""

from __future__ import annotations

import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.compute.conftest import RayCluster
from tests.compute.test_local_engine import ESCAPE, is_gone, python

from fourfold.adapters.ray import RayEngine, RaySettings
from fourfold.core.errors import Refused, TooMuch, Unauthenticated, Unavailable
from fourfold.core.ports.engine import ExitKind, JobStatus, Launch, Phase, Resources
from fourfold.core.quantities import Range
from fourfold.testing.engine import EngineKit

pytestmark = pytest.mark.slow
ENDS_S = 150.0


class TestRayEngineKeepsTheKit(EngineKit):
    patience_s = ENDS_S
    most_output_bytes = 16 << 20

    @pytest.fixture(autouse=True)
    def _cluster(self, ray_cluster: RayCluster) -> None:
        self.address = ray_cluster.address
        self.label = uuid.uuid4().hex

    def open(self) -> RayEngine:
        address = f"{self.address}&most_output_bytes={self.most_output_bytes}"
        return RayEngine(RaySettings.parse(address), label=self.label)


@pytest.fixture
def engine(ray_cluster: RayCluster) -> Iterator[RayEngine]:
    engine = RayEngine(RaySettings.parse(ray_cluster.address), label=uuid.uuid4().hex)
    yield engine
    engine.reap([])
    engine.close()


def ended(engine: RayEngine, key: str) -> JobStatus:
    status = engine.wait([key], ENDS_S)[key]
    assert status.phase is Phase.ended, f"{key} has not ended: {status}"
    return status


def is_taken(engine: RayEngine, launch: Launch) -> bool:
    """Whether a cluster that has just been started takes a job: its agents come a little later."""
    try:
        engine.submit(launch)
    except Unavailable:
        return False
    return True


def eventually(claim: Callable[[], object], *, within_s: float = ENDS_S) -> None:
    deadline = time.monotonic() + within_s
    while not claim():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.05)  # a cluster tells nobody of what happens on its nodes


def first_line(engine: RayEngine, key: str) -> str:
    eventually(lambda: b"\n" in engine.logs(key).data)
    return engine.logs(key).data.decode().splitlines()[0]


def kind(status: JobStatus) -> ExitKind:
    assert status.exit is not None
    return status.exit.kind


def test_a_job_gets_a_small_clean_environment(engine: RayEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OURS_ALONE", "secret")
    engine.submit(Launch("a", ("env",), env={"GIVEN": "1"}))
    ended(engine, "a")
    lines = engine.logs("a").data.decode().splitlines()
    assert "GIVEN=1" in lines
    assert not [line for line in lines if line.startswith(("OURS_ALONE", "FOURFOLD_LAUNCH", "PYTHONPATH"))]


def test_stopping_ends_what_forked_away_and_ignores_the_polite_word(engine: RayEngine) -> None:
    engine.submit(Launch("a", python(ESCAPE, "600")))
    escaped = int(first_line(engine, "a"))
    engine.stop("a", 0.2)
    assert kind(ended(engine, "a")) is ExitKind.cancelled
    eventually(lambda: is_gone(escaped))


def test_a_stopped_job_has_its_grace(engine: RayEngine) -> None:
    script = """
import signal, sys, time
def leave(*_):
    time.sleep(1.0)
    print("saved", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
print("ready", flush=True)
time.sleep(600)
"""
    engine.submit(Launch("a", python(script)))
    first_line(engine, "a")
    engine.stop("a", 20)
    assert kind(ended(engine, "a")) is ExitKind.cancelled
    assert b"saved" in engine.logs("a").data


def test_a_flood_of_output_is_kept_up_to_its_bound_and_read_in_pieces(ray_cluster: RayCluster) -> None:
    bound = 5 << 20
    settings = RaySettings.parse(f"{ray_cluster.address}&most_output_bytes={bound}")
    engine = RayEngine(settings, label=uuid.uuid4().hex)
    script = "import sys; line = b'x' * 999 + b'\\n'\nfor _ in range(100_000): sys.stdout.buffer.write(line)"
    engine.submit(Launch("a", python(script)))
    assert kind(ended(engine, "a")) is ExitKind.ok
    data, offset = b"", 0
    while not (chunk := engine.logs("a", offset, 700_000)).is_end:
        data, offset = data + chunk.data, chunk.next_offset
        assert len(chunk.data) <= 700_000
    data += chunk.data
    assert data[:bound] == (b"x" * 999 + b"\n") * (bound // 1000) + b"x" * (bound % 1000)
    assert b"94757120 bytes more were not kept" in data[bound:]
    engine.close()


def test_a_job_goes_on_without_the_engine_that_submitted_it(
    engine: RayEngine, ray_cluster: RayCluster
) -> None:
    engine.submit(Launch("a", python("import time; time.sleep(1.5); print('on')")))
    label = engine._label
    engine.close()
    other = RayEngine(RaySettings.parse(ray_cluster.address), label=label)
    assert kind(ended(other, "a")) is ExitKind.ok
    assert other.logs("a").data == b"on\n"
    stranger = RayEngine(RaySettings.parse(ray_cluster.address), label="another")
    assert stranger.status(["a"])["a"].phase is Phase.unknown
    other.close()
    stranger.close()


def test_a_job_whose_node_is_killed_is_lost_and_its_processes_ended(own_ray_cluster: RayCluster) -> None:
    engine = RayEngine(RaySettings.parse(own_ray_cluster.address), label=uuid.uuid4().hex)
    before = {offer.unit for offer in engine.offers(Resources(cpu=Range(0)))}
    doomed = own_ray_cluster.ask("add 0 1")
    asked = Resources(cpu=Range(0), gpu=Range(1))
    (offer,) = engine.offers(asked)
    assert offer.unit not in before
    eventually(lambda: is_taken(engine, Launch("a", python(ESCAPE, "600"), resources=asked)))
    escaped = int(first_line(engine, "a"))
    assert engine.status(["a"])["a"].unit == offer.unit
    own_ray_cluster.ask(f"kill {doomed}")
    assert kind(ended(engine, "a")) is ExitKind.worker_lost
    eventually(lambda: is_gone(escaped))
    assert {offer.unit for offer in engine.offers(Resources(cpu=Range(0)))} == before
    assert engine.logs("a", 1 << 30).is_end
    engine.close()


def test_a_job_whose_keeper_is_killed_is_lost_and_its_processes_ended(engine: RayEngine) -> None:
    engine.submit(Launch("a", python(ESCAPE, "600")))
    escaped = int(first_line(engine, "a"))
    state = engine._state(engine._id("a"), engine._api.job(engine._id("a")) or {})
    assert state is not None
    os.kill(int(state["keeper"]), signal.SIGKILL)
    status = ended(engine, "a")
    assert status.exit is not None
    assert (status.exit.kind, status.exit.reason) == (ExitKind.worker_lost, "its keeper was killed")
    assert is_gone(escaped)


def test_more_jobs_than_the_bound_are_refused_for_now(ray_cluster: RayCluster) -> None:
    settings = RaySettings.parse(f"{ray_cluster.address}&most_jobs=1")
    engine = RayEngine(settings, label=uuid.uuid4().hex)
    engine.submit(Launch("a", ("sleep", "600")))
    engine.submit(Launch("a", ("sleep", "600")))
    with pytest.raises(TooMuch, match="most_jobs"):
        engine.submit(Launch("b", ("true",)))
    engine.stop("a", 0)
    ended(engine, "a")
    engine.submit(Launch("b", ("true",)))
    assert kind(ended(engine, "b")) is ExitKind.ok
    engine.close()


def test_a_wrong_token_and_none_are_denied_with_what_to_do(
    ray_cluster: RayCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bare = ray_cluster.address.partition("?")[0]
    monkeypatch.setenv("WRONG", "0" * 32)
    with pytest.raises(Unauthenticated, match="put the cluster's token into the variable WRONG"):
        RayEngine(RaySettings.parse(f"{bare}?token_env=WRONG"), label="x").status(["a"])
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(Unauthenticated, match="none is set"):
        RayEngine(RaySettings.parse(bare), label="x").offers(Resources())


def test_what_is_too_large_for_ray_is_refused(engine: RayEngine) -> None:
    with pytest.raises(Refused, match="98304"):
        engine.submit(Launch("a", (sys.executable, "-c", "x" * 200_000)))
    assert engine.status(["a"])["a"].phase is Phase.unknown


def test_a_stopped_gang_leaves_no_process(engine: RayEngine) -> None:
    engine.submit(Launch("a", python(ESCAPE, "600"), nodes=2))
    eventually(lambda: engine.logs("a").data.count(b"\n") == 2)
    escaped = [int(line) for line in engine.logs("a").data.split()]
    engine.stop("a", 0.2)
    assert kind(ended(engine, "a")) is ExitKind.cancelled
    eventually(lambda: all(is_gone(pid) for pid in escaped))


def test_more_nodes_than_there_are_is_refused(engine: RayEngine) -> None:
    with pytest.raises(Refused, match="asks for 90 nodes"):
        engine.submit(Launch("a", ("true",), nodes=90))
    assert engine.status(["a"])["a"].phase is Phase.unknown
