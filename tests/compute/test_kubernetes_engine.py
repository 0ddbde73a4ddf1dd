"""The Kubernetes engine keeps the port's promises on the small Kubernetes, and its own."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.compute.kubernetes_cluster import Clients, secured

from fourfold.adapters.kubernetes import KubernetesEngine, KubernetesSettings, access
from fourfold.adapters.kubernetes import engine as engine_module
from fourfold.adapters.kubernetes.body import name_of
from fourfold.adapters.kubernetes.reading import KEY
from fourfold.core.errors import Missing, Refused, TooMuch, Unauthenticated, Unavailable
from fourfold.core.ports.engine import ExitKind, JobStatus, Launch, LogChunk, Phase, Resources
from fourfold.core.quantities import Range
from fourfold.testing.engine import EngineKit
from fourfold.testing.kubernetes import FakeCluster, Fault, Node
from fourfold.testing.kubernetes.kinds import JOB, POD

pytestmark = pytest.mark.slow
ENDS_S = 60.0


@pytest.fixture(scope="module")
def tls_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def cluster(tls_folder: Path) -> Iterator[FakeCluster]:
    with secured(tls_folder, missing_images=("nowhere/none:1",)) as cluster:
        yield cluster


@pytest.fixture
def clients(cluster: FakeCluster, tmp_path: Path) -> Iterator[Clients]:
    yield Clients(cluster, tmp_path)
    cluster.fault = lambda verb, path: None
    cluster.empty()


def opened(clients: Clients, label: str, **more: object) -> KubernetesEngine:
    asked = {"kubeconfig": clients.config, "image": "example/any:1", **more}
    words = "&".join(f"{name}={value}" for name, value in asked.items())
    settings = KubernetesSettings.parse(f"kubernetes://?{words}")
    return KubernetesEngine(settings, label=label, folder=clients.folder / "jobs")


class TestKubernetesKeepsTheKit(EngineKit):
    patience_s = ENDS_S
    most_output_bytes = 16 << 20

    @pytest.fixture(autouse=True)
    def _place(self, clients: Clients) -> None:
        self.clients, self.label = clients, uuid.uuid4().hex

    def open(self) -> KubernetesEngine:
        return opened(self.clients, self.label, shares_files=1, most_output_bytes=self.most_output_bytes)

    def open_in(self, folder: Path) -> KubernetesEngine:
        settings = KubernetesSettings.parse(
            f"kubernetes://?kubeconfig={self.clients.config}&image=example/any:1&shares_files=1"
        )
        return KubernetesEngine(settings, label=self.label, folder=folder)


@pytest.fixture
def label() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def engine(clients: Clients, label: str) -> Iterator[KubernetesEngine]:
    engine = opened(clients, label)
    yield engine
    engine.close()


def ended(engine: KubernetesEngine, key: str) -> JobStatus:
    status = engine.wait([key], ENDS_S)[key]
    assert status.phase is Phase.ended, f"{key} has not ended: {status}"
    return status


def kind(status: JobStatus) -> ExitKind:
    assert status.exit is not None
    return status.exit.kind


def eventually(claim: Callable[[], object]) -> None:
    deadline = time.monotonic() + ENDS_S
    while not claim():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.03)


def sh(script: str) -> tuple[str, ...]:
    return ("/bin/sh", "-c", script)


def running(engine: KubernetesEngine, key: str) -> None:
    eventually(lambda: engine.status([key])[key].phase is Phase.running)


def test_a_job_gets_a_small_clean_environment_and_no_pod_shows_it(
    engine: KubernetesEngine, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OURS_ALONE", "secret")
    engine.submit(Launch("a", ("env",), env={"FOURFOLD_TOKEN": "s3cret-word"}))
    ended(engine, "a")
    lines = engine.logs("a").data.decode().splitlines()
    assert {"FOURFOLD_TOKEN=s3cret-word", "OMP_NUM_THREADS=1"} <= set(lines)
    assert not [line for line in lines if line.startswith(("OURS_ALONE", "KUBERNETES_"))]
    shown = clients.kubectl("get", "pods,jobs", "-o", "json")
    assert "s3cret-word" not in shown
    assert "czNjcmV0LXdvcmQ" not in shown


def test_what_a_job_has_goes_with_it(engine: KubernetesEngine, clients: Clients) -> None:
    engine.submit(Launch("a", ("true",), env={"A": "1"}))
    ended(engine, "a")
    clients.kubectl("delete", "jobs", "--all")
    eventually(lambda: clients.kubectl("get", "jobs,pods,secrets", "-o", "name") == "")
    assert kind(engine.status(["a"])["a"]) is ExitKind.ok, "what was seen stays seen"
    eventually(lambda: engine._jobs.find(name_of(engine._label, "a")) is None)
    engine.submit(Launch("a", sh("echo again; exit 2")))  # who deletes a job frees its key
    assert kind(ended(engine, "a")) is ExitKind.failed
    assert engine.logs("a").data == b"again\n"


def test_a_job_goes_on_without_the_engine_that_submitted_it(
    engine: KubernetesEngine, clients: Clients, label: str
) -> None:
    engine.submit(Launch("a", sh("sleep 1; echo on")))
    engine.close()
    other, stranger = opened(clients, label), opened(clients, "another")
    assert kind(ended(other, "a")) is ExitKind.ok
    assert other.logs("a").data == b"on\n"
    assert stranger.status(["a"])["a"].phase is Phase.unknown
    assert stranger.reap([]) == ()
    other.close()
    stranger.close()


def test_a_stopped_job_has_its_grace_and_its_last_words_are_kept(engine: KubernetesEngine) -> None:
    engine.submit(Launch("a", sh("trap 'echo saved; exit 0' TERM; echo ready; while :; do sleep 0.1; done")))
    eventually(lambda: engine.logs("a").data)
    engine.stop("a", 20)
    assert kind(ended(engine, "a")) is ExitKind.cancelled
    assert engine.logs("a") == LogChunk(b"ready\nsaved\n", 12, is_end=True)


def test_a_stopped_job_never_starts_again(engine: KubernetesEngine, clients: Clients, label: str) -> None:
    launch = Launch("a", sh("echo once; sleep 600"))
    engine.submit(launch)
    running(engine, "a")
    engine.stop("a", 0)
    ended(engine, "a")
    other = opened(clients, label)
    other.submit(launch)
    assert kind(ended(other, "a")) is ExitKind.cancelled
    assert clients.kubectl("get", "pods", "-o", "name") == ""
    other.close()


def test_a_job_that_waits_for_room_can_be_stopped(engine: KubernetesEngine) -> None:
    every = Resources(cpu=Range(8))
    for key in ("a", "b", "c"):
        engine.submit(Launch(key, ("sleep", "600"), resources=every))
    running(engine, "a")
    assert engine.status(["c"])["c"].phase is Phase.starting
    engine.stop("c", 0)
    assert kind(ended(engine, "c")) is ExitKind.cancelled
    assert engine.reap([]) == ("a", "b")


def test_an_image_that_cannot_be_fetched_ends_its_job_and_says_so(
    engine: KubernetesEngine, clients: Clients
) -> None:
    engine.submit(Launch("a", ("true",), image="nowhere/none:1"))
    status = ended(engine, "a")
    assert kind(status) is ExitKind.failed
    assert "nowhere/none:1" in str(status.exit)
    assert clients.kubectl("get", "jobs", "-o", "jsonpath={..spec.suspend}") == "true"


def test_a_job_whose_node_dies_is_lost(engine: KubernetesEngine, cluster: FakeCluster) -> None:
    cluster.add_node(Node("doomed", gpu=1, labels={"nvidia.com/gpu.product": "A100-40GB"}))
    asks = Resources(gpu=Range(1), gpu_name="a100")
    engine.submit(Launch("a", ("sleep", "600"), resources=asks))
    running(engine, "a")
    assert engine.status(["a"])["a"].unit == "doomed"
    cluster.lose_node("doomed")
    assert kind(ended(engine, "a")) is ExitKind.worker_lost
    assert engine.offers(asks) == ()
    with pytest.raises(Refused, match="GPU"):
        engine.submit(Launch("b", ("true",), resources=asks))


def test_a_job_that_somebody_kills_is_lost(engine: KubernetesEngine) -> None:
    engine.submit(Launch("a", sh("kill -9 $$")))
    assert kind(ended(engine, "a")) is ExitKind.worker_lost


def test_a_job_that_the_cluster_forgot_is_unknown(engine: KubernetesEngine, cluster: FakeCluster) -> None:
    engine.submit(Launch("a", ("sleep", "600")))
    running(engine, "a")
    cluster.empty()
    assert engine.wait(["a"], ENDS_S)["a"].phase is Phase.unknown
    assert engine.logs("a", 1 << 20).is_end


@pytest.mark.parametrize("effect", ["with its effect", "without"])
def test_a_key_whose_answer_was_lost_starts_once(
    engine: KubernetesEngine, cluster: FakeCluster, clients: Clients, effect: str
) -> None:
    lost = iter([True, True])
    fault = Fault(loses_answer=True) if effect == "with its effect" else Fault(cut_before=True)

    def lose(verb: str, path: str) -> Fault | None:
        return fault if verb == "POST" and "/jobs" in path and next(lost, False) else None

    cluster.fault = lose
    with contextlib.suppress(Unavailable):  # a dead connection is tried once more, unless that one dies too
        engine.submit(Launch("a", sh("echo once")))
    engine.submit(Launch("a", sh("echo twice")))
    assert kind(ended(engine, "a")) is ExitKind.ok
    assert engine.logs("a").data == (b"once\n" if effect == "with its effect" else b"twice\n")
    assert clients.kubectl("get", "pods", "-o", "name").count("pod/") == 1


def test_a_busy_cluster_is_waited_for_and_one_without_room_is_told(
    engine: KubernetesEngine, cluster: FakeCluster
) -> None:
    busy = iter([429, 500, 503])

    def fault(verb: str, path: str) -> Fault | None:
        status = next(busy, 0) if verb == "POST" and "/jobs" in path else 0
        return Fault(status=status, headers={"Retry-After": "0.2"}) if status else None

    cluster.fault = fault
    engine.submit(Launch("a", ("true",)))
    assert kind(ended(engine, "a")) is ExitKind.ok
    full = Fault(status=403, message='jobs "x" is forbidden: exceeded quota: team')
    cluster.fault = lambda verb, path: full if verb == "POST" and "/jobs" in path else None
    with pytest.raises(TooMuch, match="exceeded quota"):
        engine.submit(Launch("b", ("true",)))
    cluster.fault = lambda verb, path: Fault(status=503)
    with pytest.raises(Unavailable, match="answered 503"):
        engine.offers(Resources())
    cluster.fault = lambda verb, path: None
    assert engine.status(["b"])["b"].phase is Phase.unknown


def test_a_watch_that_is_cut_off_again_and_again_misses_no_end(
    engine: KubernetesEngine, cluster: FakeCluster
) -> None:
    cluster.fault = lambda verb, path: Fault(cut_after=1) if "watch=true" in path else None
    keys = [f"job/{index}" for index in range(4)]
    for key in keys:
        engine.submit(Launch(key, ("sleep", "0.3")))
    assert [kind(ended(engine, key)) for key in keys] == [ExitKind.ok] * 4


def test_history_that_has_expired_misses_no_end(cluster: FakeCluster, clients: Clients, label: str) -> None:
    once = iter([True])

    def expire(verb: str, path: str) -> None:
        if "watch=true" in path and "/jobs" in path and next(once, False):
            cluster.add_namespace(f"later-{uuid.uuid4().hex}")  # something changes between list and watch
            cluster.forget_history()

    engine = opened(clients, label)
    cluster.fault = expire
    began = len(cluster.asked)
    engine.submit(Launch("a", ("sleep", "0.5")))
    assert kind(ended(engine, "a")) is ExitKind.ok
    asked = [each for each in cluster.asked[began:] if "/jobs?" in each]
    assert len([each for each in asked if "watch=true" in each]) >= 2
    assert len([each for each in asked if "limit=" in each]) >= 2
    cluster.fault = lambda verb, path: None
    engine.close()


def test_a_cluster_that_hangs_is_unavailable_within_the_bound(
    cluster: FakeCluster, clients: Clients, label: str
) -> None:
    engine = opened(clients, label, timeout_s=0.5)
    cluster.fault = lambda verb, path: Fault(hangs=True)
    with pytest.raises(Unavailable, match=r"no answer within 0\.5 s"):
        engine.wait(["a"], 30)
    cluster.fault = lambda verb, path: None
    assert engine.status(["a"])["a"].phase is Phase.unknown
    engine.close()


def test_the_state_of_many_jobs_costs_no_call_of_its_own(
    engine: KubernetesEngine, cluster: FakeCluster
) -> None:
    keys = [f"job/{index}" for index in range(600)]
    engine.submit(Launch("first", ("true",)))
    (job,) = cluster.store.list(JOB)
    cluster.store.remove(JOB, "default", job["metadata"]["name"])
    for key in keys:
        job["metadata"] |= {"name": name_of(engine._label, key)}
        job["metadata"]["annotations"][KEY] = key
        job["spec"]["suspend"] = True
        cluster.store.create(JOB, job)
    engine.status(keys)
    began = len(cluster.asked)
    found = engine.status(keys)
    assert len({status.key for status in found.values()}) == 600
    assert len(cluster.asked) - began <= 4  # two pages of jobs, and one of each other kind, at most


def test_output_that_was_rotated_away_is_kept_where_it_had_been_read(
    engine: KubernetesEngine, cluster: FakeCluster
) -> None:
    script = "echo early; until [ -e go ]; do sleep 0.05; done; echo late; sleep 600"
    engine.submit(Launch("a", sh(script)))
    eventually(lambda: engine.logs("a").data)
    (pod,) = cluster.store.list(POD)
    cluster.rotate_log(pod["metadata"]["name"])
    (Path(cluster.home(pod["metadata"]["name"])) / "go").touch()
    eventually(lambda: b"late" in engine.logs("a").data)
    first, told, last = (each for each in engine.logs("a").data.split(b"\n") if each)
    assert (first, last) == (b"early", b"late")
    assert b"anew" in told


def test_more_output_than_the_pool_keeps_is_left_out_with_a_word(clients: Clients, label: str) -> None:
    engine = opened(clients, label, most_output_bytes=1000)
    engine.submit(Launch("a", sh("head -c 100000 /dev/zero")))
    ended(engine, "a")
    data = engine.logs("a").data
    assert data[:1000] == b"\0" * 1000
    assert b"after 1000 bytes was not kept" in data[1000:]
    engine.close()


def test_reaping_forgets_what_was_stopped_long_ago(
    engine: KubernetesEngine, clients: Clients, label: str
) -> None:
    engine.submit(Launch("a", ("sleep", "600")))
    engine.stop("a", 0)
    ended(engine, "a")
    assert engine.reap([]) == ()
    assert clients.kubectl("get", "jobs", "-o", "name")
    brief = opened(clients, label, ended_kept_s=0.001)
    eventually(lambda: brief.reap([]) == () and clients.kubectl("get", "jobs", "-o", "name") == "")
    brief.close()


HOSTILE = [
    "../../etc",
    "a\nb: {}",
    "Ünï/…",
    "x" * 5000,
    "$(id)",
    "'; DROP",
    "-",
    " ",
    "{{.}}",
    "%2e%2e",
    "a/b?c=d&e#f",
]


def test_keys_of_any_kind_are_jobs_of_their_own(engine: KubernetesEngine) -> None:
    for key in HOSTILE:
        engine.submit(Launch(key, ("echo", key), cwd="/tmp"))
    for key in HOSTILE:
        assert kind(ended(engine, key)) is ExitKind.ok
        assert engine.logs(key).data == f"{key}\n".encode()


def test_words_are_not_taken_for_variables(engine: KubernetesEngine) -> None:
    engine.submit(Launch("a", ("echo", "$(A)", "$$(A)", "$A", "$"), env={"A": "x"}))
    ended(engine, "a")
    assert engine.logs("a").data == b"$(A) $$(A) $A $\n"


def test_a_namespace_that_is_not_there_is_told(cluster: FakeCluster, clients: Clients, label: str) -> None:
    clients.config.write_text(cluster.kubeconfig("nowhere"))
    engine = opened(clients, label)
    with pytest.raises(Refused, match='namespaces "nowhere" not found'):
        engine.submit(Launch("a", ("true",)))
    engine.close()


def test_a_service_is_a_deployment_that_its_cluster_starts_again(
    engine: KubernetesEngine, clients: Clients
) -> None:
    launch = Launch("web", sh("echo up on $FOURFOLD_PORT; sleep 600"), kind="service", listens=True)
    engine.submit(launch)
    engine.submit(launch)
    running(engine, "web")
    address = engine.status(["web"])["web"].address
    name = name_of(engine._label, "web")
    assert clients.kubectl("get", "service", name, "-o", "jsonpath={.spec.ports[0].port}") in address
    clients.kubectl("delete", "pods", "--all", "--grace-period=1")
    eventually(lambda: engine.status(["web"])["web"].address not in ("", address))
    engine.stop("web", 0)
    assert kind(ended(engine, "web")) is ExitKind.cancelled
    eventually(lambda: clients.kubectl("get", "pods", "-o", "name") == "")
    engine.submit(launch)
    assert engine.status(["web"])["web"].phase is Phase.ended


def test_one_key_submitted_by_many_at_once_is_one_job(clients: Clients, label: str) -> None:
    engines = [opened(clients, label) for _ in range(4)]
    with ThreadPoolExecutor(8) as pool:
        launch = Launch("a", sh("echo once"), env={"A": "1"})
        list(pool.map(lambda index: engines[index % 4].submit(launch), range(8)))
    assert kind(ended(engines[0], "a")) is ExitKind.ok
    assert clients.kubectl("get", "jobs,pods", "-o", "name").count("/") == 2
    for each in engines:
        each.close()


def test_a_cluster_that_may_not_be_watched_is_asked(engine: KubernetesEngine, cluster: FakeCluster) -> None:
    cluster.fault = lambda verb, path: Fault(status=403) if "watch=true" in path else None
    engine.submit(Launch("a", sh("sleep 0.5; exit 4")))
    exit_ = ended(engine, "a").exit
    assert exit_ is not None
    assert exit_.code == 4


def test_an_environment_whose_job_was_never_made_is_removed(
    engine: KubernetesEngine, cluster: FakeCluster, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.fault = lambda verb, path: Fault(status=503) if verb == "POST" and "/jobs" in path else None
    with pytest.raises(Unavailable):
        engine.submit(Launch("a", ("true",), env={"A": "1"}))
    cluster.fault = lambda verb, path: None
    assert engine.reap([]) == ()
    assert clients.kubectl("get", "secrets", "-o", "name")
    monkeypatch.setattr(engine_module, "SECRET_KEPT_S", -5.0)
    engine.reap([])
    assert clients.kubectl("get", "secrets", "-o", "name") == ""


# Who we are there.


def test_inside_a_pod_its_account_speaks_for_us_also_with_the_next_token(
    cluster: FakeCluster, clients: Clients, label: str, tls_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = clients.folder
    (inside / "ca.crt").write_text((tls_folder / "authority.pem").read_text())
    (inside / "namespace").write_text("default")
    (inside / "token").write_text("the last one")
    monkeypatch.setattr(access, "INSIDE", inside)
    monkeypatch.setenv("HOME", str(inside / "nobody"))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    host, _, port = cluster.url.removeprefix("https://").partition(":")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    settings = KubernetesSettings.parse("kubernetes://?image=example/any:1")
    engine = KubernetesEngine(settings, label=label, folder=inside / "jobs")
    with pytest.raises(Unauthenticated):
        engine.offers(Resources())
    (inside / "token").write_text(f"{cluster.token}\n")
    assert engine.offers(Resources())
    engine.close()


def test_a_wrong_token_is_told_with_what_to_do(cluster: FakeCluster, clients: Clients, label: str) -> None:
    clients.config.write_text(cluster.kubeconfig().replace(cluster.token, "wrong"))
    engine = opened(clients, label)
    with pytest.raises(Unauthenticated, match=r"HTTP 401(?s:.)*kubeconfig's user"):
        engine.offers(Resources())
    engine.close()


def user(cluster: FakeCluster, clients: Clients, user: object) -> None:
    config = json.loads(cluster.kubeconfig())
    config["users"][0]["user"] = user
    clients.config.write_text(json.dumps(config))


def test_a_client_certificate_speaks_for_us_and_a_strangers_does_not(
    cluster: FakeCluster, clients: Clients, label: str, tls_folder: Path
) -> None:
    for name, is_known in (("client", True), ("stranger", False)):
        pair = {"client-certificate": f"{tls_folder}/{name}.pem", "client-key": f"{tls_folder}/{name}.key"}
        user(cluster, clients, pair)
        engine = opened(clients, label)
        if is_known:
            assert engine.offers(Resources())
        else:
            with pytest.raises((Unavailable, Unauthenticated)):
                engine.offers(Resources())
        engine.close()


PLUGIN = """
import json, os, pathlib
count = pathlib.Path(__file__).with_name("count")
count.write_text(count.read_text() + "x" if count.exists() else "x")
token = os.environ["GOOD"] if len(count.read_text()) > 1 else "stale"
assert json.loads(os.environ["KUBERNETES_EXEC_INFO"])["kind"] == "ExecCredential"
print(json.dumps({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
                  "status": {"token": token}}))
