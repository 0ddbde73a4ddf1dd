"""The parts of the Kubernetes engine that need no cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourfold.adapters.kubernetes import KubernetesSettings, body, reading
from fourfold.adapters.kubernetes.access import access_to
from fourfold.core.errors import NotFound, Refused
from fourfold.core.ports.engine import Exit, ExitKind, Launch, Offer, Phase, Resources
from fourfold.core.quantities import Range

CONFIG = """
apiVersion: v1
kind: Config
current-context: lab
clusters:
- name: lab
  cluster: {server: "https://lab.example:6443/base/"}
- name: plain
  cluster: {server: "http://lab.example"}
users:
- name: me
  user: {tokenFile: token}
contexts:
- name: lab
  context: {cluster: lab, user: me, namespace: team}
- name: open
  context: {cluster: plain, user: me}
"""


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("kubernetes://user:pw@ns", "holds a user or a secret"),
        ("kubernetes://Team", "'Team' is no namespace"),
        ("kubernetes://ns/path", "is not the address"),
        ("kubernetes://?image=a b", "it is an image"),
        ("kubernetes://?claim=data", "it takes name:/path"),
        ("kubernetes://?mount=data", "it takes a whole path"),
        ("kubernetes://?label=gpu", "it takes name=value"),
        ("kubernetes://?port=0", "it is above 0"),
        ("kubernetes://?port=70000", "between 1 and 65535"),
        ("kubernetes://?lost_after_s=1.5", "a whole number"),
        ("kubernetes://?timeout_s=nan", "it is above 0"),
        ("kubernetes://?shares_files=yes", "it takes 0 or 1"),
        ("kubernetes://?pull_secret=A/B", "small letters"),
    ],
)
def test_addresses_that_make_no_sense_are_refused_with_what_they_take(address: str, said: str) -> None:
    with pytest.raises(Refused) as refused:
        KubernetesSettings.parse(address)
    assert said in str(refused.value)
    assert "pw" not in str(refused.value)


def test_a_kubeconfig_is_read_as_kubectl_reads_it(tmp_path: Path) -> None:
    (tmp_path / "config").write_text(CONFIG)
    (tmp_path / "token").write_text(" s3cret\n")
    other = {"current-context": "other", "contexts": [{"name": "lab", "context": {"cluster": "none"}}]}
    (tmp_path / "second").write_text(json.dumps(other))
    environ = {"KUBECONFIG": f"{tmp_path}/missing:{tmp_path}/config:{tmp_path}/second"}
    access = access_to(KubernetesSettings.parse("kubernetes://"), environ)
    assert (access.url, access.namespace) == ("https://lab.example:6443/base", "team")
    assert access.token() == "s3cret"
    named = access_to(KubernetesSettings.parse("kubernetes://mine?context=lab"), environ)
    assert named.namespace == "mine"
    with pytest.raises(NotFound, match=r"no context 'labb'(?s:.)*did you mean 'lab'"):
        access_to(KubernetesSettings.parse("kubernetes://?context=labb"), environ)
    with pytest.raises(Refused, match="speaks no TLS"):
        access_to(KubernetesSettings.parse("kubernetes://?context=open"), environ)
    with pytest.raises(Refused, match="set KUBECONFIG"):
        access_to(KubernetesSettings.parse("kubernetes://"), {"HOME": str(tmp_path / "nobody")})


@pytest.mark.parametrize("text", ["[1, 2", "just: [words", "- a\n- b", "\x00"])
def test_a_file_that_is_no_kubeconfig_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "config").write_text(text)
    with pytest.raises(Refused, match="kubeconfig"):
        access_to(KubernetesSettings.parse(f"kubernetes://?kubeconfig={tmp_path}/config"), {})


@pytest.mark.parametrize(
    ("launch", "said"),
    [
        (Launch("a", ("x", "\udcff")), "no text"),
        (Launch("a", ("x\0y",)), "zero byte"),
        (Launch("a", ("x" * 300_000,)), "262144"),
        (Launch("a", ("x",), env={"A": "x" * 1_000_000}), "921600"),
        (Launch("a", ("x",), env={"A=B": ""}), "does not take"),
        (Launch("a", ("x",), env={"": ""}), "does not take"),
        (Launch("a", ("x",), cwd="here"), "no whole path"),
    ],
)
def test_what_a_cluster_cannot_keep_is_refused(launch: Launch, said: str) -> None:
    with pytest.raises(Refused, match=said):
        body.check(launch, "job 'a'")


def test_what_is_asked_becomes_what_a_pod_asks() -> None:
    asks = Resources(
        cpu=Range(1.5, 4), memory_bytes=Range(1 << 30, 2 << 30), gpu=Range(2), gpu_name="a100",
        gpu_memory_bytes=Range(40 << 30), arch="x86_64", time_limit_s=90.2,
    )  # fmt: skip
    settings = KubernetesSettings.parse(
        "kubernetes://?image=ours:1&claim=data:/data:ro&mount=/scratch:rw&label=pool=ml&run_as=1000"
    )
    met = [
        Offer("n1", 8, 64 << 30, 4, "NVIDIA-A100-SXM4-80GB"),
        Offer("n2", 8, 64 << 30, 4, "NVIDIA-A100-PCIE"),
    ]
    made = body.job(
        Launch("a", ("x", "$(A)"), resources=asks, listens=True), body.name_of("l", "a"), "l", settings, met
    )
    pod = made["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"] == ["x", "$$(A)"]
    assert container["resources"] == {
        "requests": {"cpu": "1500m", "memory": str(1 << 30)},
        "limits": {"cpu": "4000m", "memory": str(2 << 30), "nvidia.com/gpu": "2"},
    }
    assert pod["activeDeadlineSeconds"] == 91
    assert pod["nodeSelector"] == {"pool": "ml"}
    (term,) = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    assert {row["key"]: row["values"] for row in term["matchExpressions"]} == {
        "kubernetes.io/arch": ["amd64"],
        "nvidia.com/gpu.product": ["NVIDIA-A100-PCIE", "NVIDIA-A100-SXM4-80GB"],
        "nvidia.com/gpu.memory": [str((40 << 10) - 1)],
    }
    assert [mount["readOnly"] for mount in container["volumeMounts"]] == [True, False]
    assert container["securityContext"]["runAsUser"] == 1000


def test_nodes_become_offers_and_those_that_take_no_work_do_not() -> None:
    def node(name: str, **more: Any) -> dict[str, Any]:
        ready = [{"type": "Ready", "status": more.pop("ready", "True")}]
        room = {"cpu": "3920m", "memory": "16Gi", "nvidia.com/gpu": "2"}
        labels = {
            "kubernetes.io/arch": "arm64",
            "nvidia.com/gpu.product": "H100",
            "nvidia.com/gpu.memory": "81559",
        }
        status = {"allocatable": room, "conditions": ready}
        return {"metadata": {"name": name, "labels": labels}, "spec": more, "status": status}

    taint = [{"key": "k", "effect": "NoSchedule"}]
    nodes = [
        node("b"),
        node("a"),
        node("c", unschedulable=True),
        node("d", taints=taint),
        node("e", ready="Unknown"),
    ]
    found = reading.offers(nodes, price_usd_per_hour=2.0)
    assert found == [
        Offer(name, 3.92, 16 << 30, 2, "H100", 2.0, 81559 << 20, "aarch64") for name in ("a", "b")
    ]
    assert reading.offers(nodes, labels=[("pool", "ml")]) == []


def job(**status: Any) -> reading.Record:
    return reading.record_of(
        {"metadata": {"name": "j", "uid": "u", **status.pop("metadata", {})}, "spec": {"backoffLimit": 0},
         "status": status}
    )  # fmt: skip


def pod(phase: str, state: dict[str, Any] | None = None, **more: Any) -> reading.Pod:
    status = {"phase": phase, "containerStatuses": [{"state": state or {}}], **more.pop("status", {})}
    return reading.pod_of(
        {"metadata": {"name": "p", "labels": {reading.NAME: "j"}, **more}, "status": status}
    )


def over(code: int, reason: str = "Error", message: str = "") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason, "message": message}}


@pytest.mark.parametrize(
    ("seen", "kind", "code"),
    [
        (pod("Succeeded", over(0, "Completed")), ExitKind.ok, 0),
        (pod("Failed", over(3)), ExitKind.failed, 3),
        (pod("Failed", over(139)), ExitKind.failed, 139),
        (pod("Failed", over(137)), ExitKind.worker_lost, 137),
        (pod("Failed", over(137, "OOMKilled")), ExitKind.out_of_memory, 137),
        (pod("Failed", over(128, "StartError", "no such file or directory")), ExitKind.failed, 127),
        (pod("Failed", over(128, "StartError", "permission denied")), ExitKind.failed, 126),
        (pod("Failed", over(143), status={"reason": "DeadlineExceeded"}), ExitKind.over_time, 143),
        (pod("Failed", status={"reason": "Evicted"}), ExitKind.worker_lost, None),
        (pod("Failed", status={"reason": "OutOfcpu"}), ExitKind.worker_lost, None),
        (pod("Failed", status={"reason": "Preempting"}), ExitKind.preempted, None),
        (pod("Failed"), ExitKind.worker_lost, None),
    ],
)
def test_ends_are_told_apart(seen: reading.Pod, kind: ExitKind, code: int | None) -> None:
    exit_ = reading.job_status("a", job(), seen).exit
    assert exit_ is not None
    assert (exit_.kind, exit_.code) == (kind, code)


def test_a_pod_that_is_gone_has_left_its_end_with_its_job() -> None:
    def ended(type_: str, reason: str) -> Exit | None:
        row = {"type": type_, "status": "True", "reason": reason, "message": "m"}
        return reading.job_status("a", job(conditions=[row]), None).exit

    assert ended("Complete", "CompletionsReached") == Exit(ExitKind.ok, "", 0)
    lost, late = ended("Failed", "BackoffLimitExceeded"), ended("Failed", "DeadlineExceeded")
    assert lost is not None
    assert late is not None
    assert (lost.kind, late.kind) == (ExitKind.worker_lost, ExitKind.over_time)


def test_a_job_that_was_stopped_is_not_over_before_its_pod_is() -> None:
    stopped = job(metadata={"annotations": {reading.STOPPED: "2026-01-01T00:00:00Z"}})
    running = pod("Running", {"running": {"startedAt": "2026-01-01T00:00:00Z"}}, deletionTimestamp="x")
    assert reading.job_status("a", stopped, running).phase is Phase.running
    exit_ = reading.job_status("a", stopped, None).exit
    assert exit_ is not None
    assert exit_.kind is ExitKind.cancelled


WORDS = st.sampled_from(["", "Error", "OOMKilled", "Evicted", "DeadlineExceeded", "StartError", "New"])
STATES = st.one_of(
    st.just({}),
    st.just({"running": {"startedAt": "2026-01-01T00:00:00Z"}}),
    st.just({"waiting": {"reason": "ImagePullBackOff"}}),
    st.builds(over, st.integers(-1, 300), WORDS, st.text(max_size=20)),
)


@pytest.mark.property
@pytest.mark.slow
@given(
    phase=st.sampled_from(["Pending", "Running", "Succeeded", "Failed", "Unknown"]),
    state=STATES,
    reason=WORDS,
    conditions=st.lists(
        st.fixed_dictionaries({
            "type": st.sampled_from(["Complete", "Failed", "DisruptionTarget", "Suspended"]),
            "status": st.sampled_from(["True", "False", "Unknown"]),
            "reason": WORDS,
        }),
        max_size=3,
    ),
    notes=st.dictionaries(st.sampled_from([reading.STOPPED, reading.WHY, reading.KEY]), st.text(max_size=9)),
)  # fmt: skip
def test_whatever_a_cluster_says_of_a_job_has_a_meaning(
    phase: str, state: dict[str, Any], reason: str, conditions: list[dict[str, Any]], notes: dict[str, str]
) -> None:
    seen = pod(phase, state, status={"reason": reason, "conditions": conditions}, deletionTimestamp="now")
    record = job(conditions=conditions, metadata={"annotations": notes})
    for each in (None, seen):
        told = reading.job_status("a", record, each)
        assert (told.exit is not None) == (told.phase is Phase.ended)
        if told.started_at is not None and told.ended_at is not None:
            assert told.started_at <= told.ended_at
