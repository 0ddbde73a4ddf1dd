"""The small Kubernetes, held against `kubectl` and two Python clients that know nothing of us."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.compute.kubernetes_cluster import Clients, secured

from fourfold.testing.kubernetes import FakeCluster, Fault, Node
from fourfold.testing.kubernetes.kinds import SECRET

pytestmark = pytest.mark.slow
WITHIN_S = 60.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeCluster]:
    with secured(tmp_path_factory.mktemp("tls"), missing_images=("nowhere/none:1",)) as cluster:
        yield cluster


@pytest.fixture
def clients(cluster: FakeCluster, tmp_path: Path) -> Iterator[Clients]:
    yield Clients(cluster, tmp_path)
    cluster.fault = lambda verb, path: None
    cluster.empty()


def job(name: str, *command: str, **spec: Any) -> str:
    """A job's body, as somebody writes it into a file."""
    container = {
        "name": "main",
        "image": "example/any:1",
        "command": list(command),
        **spec.pop("container", {}),
    }
    pod = {"restartPolicy": "Never", "containers": [container], **spec.pop("pod", {})}
    body = {"backoffLimit": 0, "template": {"spec": pod}, **spec}
    return json.dumps({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": body})


def deployment(name: str, count: int, *command: str) -> str:
    pod = {"containers": [{"name": "main", "image": "example/any:1", "command": list(command)}]}
    spec = {
        "replicas": count,
        "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": pod},
    }
    body = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}
    return json.dumps(body)


def eventually(claim: Callable[[], object]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not claim():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.05)


def phases(clients: Clients) -> str:
    return clients.kubectl("get", "pods", "-o", "jsonpath={..phase}")


def ended(clients: Clients, name: str) -> dict[str, Any]:
    """The end of a job's container, as `kubectl` shows it."""
    clients.kubectl("wait", "--for=condition=failed", f"job/{name}", "--timeout=60s")
    found = json.loads(clients.kubectl("get", "pods", "-l", f"job-name={name}", "-o", "json"))
    state: dict[str, Any] = found["items"][0]["status"]["containerStatuses"][0]["state"]["terminated"]
    return state


def test_kubectl_makes_a_job_waits_for_it_and_reads_what_it_printed(clients: Clients) -> None:
    clients.kubectl("create", "-f", "-", given=job("hello", "sh", "-c", "echo to out; echo to err >&2"))
    clients.kubectl("wait", "--for=condition=complete", "job/hello", "--timeout=60s")
    assert clients.kubectl("logs", "job/hello") == "to out\nto err\n"
    described = clients.kubectl("describe", "job", "hello")
    assert "1 Succeeded" in described
    assert "job.batch/hello" in clients.kubectl("get", "all")
    clients.kubectl("delete", "job", "hello")
    assert clients.kubectl("get", "pods", "-o", "name") == ""


def test_kubectl_follows_output_and_watches_a_job(clients: Clients) -> None:
    clients.kubectl("create", "-f", "-", given=job("slow", "sh", "-c", "echo one; sleep 1; echo two"))
    with clients.start("kubectl", "get", "jobs", "-w", "-o", "jsonpath={.status.succeeded}#") as watching:
        eventually(lambda: phases(clients) in ("Running", "Succeeded"))
        assert clients.kubectl("logs", "-f", "job/slow") == "one\ntwo\n"
        assert watching.stdout is not None
        told = ""
        while "1#" not in told:
            one = watching.stdout.read(1)
            assert one, "the watch ended before the job did"
            told += one
        watching.kill()


def test_kubectl_applies_changes_scales_and_deletes_a_deployment(clients: Clients) -> None:
    clients.kubectl("apply", "-f", "-", given=deployment("web", 1, "sleep", "600"))
    assert "unchanged" in clients.kubectl("apply", "-f", "-", given=deployment("web", 1, "sleep", "600"))
    assert "configured" in clients.kubectl("apply", "-f", "-", given=deployment("web", 2, "sleep", "601"))
    clients.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    clients.kubectl("scale", "deployment/web", "--replicas=3")
    clients.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    pods = clients.kubectl("get", "pods", "-l", "app=web", "-o", "jsonpath={..command}")
    assert pods.count("601") == 3
    clients.kubectl("delete", "deployment", "web")
    eventually(lambda: clients.kubectl("get", "pods", "-l", "app=web", "-o", "name") == "")


