"""The real thing: a gateway over HTTP, worker processes over their socket, models from the store."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.hosting import late_project

import fourfold as ff
from fourfold import features as fs
from fourfold import wiring
from fourfold.core.errors import NotFound, Refused
from fourfold.core.hosting import Health

pytestmark = pytest.mark.slow

ROW = {"distance": 1400.0, "hour": 18}
PATIENCE_S = 60.0


@pytest.fixture
def project(home: Path) -> Iterator[wiring.Project]:
    """An empty project; what it started is gone at the end."""
    opened = wiring.open_project()
    assert opened.home == home.resolve()
    yield opened
    opened.close()


def until(is_there: Callable[[], bool]) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not is_there():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def ask(project: wiring.Project, path: str, body: object = None, token: str | None = None) -> tuple[int, Any]:
    """One request of a client that knows nothing of Fourfold."""
    gateway = project.hosting.gateway()
    assert gateway is not None
    headers = {"Authorization": f"Bearer {project.token if token is None else token}"}
    data = None
    if body is not None:
        headers["Content-Type"] = "application/json"
        data = json.dumps(body).encode()
    request = urllib.request.Request(gateway.url + path, data=data, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def workers_of(pid: int) -> list[int]:
    """Processes below the gateway that run a model."""
    below = [pid]
    for one in below:
        for task in Path(f"/proc/{one}/task").iterdir():
            below += [int(word) for word in (task / "children").read_text().split()]
    return [one for one in below if b"hosting.worker" in Path(f"/proc/{one}/cmdline").read_bytes()]


def python(code: str, *, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Another process of the same project."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=folder or Path.cwd(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_a_saved_model_answers_over_the_protocol_and_its_log_and_scores_agree(
    project: wiring.Project,
) -> None:
    fitted = late_project.logistic()
    version = late_project.save(fitted)
    endpoint = ff.deploy(version)
    rows = late_project.flights(20)
    expected = late_project.predict(fitted, late_project.featurize(rows))["late"].tolist()

    inputs = [
        {"name": "distance", "shape": [20], "datatype": "FP64", "data": rows["distance"].to_pylist()},
        {"name": "hour", "shape": [20], "datatype": "INT64", "data": rows["hour"].to_pylist()},
    ]
    status, answer = ask(project, "/v2/models/late/infer", {"inputs": inputs})
    assert (status, answer["model_version"]) == (200, "1")
    assert answer["outputs"][0]["data"] == pytest.approx(expected, abs=1e-12)
    assert ask(project, "/v2/models/late/infer", {"inputs": inputs}, token="wrong")[0] == 401
    with pytest.raises(NotFound, match="endpoint 'lat' does not exist"):
        ff.endpoint("lat").predict(ROW)

    empty = endpoint.predict({"distance": None, "hour": 3})
    assert empty.model == "late/1"
    endpoint.feedback(empty, late=True)
    served = endpoint.labelled("late")
    assert served.num_rows == 21
    assert served["feedback"].drop_null().to_pylist() == [1.0]
    logged = sorted(served["predicted_late"].to_pylist())
    assert logged == pytest.approx(sorted([*expected, empty.value]), abs=1e-12)

    ff.table("flights").append(rows)
    scored = ff.predict_table(version, "flights", out="scores", keep=["hour"])
    assert scored.row_count == 20
    assert ff.table("scores").read()["late"].to_pylist() == pytest.approx(expected, abs=1e-12)


airport = fs.Entity("airport", key="origin")
departures = fs.Source(
    "departures", table="departures", time="left_at", available_at="known_at", event_id="flight"
)


@fs.view(entity=airport, source=departures)
class Delays:
    delay = fs.mean("delay", over="1h")
    left = fs.count(over="1h")


def left(*rows: tuple[int, str, float]) -> pa.Table:
    """Flights by number, airport and delay; each left just now."""
    now = pa.scalar(datetime.now(UTC) - timedelta(seconds=60), pa.timestamp("us", "UTC"))
    flight, origin, delay = zip(*rows, strict=True)
    times = pa.array([now] * len(rows), now.type)
    return pa.table(
        {
            "flight": pa.array(flight, pa.int64()),
            "origin": pa.array(origin, pa.string()),
            "left_at": times,
            "known_at": times,
            "delay": pa.array(delay, pa.float64()),
        }
    )


def test_features_are_looked_up_as_pushed_and_the_log_passes_the_audit(project: wiring.Project) -> None:
    ff.table("departures").append(left((0, "LGA", 5.0)).slice(0, 0))
    fs.apply(Delays, fs.FeatureService("airports", [Delays], request=["hour"]))
    example = pa.table({"hour": [3, 4], "delay": [10.0, None]})
    version = late_project.save(late_project.ByDelay(), by=late_project.featurize_delay, example=example)
    endpoint = ff.deploy(version, features="airports")

    fs.push(departures, left((1, "JFK", 10.0), (2, "JFK", 30.0)))
    first = endpoint.predict([{"origin": "JFK", "hour": 3}, {"origin": "XXX", "hour": 3}])
    assert [one.value for one in first] == pytest.approx([0.2, 0.5])
    assert [bool(one.missing) for one in first] == [False, True]
    fs.push(departures, left((3, "JFK", 80.0)))  # seen at once, by another process
    second = endpoint.predict({"origin": "JFK", "hour": 3})
    assert second.value == pytest.approx(0.4)
    assert second.watermark is not None
    assert first[0].watermark is not None
    assert second.watermark > first[0].watermark
    with pytest.raises(Refused, match="the row has no key 'origin'"):
        endpoint.predict({"hour": 3})

    report = fs.audit("airports", endpoint.served())
    assert report.is_equal
    assert report.rows == 3

    now = pa.scalar(datetime.now(UTC), pa.timestamp("us", "UTC"))
    ff.table("plan").append(
        pa.table({"origin": ["JFK", "XXX"], "hour": [3, 4], "t": pa.array([now, now], now.type)})
    )
    ff.predict_table(version, "plan", out="scores", features="airports", time_column="t", keep=["origin"])
    assert ff.table("scores").read()["late"].to_pylist() == pytest.approx([0.4, 0.5])


def test_no_request_fails_in_swaps_or_when_the_worker_is_killed(project: wiring.Project) -> None:
    first = late_project.save(late_project.Always(0.25))
    second = late_project.save(late_project.Always(0.5))
    endpoint = ff.deploy(first, deadline_s=30)
    gateway = project.hosting.gateway()
    assert gateway is not None
    seen: list[object] = []
    failures: list[BaseException] = []
    is_over = threading.Event()

    def client() -> None:
        while not is_over.is_set():
            try:
                seen.append(endpoint.predict(ROW).value)
            except BaseException as error:
                failures.append(error)
                return

    clients = [threading.Thread(target=client) for _ in range(4)]
    for each in clients:
        each.start()
    for version in (second, first, second):
        ff.deploy(version, "late")
    until(lambda: len(workers_of(gateway.pid)) == 1)
    (victim,) = workers_of(gateway.pid)
    count = len(seen)
    os.kill(victim, signal.SIGKILL)
    until(lambda: len(seen) > count + 20 and workers_of(gateway.pid) not in ([], [victim]))
    is_over.set()
    for each in clients:
        each.join()
    assert failures == []
    assert set(seen) == {0.25, 0.5}
    assert seen[-1] == 0.5
    assert endpoint.info.health is Health.ready
    told = [event.reason for event in project.hosting.events("late") if event.kind == "restarting"]
    assert any("SIGKILL" in reason for reason in told)


def test_a_version_that_fails_its_example_does_not_take_over(
    project: wiring.Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = ff.deploy(late_project.save(late_project.Always(0.25)))
    monkeypatch.setenv("LATE_CHANCE", "0.5")  # what the worker will not have
    second = late_project.save(late_project.Moody())
    with pytest.raises(Refused, match="did not get ready behind 'late'") as caught:
        ff.deploy(second, "late")
    assert "does not answer its stored example as it did" in str(caught.value)
    assert endpoint.predict(ROW).model == "late/1"
    assert endpoint.info.health is Health.ready


def test_another_process_finds_the_gateway_and_a_later_one_starts_its_own(project: wiring.Project) -> None:
    ff.deploy(late_project.save(late_project.Always(0.25)))
    gateway = project.hosting.gateway()
    assert gateway is not None
    ask_again = """
        import fourfold as ff
        endpoint = ff.endpoint("late")
        print(endpoint.predict({"distance": 1.0, "hour": 3}).value, endpoint.info.url)
    """
    found = python(ask_again)
    assert found.stdout.split() == ["0.25", f"{gateway.url}/endpoints/late"], found.stderr

    ff.endpoint("late").flush()
    os.kill(gateway.pid, signal.SIGKILL)  # its host starts another one, at the same address
    until(lambda: (now := project.hosting.gateway()) is not None and now.pid != gateway.pid)
    assert project.hosting.gateway().url == gateway.url  # type: ignore[union-attr]
    assert ff.endpoint("late").predict(ROW).value == 0.25
    assert ff.endpoint("late").served().num_rows == 2  # what was flushed outlived the kill

    project.close()  # the host ends, and the gateway with it
    reopened = wiring.open_project()
    assert reopened.hosting.endpoint("late").health is Health.unreachable
    found = python(ask_again)
    assert found.stdout.startswith("0.25 "), found.stderr
    assert reopened.hosting.gateway() is None  # it went with the process that needed it
    reopened.close()


FLOW = """
import os
import time
from pathlib import Path

