"""The container engine keeps the port's promises on a real podman, and its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.compute.container_image import PYTHON, built_image, container_address, podman
from tests.compute.test_local_engine import UNIT

from fourfold.adapters.containers import ContainerEngine, ContainerSettings, groups
from fourfold.core.errors import Refused
from fourfold.core.ports.engine import ExitKind, JobStatus, Launch, Phase, Resources
from fourfold.core.quantities import Range
from fourfold.testing.engine import EngineKit

pytestmark = pytest.mark.slow
ENDS_S = 60.0


def python(script: str, *arguments: str) -> tuple[str, ...]:
    return (PYTHON, "-I", "-S", "-c", script, *arguments)


def opened(folder: Path, label: str, **more: object) -> ContainerEngine:
    settings = ContainerSettings.parse(container_address(**more))
    return ContainerEngine(folder / "jobs", settings, label=label, unit=UNIT, project=Path.cwd())


@pytest.fixture(autouse=True)
def _image() -> None:
    built_image()


@pytest.fixture
def label() -> Iterator[str]:
    label = uuid.uuid4().hex
    yield label
    ours = podman("ps", "--all", "--quiet", "--filter", f"label=fourfold.project={label}").stdout.split()
    if ours:
        names = podman("inspect", "--format", "{{.Name}}", *ours).stdout.split()
        podman("rm", "--force", "--time", "0", *ours)
        for name in names:
            groups.remove(name)


@pytest.fixture
def engine(tmp_path: Path, label: str) -> Iterator[ContainerEngine]:
    engine = opened(tmp_path, label)
    yield engine
    engine.close()


class TestContainersKeepTheKit(EngineKit):
    patience_s = ENDS_S

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path, label: str) -> None:
        self.folder, self.label = tmp_path, label

    most_output_bytes = 16 << 20

    def open(self) -> ContainerEngine:
        return self.open_in(self.folder)

    def open_in(self, folder: Path) -> ContainerEngine:
        return opened(folder, self.label, project="rw", most_output_bytes=self.most_output_bytes)

    def python(self, script: str, *arguments: str) -> tuple[str, ...]:
        return python(script, *arguments)


def ended(engine: ContainerEngine, key: str) -> JobStatus:
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
        time.sleep(0.05)  # the file of a job's output tells nobody that it grew


def said(engine: ContainerEngine, *argv: str) -> str:
    engine.submit(Launch("told", argv))
    ended(engine, "told")
    return engine.logs("told").data.decode()


def test_a_job_gets_a_small_clean_environment(
    engine: ContainerEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OURS_ALONE", "secret")
    engine.submit(Launch("a", ("/bin/busybox", "env"), env={"GIVEN": "1", "HOME": "/home/x"}))
    ended(engine, "a")
    lines = engine.logs("a").data.decode().splitlines()
    assert {"GIVEN=1", "HOME=/home/x", "OMP_NUM_THREADS=1"} <= set(lines)
    assert not [line for line in lines if line.startswith("OURS_ALONE")]


def test_what_is_not_opened_is_closed(engine: ContainerEngine) -> None:
    script = """
import json, os, sys
def fails(act):
    try: act()
    except OSError as error: return error.errno
    return None
print(json.dumps({
    "root": fails(lambda: open("/new", "w")),
    "usr": fails(lambda: open("/usr/new", "w")),
    "tmp": fails(lambda: open("/tmp/new", "w")),
    "project": os.path.exists(sys.argv[1]),
    "nets": sorted(os.listdir("/sys/class/net")),
    "capabilities": next(l.split()[1] for l in open("/proc/self/status") if l.startswith("CapEff")),
}))
"""
    told = json.loads(said(engine, *python(script, str(Path.cwd()))))
    assert told == {
        "root": 30, "usr": 30, "tmp": None, "project": False, "nets": ["lo"],
        "capabilities": "0000000000000000",
    }  # fmt: skip


def test_more_processes_than_the_pool_allows_are_not_made(tmp_path: Path, label: str) -> None:
    script = """
import os, sys, time
made = 0
try:
    while made < 200:
        if os.fork() == 0: time.sleep(600)
        made += 1
except OSError as error:
    print(made, error.errno)