"""


def test_a_credential_plugin_is_asked_again_when_its_token_is_no_longer_taken(
    cluster: FakeCluster, clients: Clients, label: str
) -> None:
    plugin = clients.folder / "plugin.py"
    plugin.write_text(f"#!{sys.executable}\n{PLUGIN}")
    plugin.chmod(0o755)
    version = "client.authentication.k8s.io/v1"
    good = [{"name": "GOOD", "value": cluster.token}]
    user(cluster, clients, {"exec": {"apiVersion": version, "command": "./plugin.py", "env": good}})
    engine = opened(clients, label)
    assert engine.offers(Resources())
    assert (clients.folder / "count").read_text() == "xx"
    engine.close()
    user(
        cluster,
        clients,
        {"exec": {"apiVersion": version, "command": "no-such-plugin", "installHint": "get it"}},
    )
    with pytest.raises(Missing, match=r"no-such-plugin(?s:.)*get it"):
        opened(clients, label).offers(Resources())


def test_a_cluster_with_another_certificate_is_not_spoken_to(
    cluster: FakeCluster, clients: Clients, label: str, tls_folder: Path
) -> None:
    config = json.loads(cluster.kubeconfig())
    place = config["clusters"][0]["cluster"]
    del place["certificate-authority-data"]
    place["certificate-authority"] = f"{tls_folder}/stranger.pem"
    clients.config.write_text(json.dumps(config))
    with pytest.raises(Unavailable, match="certificate verify failed"):
        opened(clients, label).offers(Resources())
    config["clusters"][0]["cluster"] = {"server": cluster.url, "insecure-skip-tls-verify": True}
    clients.config.write_text(json.dumps(config))
    with pytest.raises(Refused, match="certificate-authority"):
        opened(clients, label)


# A real cluster.

REAL = os.environ.get("FOURFOLD_TEST_KUBECONFIG", "")


@pytest.mark.skipif(not REAL, reason="FOURFOLD_TEST_KUBECONFIG names no kubeconfig of a cluster to test on")
def test_a_real_cluster_keeps_the_main_promises(tmp_path: Path, label: str) -> None:
    namespace = os.environ.get("FOURFOLD_TEST_KUBE_NAMESPACE", "default")
    image = os.environ.get("FOURFOLD_TEST_KUBE_IMAGE", "busybox:1.36")
    address = f"kubernetes://{namespace}?kubeconfig={REAL}&image={image}"
    engine = KubernetesEngine(KubernetesSettings.parse(address), label=label, folder=tmp_path)
    fat = "x=$(head -c 300000000 /dev/zero | tr '\\0' x); echo ${#x}"
    small = Resources(cpu=Range(0.1), memory_bytes=Range(0, 64 << 20))
    try:
        assert engine.offers(Resources())
        jobs = {
            "ok": Launch("ok", sh('echo "$WORD"; echo "$0" "$@"'), env={"WORD": "$(HOME) \n é"}),
            "code": Launch("code", sh("exit 3")),
            "none": Launch("none", ("/no/such/command",)),
            "late": Launch("late", sh("sleep 600"), resources=Resources(cpu=Range(0.1), time_limit_s=2)),
            "fat": Launch("fat", sh(fat), resources=small),
            "image": Launch("image", sh("true"), image="example.invalid/none:1"),
            "long": Launch("long", sh("trap 'echo saved; exit 0' TERM; echo up; while :; do sleep 1; done")),
        }
        for launch in jobs.values():
            engine.submit(launch)
            engine.submit(launch)
        ends = {key: engine.wait([key], 300.0)[key] for key in jobs if key != "long"}
        assert {key: kind(status) for key, status in ends.items()} == {
            "ok": ExitKind.ok,
            "code": ExitKind.failed,
            "none": ExitKind.failed,
            "late": ExitKind.over_time,
            "fat": ExitKind.out_of_memory,
            "image": ExitKind.failed,
        }
        assert engine.logs("ok").data.decode().startswith("$(HOME) \n é\n")
        eventually(lambda: b"up" in engine.logs("long").data)
        engine.stop("long", 10)
        assert kind(engine.wait(["long"], 120.0)["long"]) is ExitKind.cancelled
        assert b"saved" in engine.logs("long").data
    finally:
        engine.reap([])
        engine.close()