import fourfold as ff
import late_project


@ff.step(cpu=0.5)
def deploy(chance: float) -> bool:
    ff.deploy(late_project.save(late_project.Always(chance)))
    return ff.endpoint("late").info.live is not None


@ff.step(cpu=0.5)
def ask(one: int, folder: Path) -> tuple[int, list[object]]:
    (folder / f"{one}.asks").touch()
    while len(list(folder.glob("*.asks"))) < 2:  # so these are two processes
        time.sleep(0.01)
    endpoint = ff.endpoint("late")
    said = {endpoint.predict({"distance": 1.0, "hour": 3}).value for _ in range(20)}
    return os.getpid(), sorted(said)


@ff.flow
def live(folder: Path) -> tuple[list[object], int]:
    assert deploy(0.25).result()
    asked = [ask(one, folder) for one in range(2)]
    return [each.result() for each in asked], ff.endpoint("late").flush()
"""


def test_steps_in_different_processes_share_a_gateway_that_outlives_them(
    project: wiring.Project, home: Path
) -> None:
    (home.parent / "live_flow.py").write_text(FLOW)
    shutil.copy(late_project.__file__, home.parent)
    script = f"""
        from pathlib import Path
        from live_flow import live
        from fourfold.core.context import services

        (first, second), _ = live.run(folder=Path("{home.parent}"))
        print(first[0] != second[0], first[1], second[1], services().hosting.gateway() is not None)
    """
    found = python(script, folder=home.parent)
    assert found.stdout.strip() == "True [0.25] [0.25] True", found.stderr
    assert project.hosting.gateway() is None  # it ended with the script
    assert project.hosting.endpoint("late").health is Health.unreachable
    assert ff.table("predictions.late").read().num_rows == 40  # its log was written first

    command = [str(Path(sys.executable).with_name("fourfold")), "up", "--port", "0", "--quiet"]
    with subprocess.Popen(command, cwd=home.parent, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline().startswith("http://127.0.0.1:")
        until(lambda: project.hosting.endpoint("late").health is Health.ready)
        assert ff.endpoint("late").predict(ROW).value == 0.25
        server.terminate()
    assert project.hosting.gateway() is None