"""
    engine = opened(tmp_path, label, most_processes=20)
    made, errno = said(engine, *python(script)).split()
    assert int(made) < 20
    assert int(errno) == 11
    engine.close()


def test_an_image_that_is_not_here_is_refused_with_the_way_on_and_the_key_stays_free(
    engine: ContainerEngine,
) -> None:
    with pytest.raises(Refused, match="podman pull localhost/no-such:9"):
        engine.submit(Launch("a", ("/bin/busybox", "true"), image="localhost/no-such:9"))
    with pytest.raises(Refused, match="which is no image"):
        engine.submit(Launch("a", ("/bin/busybox", "true"), image="--privileged"))
    assert engine.status(["a"])["a"].phase is Phase.unknown
    engine.submit(Launch("a", ("/bin/busybox", "true")))
    assert kind(ended(engine, "a")) is ExitKind.ok


def test_a_folder_that_is_not_mounted_is_refused(engine: ContainerEngine) -> None:
    with pytest.raises(Refused, match="project=ro"):
        engine.submit(Launch("a", ("/bin/busybox", "true"), cwd="/root"))


SUBMITS = """
import sys
from pathlib import Path
from tests.compute.test_container_engine import opened
from fourfold.core.ports.engine import Launch
engine = opened(Path(sys.argv[1]), sys.argv[2])
engine.submit(Launch("a", ("/bin/busybox", "sh", "-c", "echo once; sleep 2; echo on")))
print("submitted", flush=True)
sys.stdin.read()
"""


def test_a_job_outlives_the_process_that_submitted_it(tmp_path: Path, label: str) -> None:
    command = [sys.executable, "-c", SUBMITS, str(tmp_path), label]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as control:
        assert control.stdout is not None
        assert control.stdout.readline() == b"submitted\n"
        os.kill(control.pid, signal.SIGKILL)
    engine = opened(tmp_path, label)
    assert engine.status(["a"])["a"].phase is Phase.running
    engine.submit(Launch("a", ("/bin/busybox", "echo", "twice")))
    assert kind(ended(engine, "a")) is ExitKind.ok
    assert engine.logs("a").data == b"once\non\n"
    used = engine.usage("a")
    assert used.cpu_s is not None
    assert used.wall_s >= 1.5
    engine.close()


def test_many_submissions_of_one_key_at_once_start_one_container(tmp_path: Path, label: str) -> None:
    command = [sys.executable, "-c", SUBMITS, str(tmp_path), label]
    controls = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    for control in controls:
        told, wrong = control.communicate(timeout=ENDS_S)
        assert told == b"submitted\n", wrong.decode()
    engine = opened(tmp_path, label)
    ended(engine, "a")
    assert engine.logs("a").data == b"once\non\n"
    engine.close()


def test_a_submission_that_was_cut_off_after_the_container_was_made_goes_on(
    engine: ContainerEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(
            engine._podman, "begin", lambda *_args, **_more: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            engine.submit(Launch("a", ("/bin/busybox", "echo", "once")))
    assert engine.status(["a"])["a"].phase is Phase.starting
    engine.submit(Launch("a", ("/bin/busybox", "echo", "once")))
    assert kind(ended(engine, "a")) is ExitKind.ok
    assert engine.logs("a").data == b"once\n"


@pytest.mark.parametrize("comes", ["before it is made", "before it is started"])
def test_a_stop_that_comes_while_the_container_is_made_is_heeded(
    engine: ContainerEngine, monkeypatch: pytest.MonkeyPatch, comes: str
) -> None:
    begin, run = engine._podman.begin, engine._podman._run

    def begin_late(name: str, output: Path, *, is_made: bool) -> None:
        engine.stop("a", 0)
        begin(name, output, is_made=is_made)

    def start_late(words: Sequence[str], **how: Any) -> subprocess.CompletedProcess[bytes]:
        if words[0] == "start":
            engine.stop("a", 0)
            engine._podman._stops[-1].wait(ENDS_S)
        return run(words, **how)

    if comes == "before it is made":
        monkeypatch.setattr(engine._podman, "begin", begin_late)
    else:
        monkeypatch.setattr(engine._podman, "_run", start_late)
    engine.submit(Launch("a", ("/bin/busybox", "sleep", "600")))
    assert kind(ended(engine, "a")) is ExitKind.cancelled
    eventually(
        lambda: podman("inspect", "--format", "{{.State.Running}}", engine._of("a").name).stdout == "false\n"
    )


def test_reaping_leaves_another_project_alone(engine: ContainerEngine, tmp_path: Path) -> None:
    other_label = uuid.uuid4().hex
    other = opened(tmp_path / "other", other_label)
    other.submit(Launch("a", ("/bin/busybox", "sleep", "600")))
    engine.submit(Launch("a", ("/bin/busybox", "sleep", "600")))
    assert engine.reap([]) == ("a",)
    assert kind(ended(engine, "a")) is ExitKind.cancelled
    assert other.status(["a"])["a"].phase is Phase.running
    assert other.reap([]) == ("a",)
    ended(other, "a")
    podman("rm", "--all", "--force", "--filter", f"label=fourfold.project={other_label}")
    other.close()


def test_what_ended_long_ago_is_forgotten_with_its_files(tmp_path: Path, label: str) -> None:
    engine = opened(tmp_path, label, ended_kept_s=0.001)
    engine.submit(Launch("a", ("/bin/busybox", "true")))
    ended(engine, "a")
    assert engine.reap(["a"]) == ()
    assert engine.status(["a"])["a"].phase is Phase.ended
    eventually(lambda: engine.reap([]) == () and engine.status(["a"])["a"].phase is Phase.unknown)
    assert not list((tmp_path / "jobs").glob("fourfold-*"))
    engine.close()


def test_a_job_that_is_killed_from_outside_is_lost_and_one_that_is_removed_too(
    engine: ContainerEngine,
) -> None:
    for key in ("a", "b"):
        engine.submit(Launch(key, ("/bin/busybox", "sleep", "600")))
    podman("kill", engine._of("a").name)
    podman("rm", "--force", "--time", "0", engine._of("b").name)
    assert kind(ended(engine, "a")) is ExitKind.worker_lost
    assert kind(ended(engine, "b")) is ExitKind.worker_lost
    engine.submit(Launch("b", ("/bin/busybox", "true")))  # its key is used up
    assert kind(ended(engine, "b")) is ExitKind.worker_lost


def test_a_job_that_prints_without_end_is_ended(tmp_path: Path, label: str) -> None:
    engine = opened(tmp_path, label, most_output_bytes=1 << 20)
    engine.submit(Launch("a", ("/bin/busybox", "yes")))
    status = ended(engine, "a")
    assert kind(status) is ExitKind.failed
    assert "most_output_bytes" in str(status.exit)
    engine.close()


def test_a_stopped_job_has_its_grace(engine: ContainerEngine) -> None:
    script = "trap 'echo saved; exit 0' TERM; echo ready; while :; do sleep 0.1; done"
    engine.submit(Launch("a", ("/bin/busybox", "sh", "-c", script)))
    eventually(lambda: engine.logs("a").data)
    engine.stop("a", 20)
    assert kind(ended(engine, "a")) is ExitKind.cancelled
    assert engine.logs("a").data == b"ready\nsaved\n"


def test_memory_is_held_by_the_kernel_below_and_above_the_limit(engine: ContainerEngine) -> None:
    asks = Resources(memory_bytes=Range(0, 96 << 20))
    engine.submit(Launch("fits", python("b = bytearray(48 << 20); b[::4096] = b'x' * 12288"), resources=asks))
    engine.submit(Launch("not", python("b = bytearray(200 << 20); b[::4096] = b'x' * 51200"), resources=asks))
    assert kind(ended(engine, "fits")) is ExitKind.ok
    assert kind(ended(engine, "not")) is ExitKind.out_of_memory
    peak = engine.usage("fits").memory_peak_bytes
    assert peak is not None
    assert 48 << 20 <= peak <= 96 << 20


def test_bytes_over_a_network_of_its_own_are_counted_and_elsewhere_known_or_unknown(
    engine: ContainerEngine, tmp_path: Path, label: str
) -> None:
    engine.submit(Launch("closed", python("print(1)")))
    ended(engine, "closed")
    assert engine.usage("closed").network_bytes == 0  # it had none

    serve = """
