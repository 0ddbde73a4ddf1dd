"""A cluster in this process: nodes, controllers and an API server, for as long as it is open."""

from __future__ import annotations

import base64
import contextlib
import json
import secrets
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fourfold.testing.kubernetes.api import Api
from fourfold.testing.kubernetes.controllers import Controllers
from fourfold.testing.kubernetes.errors import ApiError
from fourfold.testing.kubernetes.faults import Fault
from fourfold.testing.kubernetes.kinds import DEPLOYMENT, JOB, KINDS, NAMESPACE, NODE, POD, REPLICA_SET, Kind
from fourfold.testing.kubernetes.nodes import Kubelet
from fourfold.testing.kubernetes.schema import Schemas
from fourfold.testing.kubernetes.server import ApiServer
from fourfold.testing.kubernetes.store import Item, Store

TICK_S = 0.25
"""So often it is looked at what becomes due with time alone."""


@dataclass(frozen=True, slots=True)
class Node:
    name: str
    cpu: float = 8
    memory_bytes: int = 16 << 30
    gpu: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> Item:
        amounts = {
            "cpu": f"{round(self.cpu * 1000)}m",
            "memory": f"{self.memory_bytes >> 10}Ki",
            "pods": "110",
            **({"nvidia.com/gpu": str(self.gpu)} if self.gpu else {}),
        }
        labels = {"kubernetes.io/hostname": self.name, "kubernetes.io/arch": "amd64", **self.labels}
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.name, "labels": labels},
            "spec": {},
            "status": {
                "capacity": amounts,
                "allocatable": amounts,
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        }


class FakeCluster:
    """A small Kubernetes that runs what it is given as processes of this machine.

    ```python
    with FakeCluster(Schemas(folder)) as cluster:
        print(cluster.url, cluster.token)      # for any client of Kubernetes
        cluster.fault = lambda verb, path: Fault(status=500) if verb == "POST" else None
    ```

    What it is not: it has no images (a container's command is looked for on this machine), no network of its
    own (each pod has an address of 127.0.0.0/8, but shares this machine's ports), no users but by token, and
    only the kinds of `kinds.py`.
    """

    def __init__(
        self,
        schemas: Schemas,
        *,
        nodes: Collection[Node] = (Node("n1"), Node("n2")),
        namespaces: Collection[str] = ("default",),
        missing_images: Collection[str] = (),
        tls: ssl.SSLContext | None = None,
        certificate: str = "",
    ) -> None:
        """With `tls` it speaks HTTPS; `certificate` is what clients then trust, as PEM text."""
        self.token = secrets.token_urlsafe(16)
        self.fault: Callable[[str, str], Fault | None] = _no_fault
        self._certificate = certificate
        self.store = Store()
        self._controllers = Controllers(self.store)
        self._folder = Path(tempfile.mkdtemp(prefix="fourfold-kube-"))
        self._kubelet = Kubelet(self.store, self._folder, missing_images=missing_images)
        for name in namespaces:
            self.add_namespace(name)
        for node in nodes:
            self.add_node(node)
        self._server = ApiServer(
            Api(self.store, schemas),
            self.store,
            self._kubelet.log,
            tokens=frozenset({self.token}),
            fault=lambda verb, path: self.fault(verb, path),
            tls=tls,
        )
        self._is_closing = threading.Event()
        self._thread = threading.Thread(target=self._tend, name="kubernetes", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<FakeCluster {self.url}: {len(self.store.list(POD))} pods>"

    def __enter__(self) -> FakeCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._is_closing.set()
        self._thread.join(10)
        self._server.close()
        self._kubelet.close()

    @property
    def url(self) -> str:
        return self._server.url

    @property
    def asked(self) -> list[str]:
        """Each request so far: verb and path."""
        return self._server.asked

    def kubeconfig(self, namespace: str = "default") -> str:
        """What a client reads to find this cluster, as JSON (which is YAML too)."""
        place: dict[str, Any] = {"server": self.url}
        if self._certificate:
            place["certificate-authority-data"] = base64.b64encode(self._certificate.encode()).decode()
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "fake", "cluster": place}],
            "users": [{"name": "tester", "user": {"token": self.token}}],
            "contexts": [
                {"name": "fake", "context": {"cluster": "fake", "user": "tester", "namespace": namespace}}
            ],
            "current-context": "fake",
        }
        return json.dumps(config)

    def add_namespace(self, name: str) -> None:
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        self.store.create(NAMESPACE, {**body, "status": {"phase": "Active"}})

    def add_node(self, node: Node) -> None:
        self.store.create(NODE, node.body())

    def lose_node(self, name: str) -> None:
        """A node's machine dies, and the cluster has noticed: its pods are lost."""
        self._kubelet.lose(name)

        def dead(item: Item) -> None:
            item["status"]["conditions"] = [{"type": "Ready", "status": "Unknown"}]

        self.store.change(NODE, "", name, dead)
        self._controllers.lose(name)

    def rotate_log(self, pod: str, namespace: str = "default") -> None:
        """The node begins a new file of a pod's output, and keeps no other."""
        uid = self.store.get(POD, namespace, pod)["metadata"]["uid"]
        with self._kubelet.log(uid).open("r+b") as file:
            file.truncate(0)

    def home(self, pod: str, namespace: str = "default") -> Path:
        """Where a pod's container starts when it says nothing else."""
        uid = self.store.get(POD, namespace, pod)["metadata"]["uid"]
        return self._kubelet.log(uid).with_name("home")

    def forget(self, kind: Kind, name: str, namespace: str = "default") -> None:
        """Lose an object as if it had never been, with all that it owns."""
        self.store.remove(kind, namespace, name)

    def empty(self) -> None:
        """End and forget all that is in the namespaces."""
        for kind in (DEPLOYMENT, REPLICA_SET, JOB, *KINDS):
            for item in self.store.list(kind) if kind.is_namespaced else ():
                self.store.remove(kind, item["metadata"]["namespace"], item["metadata"]["name"])

    def forget_history(self) -> None:
        """Let every watch from an older version expire (410)."""
        self.store.forget_history()

    def _tend(self) -> None:
        seen = -1
        looked_at = 0.0
        while not self._is_closing.is_set():
            with self.store.changed:
                if self.store.version == seen:
                    self.store.changed.wait(TICK_S)
                version = self.store.version
            if version == seen and time.monotonic() - looked_at < TICK_S:
                continue
            seen, looked_at = version, time.monotonic()
            with contextlib.suppress(ApiError):  # somebody was quicker: it is looked at again
                self._controllers.tend()
            self._kubelet.tend()


def _no_fault(_verb: str, _path: str) -> None:
    return None
