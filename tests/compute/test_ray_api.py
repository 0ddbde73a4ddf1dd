"""What the Ray engine makes of clusters that hang, forget, answer nonsense or hold very many jobs."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourfold.adapters.ray import RayEngine, RaySettings, reading
from fourfold.core.errors import Refused, Unavailable
from fourfold.core.ports.engine import ExitKind, Launch, Phase, Resources
from fourfold.core.quantities import Range

pytestmark = pytest.mark.slow

NODE = {
    "node_id": "n" * 8,
    "node_name": "n1",
    "node_ip": "127.0.0.1",
    "state": "ALIVE",
    "resources_total": {"CPU": 4.0, "memory": 8e9, "GPU": 2.0, "accelerator_type:A100": 1.0},
}


@dataclass
class Cluster:
    """Answers as a cluster's dashboard, in memory; `answer` may take a request over."""

    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    nodes: list[dict[str, Any]] = field(default_factory=lambda: [NODE])
    asked: list[str] = field(default_factory=list)
    answer: Callable[[str, str], tuple[int, bytes] | None] = lambda verb, path: None
    address: str = ""

    def respond(self, verb: str, path: str, body: bytes) -> tuple[int, bytes]:
        self.asked.append(f"{verb} {path.partition('?')[0]}")
        if (taken := self.answer(verb, path)) is not None:
            return taken
        match verb, path.partition("?")[0].strip("/").split("/"):
            case "GET", ["api", "jobs"]:
                return 200, json.dumps(list(self.jobs.values())).encode()
            case "POST", ["api", "jobs"]:
                asked = json.loads(body)
                id_ = asked["submission_id"]
                if id_ in self.jobs:
                    return 500, f"Traceback\nValueError: {id_} already exists.".encode()
                self.jobs[id_] = {"status": "PENDING", "driver_node_id": None, **asked}
                return 200, json.dumps({"submission_id": id_}).encode()
            case "GET", ["api", "jobs", id_]:
                return (200, json.dumps(self.jobs[id_]).encode()) if id_ in self.jobs else (404, b"")
            case "GET", ["api", "packages", *_]:
                return 200, b""
            case "GET", ["api", "v0", "nodes"]:
                return 200, json.dumps({"data": {"result": {"result": self.nodes}}}).encode()
            case _:
                return 404, b""


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    cluster = Cluster()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, answer = cluster.respond(self.command, self.path, body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST = do_PUT = do_DELETE = respond  # noqa: N815 - the library's names

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """A client that gave up."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    cluster.address = f"ray://127.0.0.1:{server.server_port}"
    yield cluster
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def engine(cluster: Cluster) -> Iterator[RayEngine]:
    engine = RayEngine(RaySettings.parse(f"{cluster.address}?timeout_s=0.5"), label="x")
    yield engine
    engine.close()


def test_the_status_of_ten_thousand_jobs_is_one_call(engine: RayEngine, cluster: Cluster) -> None:
    keys = [f"job/{index}" for index in range(10_000)]
    for key in keys:
        cluster.jobs[engine._id(key)] = {"submission_id": engine._id(key), "status": "RUNNING"}
    found = engine.status([*keys, "nobody"])
    assert {found[key].phase for key in keys} == {Phase.running}
    assert found["nobody"].phase is Phase.unknown
    assert cluster.asked == ["GET /api/jobs/"]


def test_a_key_whose_answer_was_lost_is_submitted_again_without_harm(
    engine: RayEngine, cluster: Cluster
) -> None:
    lost = iter([True])

    def lose(verb: str, path: str) -> tuple[int, bytes] | None:
        return (500, b"gone") if verb == "POST" and next(lost, False) else None

    cluster.answer = lose
    with pytest.raises(Unavailable, match="answered 500: gone"):
        engine.submit(Launch("a", ("true",)))
    engine.submit(Launch("a", ("true",)))
    engine.submit(Launch("a", ("true",)))
    assert len(cluster.jobs) == 1


def test_a_job_that_the_cluster_forgot_is_unknown(engine: RayEngine, cluster: Cluster) -> None:
    engine.submit(Launch("a", ("true",)))
    assert engine.status(["a"])["a"].phase is Phase.starting
    cluster.jobs.clear()
    assert engine.wait(["a"], 60)["a"].phase is Phase.unknown
    assert engine.logs("a").is_end


def test_a_cluster_that_hangs_is_unavailable_within_the_bound(engine: RayEngine, cluster: Cluster) -> None:
    release = threading.Event()

    def hang(verb: str, path: str) -> None:
        release.wait(30)

    cluster.answer = hang
    began = time.monotonic()
    with pytest.raises(Unavailable, match=r"no answer within 0\.5 s"):
        engine.status(["a"])
    assert time.monotonic() - began < 10
    release.set()


def test_nobody_at_the_address_is_unavailable_and_tells_where() -> None:
    engine = RayEngine(RaySettings.parse("ray://127.0.0.1:1"), label="x")
    with pytest.raises(Unavailable, match=r"http://127.0.0.1:1 does not answer(?s:.)*port 8265"):
        engine.offers(Resources())


@pytest.mark.parametrize("answer", [b"<html>hello</html>", b'{"x": 1}', b"[1, 2"])
def test_what_is_no_ray_is_told(engine: RayEngine, cluster: Cluster, answer: bytes) -> None:
    cluster.answer = lambda verb, path: (200, answer)
    with pytest.raises(Unavailable, match="does not speak Ray's Jobs API"):
        engine.status(["a", "b"])


def test_a_dead_node_is_not_offered_and_equal_names_are_told_apart(
    engine: RayEngine, cluster: Cluster
) -> None:
    cluster.nodes = [NODE, {**NODE, "node_id": "m" * 8}, {**NODE, "node_id": "d" * 8, "state": "DEAD"}]
    assert [offer.unit for offer in engine.offers(Resources())] == ["n1/mmmmmmmm", "n1/nnnnnnnn"]


def test_what_is_asked_becomes_what_ray_reserves(engine: RayEngine, cluster: Cluster) -> None:
    asked = Resources(cpu=Range(2, 8), memory_bytes=Range(1 << 30), gpu=Range(1), gpu_name="a100")
    engine.submit(Launch("a", ("true",), resources=asked))
    (job,) = cluster.jobs.values()
    assert job["entrypoint_num_cpus"] == 2
    assert job["entrypoint_num_gpus"] == 1
    assert job["entrypoint_memory"] == 1 << 30
    assert job["entrypoint_resources"] == {"accelerator_type:A100": 0.001}


def test_a_token_in_the_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(Refused, match="token_env=NAME") as refused:
        RaySettings.parse("ray://secret@head:8265")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "address", ["ray://", "ray://h:99999", "ray://h?most_jobs=0", "ray://h?shares_files=x"]
)
def test_addresses_that_make_no_sense_are_refused(address: str) -> None:
    with pytest.raises(Refused):
        RaySettings.parse(address)


def test_a_token_is_found_where_the_address_says(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(" from-file\n")
    assert RaySettings.parse("ray://h?token_env=T").token({"T": "x"}) == "x"
    assert RaySettings.parse(f"ray://h?token_file={tmp_path}/token").token({}) == "from-file"
    assert RaySettings.parse("ray://h").token({"RAY_AUTH_TOKEN": "y"}) == "y"
    assert RaySettings.parse("ray://h").token({"HOME": str(tmp_path)}) == ""
    with pytest.raises(Refused, match="variable T"):
        RaySettings.parse("ray://h?token_env=T").token({})


STATE = {"exit": {"kind": "over_time", "reason": "ran longer than 1 s", "code": None}, "started_at": 5}


@pytest.mark.parametrize(
    ("job", "kind", "code"),
    [
        ({"message": f"failed\nfourfold: {json.dumps(STATE)}\n"}, ExitKind.over_time, None),
        ({"error_type": "JOB_SUPERVISOR_ACTOR_DIED", "message": "its node died"}, ExitKind.worker_lost, None),
        ({"error_type": "JOB_SUPERVISOR_ACTOR_DIED", "message": "killed by the memory monitor"},
         ExitKind.out_of_memory, None),
        ({"error_type": "RUNTIME_ENV_SETUP_FAILURE"}, ExitKind.worker_lost, None),
        ({"error_type": "JOB_ENTRYPOINT_COMMAND_ERROR", "driver_exit_code": 127}, ExitKind.failed, 127),
        ({"error_type": "JOB_ENTRYPOINT_COMMAND_ERROR", "driver_exit_code": -9}, ExitKind.worker_lost, -9),
    ],
)  # fmt: skip
def test_ends_are_told_apart(job: dict[str, Any], kind: ExitKind, code: int | None) -> None:
    exit_ = reading.job_status("a", {"status": "FAILED", **job}, {}).exit
    assert exit_ is not None
    assert (exit_.kind, exit_.code) == (kind, code)
    assert exit_.reason


@pytest.mark.property
@given(
    status=st.sampled_from(["PENDING", "RUNNING", "SUCCEEDED", "FAILED", "STOPPED", "LATER"]),
    message=st.one_of(
        st.none(),
        st.text(),
        st.text().map(lambda text: f"fourfold: {text}"),
        st.sampled_from(["{}", "[]", '{"exit": {}}', '{"exit": {"kind": "?", "reason": 1, "code": ""}}']).map(
            lambda text: f"fourfold: {text}"
        ),
    ),
    error=st.one_of(st.none(), st.sampled_from(sorted(reading.NOT_STARTED)), st.text()),
    code=st.one_of(st.none(), st.integers(-64, 255)),
    at=st.one_of(st.none(), st.integers(0, 2**42)),
)
def test_whatever_ray_says_of_a_job_has_a_meaning(
    status: str, message: str | None, error: str | None, code: int | None, at: int | None
) -> None:
    job = {"status": status, "message": message, "error_type": error, "driver_exit_code": code}
    told = reading.job_status("a", {**job, "start_time": at, "end_time": at}, {})
    assert (told.exit is not None) == (told.phase is Phase.ended)
