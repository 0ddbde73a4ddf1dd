"""Nodes that really run what they are given: each container's command is a process of this machine."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from fourfold.testing.kubernetes.kinds import CONFIG_MAP, POD, SECRET
from fourfold.testing.kubernetes.rules import quantity
from fourfold.testing.kubernetes.store import Item, Store, now_text

RUNTIME = Path(__file__).with_name("container.py")
FATAL = ("InvalidImageName", "ErrImageNeverPull", "ImagePullBackOff", "CreateContainerConfigError")


class Kubelet:
    """Runs the pods that are bound to nodes; a thread for each. Only their first container is run."""

    def __init__(self, store: Store, folder: Path, *, missing_images: Collection[str]) -> None:
        self._store = store
        self._folder = folder
        self._missing_images = missing_images
        self._running: dict[str, tuple[threading.Thread, PodRun]] = {}

    def tend(self) -> None:
        """Start what is bound and has not begun; called after each change."""
        for pod in self._store.list(POD):
            uid = pod["metadata"]["uid"]
            if pod["spec"].get("nodeName") and uid not in self._running:
                if (pod.get("status") or {}).get("phase", "Pending") != "Pending":
                    continue
                run = PodRun(self._store, pod, self._folder / uid, self._missing_images)
                thread = threading.Thread(target=run.live, name=f"pod-{pod['metadata']['name']}", daemon=True)
                self._running[uid] = (thread, run)
                thread.start()

    def log(self, uid: str) -> Path:
        return self._folder / uid / "log"

    def lose(self, node: str) -> None:
        """The machine dies: its processes are gone, and nobody says so."""
        for _, run in self._running.values():
            if run.pod["spec"]["nodeName"] == node:
                run.die()

    def close(self) -> None:
        for thread, run in self._running.values():
            run.die()
            thread.join(10)
        shutil.rmtree(self._folder, ignore_errors=True)


class PodRun:
    """One pod's life on its node."""

    def __init__(self, store: Store, pod: Item, folder: Path, missing_images: Collection[str]) -> None:
        self.pod = pod
        self._store = store
        self._folder = folder
        self._missing_images = missing_images
        metadata = pod["metadata"]
        self._place = (POD, metadata["namespace"], metadata["name"])
        self._uid = metadata["uid"]
        self._container = pod["spec"]["containers"][0]
        self._process: subprocess.Popen[bytes] | None = None
        self._is_dead = False
        self._started_at = now_text()
        self._restarts = 0
        number = int(self._uid[:4], 16)
        self._ip = f"127.{1 + number % 200}.{number // 256}.{1 + number % 250}"

    def die(self) -> None:
        self._is_dead = True
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    def live(self) -> None:
        with contextlib.suppress(OSError):
            self._live()
        pod = self._seen()
        if pod is not None and pod["metadata"].get("deletionTimestamp") and not self._is_dead:
            self._gone(pod)

    def _live(self) -> None:
        (self._folder / "home").mkdir(parents=True)
        if (waiting := self._cannot_begin()) is not None:
            self._set("Pending", {"waiting": waiting})
            self._until_unwanted()
            return
        while True:
            code = self._run_once()
            pod = self._seen()
            again = self.pod["spec"].get("restartPolicy", "Always")
            is_again = again == "Always" or (again == "OnFailure" and code != 0)
            if self._is_dead or pod is None or pod["metadata"].get("deletionTimestamp") or not is_again:
                return
            self._restarts += 1
            self._pause(min(10.0, 0.2 * 2**self._restarts))

    def _run_once(self) -> int | None:
        """One start of the command, up to its end; how it ended is in the pod's status."""
        container = self._container
        limit = ((container.get("resources") or {}).get("limits") or {}).get("memory")
        spec = {
            "argv": self._expanded([*(container.get("command") or ()), *(container.get("args") or ())]),
            "env": self._environment(),
            "cwd": container.get("workingDir") or str(self._folder / "home"),
            "log": str(self._folder / "log"),
            "memory_limit_bytes": None if limit is None else int(quantity(limit)),
        }
        process = self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(RUNTIME)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"PATH": os.defpath},
        )
        assert process.stdin is not None
        assert process.stdout is not None
        with process.stdin, process.stdout, contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(spec).encode() + b"\n")
            process.stdin.flush()
            began_at = now_text()
            told = json.loads(process.stdout.readline() or b"{}")
            if "pid" in told:
                running = {"running": {"startedAt": began_at}}
                self._set("Running", running)
                over = threading.Event()
                minder = threading.Thread(target=self._mind, args=(process, over), daemon=True)
                minder.start()
                told = json.loads(process.stdout.readline() or b"{}")
                over.set()
                minder.join()
        process.wait()
        if self._is_dead:
            return None
        end: dict[str, Any] = {"startedAt": began_at, "finishedAt": now_text()}
        if "cannot_start" in told:
            said = f"failed to create containerd task: failed to start container: {told['cannot_start']}"
            end |= {"exitCode": 128, "reason": "StartError", "message": said}
        elif told.get("is_out_of_memory"):
            end |= {"exitCode": 137, "reason": "OOMKilled"}
        else:
            code = int(told.get("code", 137))
            end |= {"exitCode": code, "reason": "Error" if code else "Completed"}
        is_last = self.pod["spec"].get("restartPolicy", "Always") == "Never"
        phase = "Running" if not is_last else "Succeeded" if end["exitCode"] == 0 else "Failed"
        self._set("Failed" if self._is_over_time and is_last else phase, {"terminated": end})
        return int(end["exitCode"])

    _is_over_time = False

    def _mind(self, process: subprocess.Popen[bytes], over: threading.Event) -> None:
        """End the command when its pod is deleted or over its time: politely, then by force."""
        limit_s = self.pod["spec"].get("activeDeadlineSeconds")
        grace_s = float(self.pod["spec"].get("terminationGracePeriodSeconds", 30))
        began = time.monotonic()
        force_at: float | None = None
        while not over.wait(0.03):
            pod = self._seen()
            now = time.monotonic()
            if pod is None:  # removed by force
                process.send_signal(signal.SIGUSR1)
            elif pod["metadata"].get("deletionTimestamp"):
                if force_at is None:
                    process.send_signal(signal.SIGTERM)
                    self._ending_at = now
                grace = float(pod["metadata"].get("deletionGracePeriodSeconds", grace_s))
                force_at = self._ending_at + grace
            elif limit_s is not None and now - began >= limit_s and not self._is_over_time:
                self._is_over_time = True
                process.send_signal(signal.SIGTERM)
                force_at = now + min(grace_s, 2.0)
            if force_at is not None and now >= force_at:
                process.send_signal(signal.SIGUSR1)

    _ending_at = 0.0

    def _cannot_begin(self) -> dict[str, str] | None:
        """Why the container waits for ever, if it does."""
        image = str(self._container["image"])
        if any(sign in image for sign in " \t\n$'\"") or image != image.lower():
            return {"reason": "InvalidImageName", "message": f"couldn't parse image name {image!r}"}
        if image in self._missing_images:
            self._set("Pending", {"waiting": {"reason": "ErrImagePull", "message": f"{image}: not found"}})
            return {"reason": "ImagePullBackOff", "message": f'Back-off pulling image "{image}": not found'}
        try:
            self._environment()
        except LookupError as error:
            return {"reason": "CreateContainerConfigError", "message": str(error.args[0])}
        hosts = {
            volume["name"]: volume["hostPath"]["path"]
            for volume in self.pod["spec"].get("volumes") or ()
            if "hostPath" in volume
        }
        for mount in self._container.get("volumeMounts") or ():
            if hosts.get(mount["name"]) != mount["mountPath"]:
                said = f"this node mounts only folders of its own, under their own path: {mount['mountPath']}"
                return {"reason": "CreateContainerConfigError", "message": said}
        return None

    def _environment(self) -> dict[str, str]:
        metadata = self.pod["metadata"]
        env = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOSTNAME": metadata["name"],
            "HOME": str(self._folder / "home"),
        }
        for variable in self._container.get("env") or ():
            name, source = variable["name"], variable.get("valueFrom") or {}
            if reference := source.get("secretKeyRef"):
                data = self._data(SECRET, reference["name"])
                env[name] = base64.b64decode(_key(data, reference, "secret")).decode(
                    "utf-8", "surrogateescape"
                )
            elif reference := source.get("configMapKeyRef"):
                env[name] = _key(self._data(CONFIG_MAP, reference["name"]), reference, "configmap")
            elif reference := source.get("fieldRef"):
                env[name] = self._field(reference["fieldPath"])
            else:
                env[name] = _expand(variable.get("value") or "", env)
        return env

    def _expanded(self, words: list[str]) -> list[str]:
        env = self._environment()
        return [_expand(word, env) for word in words]

    def _field(self, path: str) -> str:
        place = {
            "metadata.name": self.pod["metadata"]["name"],
            "metadata.namespace": self.pod["metadata"]["namespace"],
            "metadata.uid": self._uid,
            "spec.nodeName": self.pod["spec"]["nodeName"],
            "status.podIP": self._ip,
        }
        return str(place.get(path, ""))

    def _data(self, kind: Any, name: str) -> dict[str, str]:
        found = self._store.find(kind, self.pod["metadata"]["namespace"], name)
        if found is None:
            raise LookupError(f'{kind.name.lower()} "{name}" not found')
        return dict(found.get("data") or {})

    def _until_unwanted(self) -> None:
        while not self._is_dead:
            pod = self._seen()
            if pod is None or pod["metadata"].get("deletionTimestamp"):
                return
            time.sleep(0.03)

    def _pause(self, pause_s: float) -> None:
        until = time.monotonic() + pause_s
        while time.monotonic() < until and not self._is_dead:
            pod = self._seen()
            if pod is None or pod["metadata"].get("deletionTimestamp"):
                return
            time.sleep(0.03)

    def _seen(self) -> Item | None:
        found = self._store.find(*self._place)
        return found if found is not None and found["metadata"]["uid"] == self._uid else None

    def _gone(self, pod: Item) -> None:
        """The node has let go of a deleted pod: what holds it now is only a finalizer."""

        def ended(item: Item) -> None:
            if item["status"].get("phase") in (None, "Pending", "Running"):
                item["status"]["phase"] = "Failed"

        if pod["metadata"].get("finalizers"):
            self._store.change(*self._place, ended)
        else:
            self._store.remove(*self._place)

    def _set(self, phase: str, state: dict[str, Any]) -> None:
        def put(item: Item) -> None:
            if item["metadata"]["uid"] != self._uid:
                return
            status = item.setdefault("status", {})
            is_ready = "running" in state
            previous = (status.get("containerStatuses") or [{}])[0].get("state") or {}
            status |= {
                "phase": phase,
                "hostIP": "127.0.0.1",
                "podIP": self._ip,
                "podIPs": [{"ip": self._ip}],
                "startTime": self._started_at,
                "conditions": [
                    *(each for each in status.get("conditions") or () if each["type"] != "Ready"),
                    {"type": "Ready", "status": "True" if is_ready else "False"},
                ],
                "containerStatuses": [
                    {
                        "name": self._container["name"],
                        "image": self._container["image"],
                        "imageID": "",
                        "containerID": f"process://{self._uid}",
                        "ready": is_ready,
                        "started": is_ready,
                        "restartCount": self._restarts,
                        "state": state,
                        "lastState": previous if self._restarts and "terminated" in previous else {},
                    }
                ],
            }
            if self._is_over_time:
                status |= {"reason": "DeadlineExceeded", "message": "Pod was active on the node longer than "
                           "the specified deadline"}  # fmt: skip

        self._store.change(*self._place, put)


def _key(data: dict[str, str], reference: Item, what: str) -> str:
    if reference["key"] not in data:
        raise LookupError(f"couldn't find key {reference['key']} in {what} {reference['name']}")
    return data[reference["key"]]


def _expand(text: str, env: dict[str, str]) -> str:
    """`$(NAME)` becomes its value where there is one, and `$$` one dollar: as a kubelet does.

    >>> _expand("$(A) $(B) $$(A) $A $", {"A": "x"})
    'x $(B) $(A) $A $'
    """
    pieces, at = [], 0
    while at < len(text):
        if text[at] != "$" or at + 1 == len(text):
            pieces.append(text[at])
            at += 1
        elif text[at + 1] == "$":
            pieces.append("$")
            at += 2
        elif text[at + 1] == "(" and (end := text.find(")", at)) > 0:
            name = text[at + 2 : end]
            pieces.append(env.get(name, f"$({name})"))
            at = end + 1
        else:
            pieces.append(text[at : at + 2])
            at += 2
    return "".join(pieces)