import os, socket, sys
server = socket.create_server(("", int(os.environ["FOURFOLD_PORT"])))
while True:
    talk, _ = server.accept()
    while talk.recv(1 << 16):
        pass
"""
    engine.submit(Launch("open", python(serve), listens=True))
    sent = 4 << 20
    eventually(lambda: engine.status(["open"])["open"].address)
    host, _, port = engine.status(["open"])["open"].address.removeprefix("http://").partition(":")
    eventually(lambda: _sent(host, int(port), sent))
    eventually(lambda: (engine.usage("open").network_bytes or 0) >= sent)
    engine.stop("open", 0)
    ended(engine, "open")
    assert (engine.usage("open").network_bytes or 0) >= sent  # also after its end, and for another process
    again = opened(tmp_path, label)
    assert (again.usage("open").network_bytes or 0) >= sent
    again.close()


def _sent(host: str, port: int, count: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=ENDS_S) as talk:
            talk.sendall(bytes(count))
    except OSError:
        return False
    return True


def test_nothing_is_left_in_the_folder_that_we_were_called_from(
    tmp_path: Path, label: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    settings = ContainerSettings.parse(container_address())
    engine = ContainerEngine(Path("../jobs"), settings, label=label, unit=UNIT, project=here)
    asks = Resources(memory_bytes=Range(0, 64 << 20))
    engine.submit(Launch("a", python("b = bytearray(200 << 20); b[::4096] = b'x' * 51200"), resources=asks))
    assert kind(ended(engine, "a")) is ExitKind.out_of_memory
    engine.submit(Launch("b", ("/bin/busybox", "sleep", "600")))
    engine.stop("b", 0)
    ended(engine, "b")
    engine.close()
    assert not list(here.iterdir())


def test_a_token_in_the_environment_is_in_no_command_line(
    engine: ContainerEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    real = subprocess.run

    def run(command: list[str], **more: object) -> object:
        seen.extend(command)
        return real(command, **more)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "run", run)
    engine.submit(Launch("a", ("/bin/busybox", "env"), env={"FOURFOLD_TOKEN": "s3cret-word"}))
    ended(engine, "a")
    assert b"FOURFOLD_TOKEN=s3cret-word" in engine.logs("a").data
    assert not [word for word in seen if "s3cret-word" in word]