def test_a_pod_of_a_deployment_that_ends_is_started_again(clients: Clients) -> None:
    clients.kubectl("apply", "-f", "-", given=deployment("web", 1, "sh", "-c", "echo again; exit 1"))
    count = ("get", "pods", "-l", "app=web", "-o", "jsonpath={..restartCount}")
    eventually(lambda: clients.kubectl(*count) >= "2")
    assert clients.kubectl("logs", "deployment/web").count("again") >= 2


def test_what_a_schema_does_not_know_is_refused(clients: Clients) -> None:
    wrong = job("a", "true", backofLimit=1)
    assert "'backofLimit' was unexpected" in clients.kubectl("create", "-f", "-", given=wrong, fails=True)
    wrong = job("a", "true", ttlSecondsAfterFinished="soon")
    assert "'soon' is not of type" in clients.kubectl("create", "--validate=false", "-f", "-", given=wrong,
                                                      fails=True)  # fmt: skip
    assert "backoffLimit <integer>" in clients.kubectl("explain", "job.spec.backoffLimit")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (job("Upper", "true"), "must be a lower case RFC 1123 name"),
        (job("a" * 64, "true"), "must be no more than 63 characters"),
        (job("a", "true", pod={"restartPolicy": "Always"}), "spec.template.spec.restartPolicy"),
        (job("a", "true", container={"resources": {"limits": {"memory": "1GB!"}}}), "quantities must match"),
        (
            job("a", "true", container={"resources": {"limits": {"cpu": 1}, "requests": {"cpu": 2}}}),
            "must be at most cpu limit",
        ),
        (job("a", "true", container={"env": [{"name": "a=b", "value": ""}]}), "environment variable name"),
        (job("a", "true", container={"volumeMounts": [{"name": "x", "mountPath": "/x"}]}), "Not found: 'x'"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_field(clients: Clients, body: str, said: str) -> None:
    assert said in clients.kubectl("create", "-f", "-", given=body, fails=True)
    assert clients.kubectl("get", "jobs", "-o", "name") == ""


def test_what_a_job_runs_cannot_be_changed(clients: Clients) -> None:
    clients.kubectl("create", "-f", "-", given=job("a", "true"))
    change = ("patch", "job", "a", "--type=merge", "-p")
    said = clients.kubectl(*change, '{"spec":{"completions":2}}', fails=True)
    assert "field is immutable" in said
    said = clients.kubectl("apply", "--server-side", "-f", "-", given=job("a", "true"), fails=True)
    assert "unknown format" in said or "Unsupported" in said


def test_how_a_container_ends_is_told_as_kubernetes_does(clients: Clients) -> None:
    fails = {
        "code": job("code", "sh", "-c", "exit 3"),
        "none": job("none", "/no/such/command"),
        "late": job("late", "sleep", "600", pod={"activeDeadlineSeconds": 1}),
        "fat": job(
            "fat", "python3", "-c", "import time; b = bytearray(200 << 20); time.sleep(600)",
            container={"resources": {"limits": {"memory": "64Mi"}}},
        ),
    }  # fmt: skip
    for body in fails.values():
        clients.kubectl("create", "-f", "-", given=body)
    assert (ended(clients, "code")["exitCode"], ended(clients, "code")["reason"]) == (3, "Error")
    none = ended(clients, "none")
    assert (none["exitCode"], none["reason"]) == (128, "StartError")
    assert "no such file" in none["message"]
    assert ended(clients, "fat")["reason"] == "OOMKilled"
    clients.kubectl("wait", "--for=condition=failed", "job/late", "--timeout=60s")
    assert "DeadlineExceeded" in clients.kubectl("get", "pods", "-o", "jsonpath={..status.reason}")


def test_a_suspended_job_lets_its_pod_go_with_its_grace(clients: Clients) -> None:
    script = "trap 'echo saved; exit 0' TERM; echo ready; while :; do sleep 0.1; done"
    clients.kubectl("create", "-f", "-", given=job("a", "sh", "-c", script))
    eventually(lambda: phases(clients) == "Running")
    with clients.start("kubectl", "logs", "-f", "job/a") as following:
        assert following.stdout is not None
        assert following.stdout.readline() == "ready\n"
        clients.kubectl("patch", "job", "a", "--type=merge", "-p", '{"spec":{"suspend":true}}')
        assert following.stdout.readline() == "saved\n"
    eventually(lambda: clients.kubectl("get", "pods", "-o", "name") == "")
    clients.kubectl("wait", "--for=condition=suspended", "job/a", "--timeout=60s")


def test_an_image_that_is_not_there_and_a_secret_that_is_not_there_are_told(clients: Clients) -> None:
    clients.kubectl("create", "-f", "-", given=job("a", "true", container={"image": "nowhere/none:1"}))
    source = {"valueFrom": {"secretKeyRef": {"name": "none", "key": "x"}}}
    clients.kubectl("create", "-f", "-", given=job("b", "true", container={"env": [{"name": "X", **source}]}))
    waiting = ("get", "pods", "-o", "jsonpath={..waiting.reason}")
    eventually(
        lambda: set(clients.kubectl(*waiting).split()) == {"ImagePullBackOff", "CreateContainerConfigError"}
    )
    assert "is waiting to start" in clients.kubectl("logs", "job/a", fails=True)


def test_a_pod_waits_for_room_and_for_the_labels_that_it_asks_for(
    clients: Clients, cluster: FakeCluster
) -> None:
    asks = {"container": {"resources": {"limits": {"nvidia.com/gpu": 1}}}}
    clients.kubectl("create", "-f", "-", given=job("gpu", "echo", "on it", **asks))
    why = ("get", "pods", "-o", "jsonpath={..conditions[0].reason}")
    eventually(lambda: clients.kubectl(*why) == "Unschedulable")
    cluster.add_node(Node("g1", gpu=2))
    clients.kubectl("wait", "--for=condition=complete", "job/gpu", "--timeout=60s")
    assert clients.kubectl("get", "pods", "-o", "jsonpath={..spec.nodeName}") == "g1"


def test_a_wrong_token_is_refused(clients: Clients) -> None:
    assert "logged in" in clients.kubectl("--token=wrong", "get", "pods", fails=True)


OFFICIAL = """
import base64, json
from kubernetes import client, config, watch
from kubernetes.client.rest import ApiException
config.load_kube_config()
batch, core = client.BatchV1Api(), client.CoreV1Api()
seen = []
pod = client.V1PodSpec(restart_policy="Never", containers=[client.V1Container(
    name="main", image="any:1", command=["sh", "-c", "echo $WORD; exit 0"],
    env=[client.V1EnvVar(name="WORD", value_from=client.V1EnvVarSource(
        secret_key_ref=client.V1SecretKeySelector(name="s", key="word")))])])
secret = client.V1Secret(metadata=client.V1ObjectMeta(name="s"), string_data=None,
                         data={"word": base64.b64encode(b"from a secret").decode()})
core.create_namespaced_secret("default", secret)
for index in range(7):
    job = client.V1Job(
        metadata=client.V1ObjectMeta(name=f"j{index}", labels={"set": "x"}),
        spec=client.V1JobSpec(backoff_limit=0, template=client.V1PodTemplateSpec(spec=pod)))
    batch.create_namespaced_job("default", job)
try:
    batch.create_namespaced_job("default", job)
except ApiException as error:
    seen.append([error.status, json.loads(error.body)["reason"]])
page = batch.list_namespaced_job("default", label_selector="set=x", limit=3)
sizes = [len(page.items)]
while page.metadata._continue:
    page = batch.list_namespaced_job(
        "default", label_selector="set=x", limit=3, _continue=page.metadata._continue)
    sizes.append(len(page.items))
seen.append(sizes)
done = set()
for event in watch.Watch().stream(
    batch.list_namespaced_job, "default", label_selector="set=x", timeout_seconds=60
):
    if (event["object"].status.succeeded or 0) >= 1:
        done.add(event["object"].metadata.name)
    if len(done) == 7:
        break
seen.append(len(done))
(name,) = [p.metadata.name for p in core.list_namespaced_pod("default", label_selector="job-name=j3").items]
seen.append(core.read_namespaced_pod_log(name, "default"))
old = batch.read_namespaced_job("j0", "default")
batch.patch_namespaced_job("j0", "default", {"metadata": {"annotations": {"a": "b"}}})
try:
    old.metadata.labels["set"] = "y"
    batch.replace_namespaced_job("j0", "default", old)
except ApiException as error:
    seen.append([error.status, json.loads(error.body)["reason"]])
batch.delete_namespaced_job("j0", "default", propagation_policy="Foreground")
print(json.dumps(seen))
"""


def test_the_official_python_client_agrees(clients: Clients) -> None:
    assert json.loads(clients.run(OFFICIAL)) == [
        [409, "AlreadyExists"], [3, 3, 1], 7, "from a secret\n", [409, "Conflict"],
    ]  # fmt: skip


KR8S = """
import json
import kr8s
from kr8s.objects import Job, Pod
job = Job(json.loads(open("job.json").read()))
job.create()
job.wait("condition=Complete", timeout=60)
(pod,) = kr8s.get("pods", label_selector={"job-name": "k"})
on_node = pod.spec.nodeName in ("n1", "n2", "g1")
print(json.dumps(["\\n".join(pod.logs()), on_node, kr8s.version()["gitVersion"]]))
job.delete(propagation_policy="Background")
"""


def test_kr8s_agrees(clients: Clients) -> None:
    (clients.folder / "job.json").write_text(job("k", "echo", "hello from kr8s"))
    assert json.loads(clients.run(KR8S)) == ["hello from kr8s", True, "v1.37.0"]


EXPIRED = """
import json
from kubernetes import client, config, watch
from kubernetes.client.rest import ApiException
config.load_kube_config()
core = client.CoreV1Api()
page = core.list_namespaced_secret("default", limit=1)
version, token = page.metadata.resource_version, page.metadata._continue
print("listed", flush=True)
input()
for act in (
    lambda: core.list_namespaced_secret("default", limit=1, _continue=token),
    lambda: list(watch.Watch().stream(core.list_namespaced_secret, "default", resource_version=version,
                                      timeout_seconds=5)),
):
    try:
        act()
        print("no error")
    except ApiException as error:
        print(error.status)
"""


def test_a_version_and_a_page_that_are_too_old_expire(clients: Clients, cluster: FakeCluster) -> None:
    for name in ("a", "b"):
        body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "default"}}
        cluster.store.create(SECRET, body)
    with subprocess.Popen(
        [clients.python, "-c", EXPIRED],
        env=clients.environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "listed\n"
        cluster.store.remove(SECRET, "default", "a")
        cluster.forget_history()
        said, _ = process.communicate("\n", timeout=60)
    assert said.split() == ["410", "410"]


def test_a_watch_that_is_cut_off_and_a_server_that_is_busy_are_taken_up_by_kubectl(
    clients: Clients, cluster: FakeCluster
) -> None:
    busy = iter([True, True])

    def fault(verb: str, path: str) -> Fault | None:
        if verb == "GET" and "/jobs" in path and "watch" not in path and next(busy, False):
            return Fault(status=429, headers={"Retry-After": "1"})
        return None

    clients.kubectl("create", "-f", "-", given=job("a", "true"))
    cluster.fault = fault
    assert "job.batch/a" in clients.kubectl("get", "jobs", "-o", "name")
    assert next(busy, None) is None


def test_a_node_that_dies_takes_its_pods_with_it(clients: Clients, cluster: FakeCluster) -> None:
    pinned = {"pod": {"nodeSelector": {"kubernetes.io/hostname": "doomed"}}}
    cluster.add_node(Node("doomed"))
    clients.kubectl("create", "-f", "-", given=job("a", "sleep", "600", **pinned))
    eventually(lambda: phases(clients) == "Running")
    cluster.lose_node("doomed")
    clients.kubectl("wait", "--for=condition=failed", "job/a", "--timeout=60s")
    reason = "jsonpath={.status.conditions[?(@.type=='Failed')].reason}"
    assert clients.kubectl("get", "job", "a", "-o", reason) == "BackoffLimitExceeded"


def test_nothing_runs_when_the_cluster_is_closed(tmp_path: Path) -> None:
    with secured(tmp_path) as cluster:
        clients = Clients(cluster, tmp_path)
        mark = f"6{time.time_ns() % 10**9}"
        clients.kubectl("create", "-f", "-", given=job("a", "sleep", mark))
        eventually(lambda: _running(mark))
    eventually(lambda: not _running(mark))


def _running(word: str) -> bool:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().split(b"\0")[:2] == [b"sleep", word.encode()]:
                return True
        except OSError:
            continue
    return False
