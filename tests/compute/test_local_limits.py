"""What bounds a local job: memory, output, the disk, ports; and what tells one end from another."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.compute.test_local_engine import UNIT, eventually, is_gone, python

from fourfold.adapters.local_engine import LocalEngine, groups, output
from fourfold.adapters.local_engine.output import Output
from fourfold.adapters.local_engine.ports import Port
from fourfold.core.errors import Refused
from fourfold.core.jobs import Exit
from fourfold.core.ports.engine import ExitKind, Launch, Resources
from fourfold.core.quantities import Range
from fourfold.testing.engine import EngineKit

pytestmark = pytest.mark.slow

MIB = 1 << 20
GROUPS = groups.find_place()
needs_groups = pytest.mark.skipif(GROUPS is None, reason="no control group can be made here")


class TestLocalEngineWithoutGroupsKeepsTheKit(EngineKit):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "jobs"

    def open(self) -> LocalEngine:
        return LocalEngine(self.folder, unit=UNIT, may_group=False)

    def open_in(self, folder: Path) -> LocalEngine:
        return LocalEngine(folder, unit=UNIT, may_group=False)


@pytest.fixture(
    params=[pytest.param(True, marks=needs_groups, id="groups"), pytest.param(False, id="polled")]
)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LocalEngine]:
    engine = LocalEngine(tmp_path / "jobs", unit=UNIT, log_bytes=4 * MIB, may_group=request.param)
    yield engine
    engine.close()


def end_of(engine: LocalEngine, key: str) -> Exit:
    exit_ = engine.wait([key], 60)[key].exit
    assert exit_ is not None
    return exit_


def limited(high: int) -> Resources:
    return Resources(memory_bytes=Range(0, high))


IN_A_CHILD = """
import os, sys, time
if os.fork() == 0:
    block = bytearray(256 << 20)
    time.sleep(600)
try:
    os.wait()
finally:
    sys.exit(3)  # what it says of itself when its child was killed
"""


def test_memory_that_a_child_takes_ends_the_job_as_out_of_memory(engine: LocalEngine) -> None:
    engine.submit(Launch("a", python(IN_A_CHILD), resources=limited(64 * MIB)))
    exit_ = end_of(engine, "a")
    assert exit_.kind is ExitKind.out_of_memory
    assert "its limit of 64 MiB" in exit_.reason


def test_the_job_ends_also_when_its_first_process_would_go_on_without_the_child(engine: LocalEngine) -> None:
    goes_on = IN_A_CHILD.replace("sys.exit(3)", "time.sleep(600)")
    engine.submit(Launch("a", python(goes_on), resources=limited(64 * MIB)))
    assert end_of(engine, "a").kind is ExitKind.out_of_memory


def test_a_failure_within_its_memory_is_a_failure(engine: LocalEngine) -> None:
    script = "import os; block = bytearray(32 << 20); os.kill(os.getpid(), 9)"
    engine.submit(Launch("killed", python(script), resources=limited(256 * MIB)))
    engine.submit(Launch("raised", python("raise MemoryError"), resources=limited(256 * MIB)))
    assert end_of(engine, "killed").kind is ExitKind.worker_lost
    assert end_of(engine, "raised").kind is ExitKind.failed


def test_each_node_has_its_own_limit_of_memory(engine: LocalEngine) -> None:
    script = "import os, time; block = bytearray((40 + 200 * int(os.environ['RANK'])) << 20); time.sleep(600)"
    engine.submit(Launch("a", python(script), nodes=2, resources=limited(128 * MIB)))
    exit_ = end_of(engine, "a")
    assert exit_.kind is ExitKind.out_of_memory
    calm = "import os, time; block = bytearray(80 << 20); time.sleep(0.4)"
    engine.submit(Launch("b", python(calm), nodes=2, resources=limited(128 * MIB)))
    assert end_of(engine, "b").kind is ExitKind.ok


@needs_groups
def test_a_group_holds_memory_that_comes_faster_than_any_look(tmp_path: Path) -> None:
    engine = LocalEngine(tmp_path, unit=UNIT)
    script = "blocks = [bytearray(b'x') * (64 << 20) for _ in range(64)]"
    engine.submit(Launch("a", python(script), resources=limited(128 * MIB)))
    exit_ = end_of(engine, "a")
    usage = engine.usage("a")
    engine.close()
    assert exit_.kind is ExitKind.out_of_memory
    assert usage.memory_peak_bytes is not None
    assert usage.memory_peak_bytes <= 144 * MIB  # shared libraries are others' in the group, and its own here


@needs_groups
def test_no_group_is_left_when_a_job_has_ended_or_its_keeper_was_killed(tmp_path: Path) -> None:
    engine = LocalEngine(tmp_path, unit=UNIT)
    engine.submit(Launch("a", python("pass")))
    end_of(engine, "a")
    engine.submit(Launch("b", python("import time; print(1, flush=True); time.sleep(600)")))
    eventually(lambda: engine.logs("b").data)
    names = [groups.name_of(str(folder)) for folder in tmp_path.iterdir()]
    assert [len(groups.left_by(GROUPS, name)) for name in names].count(1) == 1
    leader = engine.status(["b"])["b"].pid
    keeper = int(Path(f"/proc/{leader}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(keeper, 9)
    end_of(engine, "b")
    engine.close()
    assert [found for name in names for found in groups.left_by(GROUPS, name)] == []


@needs_groups
def test_children_for_whom_nobody_waits_are_counted(tmp_path: Path) -> None:
    script = """
import os, signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel forgets their time when they end
if os.fork() == 0:
    end = time.process_time() + 0.5
    while time.process_time() < end: pass
    os._exit(0)
try:
    os.wait()
except ChildProcessError:
    pass
"""
    engine = LocalEngine(tmp_path, unit=UNIT)
    engine.submit(Launch("a", python(script)))
    end_of(engine, "a")
    usage = engine.usage("a")
    assert usage.cpu_s is not None
    assert 0.5 <= usage.cpu_s <= 1.2
    engine.close()


FLOOD = """
import os, sys
os.write(1, b"the beginning\\n")
line = b"x" * 99 + b"\\n"
block = line * 10_000
for _ in range(int(sys.argv[1]) // len(block)):
    os.write(1, block)
os.write(1, b"the end\\n")
"""


def test_a_flood_of_output_is_held_and_what_lacks_is_counted(engine: LocalEngine, tmp_path: Path) -> None:
    total = 1_000_000_000
    engine.submit(Launch("a", python(FLOOD, str(total))))
    most = 0
    while engine.wait(["a"], 0.02)["a"].exit is None:
        most = max(most, *(on_disk(path) for path in (tmp_path / "jobs").glob("*/log")), 0)
    assert end_of(engine, "a").kind is ExitKind.ok
    (log,) = (tmp_path / "jobs").glob("*/log")
    assert on_disk(log) <= 5 * MIB + 8192
    assert most < 1_000_000_000 // 2
    chunk = engine.logs("a", 0, 100)
    assert chunk.data.startswith(b"the beginning\n")
    data, offset = b"", 0
    while True:
        chunk = engine.logs("a", offset)
        data += chunk.data
        offset = chunk.next_offset
        if chunk.is_end:
            break
    assert offset == total + len(b"the beginning\nthe end\n")
    assert data.endswith(b"x\nthe end\n")
    kept, _, rest = data.partition(b"\n[")
    missing = int(rest.partition(b" bytes of output were given up here]")[0])
    assert b"\0" not in data
    assert missing + len(data) - len(f"\n[{missing} bytes of output were given up here]\n") == offset
    assert kept.startswith(b"the beginning\n")


def on_disk(path: Path) -> int:
    return path.stat().st_blocks * 512


def test_the_middle_is_given_up_and_beginning_and_end_stay(tmp_path: Path) -> None:
    held = Output(str(tmp_path), 64 * 1024)
    for number in range(100):
        os.write(held.fd, f"{number:04d}".encode() * 1024)
        held.hold()
    os.close(held.fd)
    first, next_offset, size = output.read(str(tmp_path), 0, 1 << 20)
    assert size == 100 * 4096
    lacking = next_offset - 4 * 4096
    told = f"\n[{lacking} bytes of output were given up here]\n".encode()
    assert first == b"".join(f"{n:04d}".encode() * 1024 for n in range(4)) + told
    last, end, _ = output.read(str(tmp_path), next_offset, 1 << 20)
    assert end == size
    assert last.endswith(b"0099" * 1024)
    assert 48 * 1024 <= len(last) <= 64 * 1024
    inside = output.read(str(tmp_path), 20_000, 1 << 20)
    assert inside[0] == f"\n[{next_offset - 20_000} bytes of output were given up here]\n".encode()
    assert inside[1] == next_offset


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_job_that_fills_the_disk_ends_with_a_journal_and_others_go_on(tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(tmp_path)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    engine = LocalEngine(tmp_path / "jobs", unit=UNIT)
    try:
        waits = "import time\nwhile not __import__('os').path.exists('go'): time.sleep(0.01)\nprint('ran')"
        engine.submit(Launch("other", python(waits), cwd=str(tmp_path)))
        fills = "file = open('filler', 'wb', buffering=0)\nwhile True: file.write(b'x' * 4096)"
        engine.submit(Launch("fills", python(fills), cwd=str(tmp_path)))
        exit_ = end_of(engine, "fills")
        assert exit_.kind is ExitKind.failed
        assert exit_.code  # 1, or 120 where even its last words found no room
        later = LocalEngine(tmp_path / "jobs", unit=UNIT)
        assert later.status(["fills"])["fills"].exit == exit_
        (tmp_path / "filler").unlink()
        (tmp_path / "go").touch()
        assert end_of(engine, "other").kind is ExitKind.ok
        assert engine.logs("other").data == b"ran\n"
    finally:
        engine.close()
        subprocess.run(["umount", str(tmp_path)], check=False)


def test_nodes_are_started_all_or_none(engine: LocalEngine, tmp_path: Path) -> None:
    engine.submit(Launch("a", ("/no/such/command",), nodes=2))
    assert (end_of(engine, "a").kind, end_of(engine, "a").code) == (ExitKind.failed, 127)
    with pytest.raises(Refused, match="job 'b' of 3 nodes asks for 3 cores, but no unit can ever give more"):
        engine.submit(Launch("b", python("pass"), nodes=3))


def test_the_other_nodes_are_ended_by_force_if_they_ignore_the_polite_word(engine: LocalEngine) -> None:
    script = """
import os, signal, sys, time
if os.environ["RANK"] == "1":
    time.sleep(0.2)
    sys.exit(7)
signal.signal(signal.SIGTERM, lambda *_: print("asked to stop", flush=True))
print(os.getpid(), flush=True)
while True: time.sleep(600)
"""
    engine.submit(Launch("a", python(script), nodes=2))
    exit_ = end_of(engine, "a")
    assert (exit_.kind, exit_.code, exit_.reason) == (ExitKind.failed, 7, "node 1: exit status 7")
    pid, said = engine.logs("a").data.decode().splitlines()
    assert said == "asked to stop"
    assert is_gone(int(pid))


def test_a_port_is_given_once_however_many_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "urandom", bytes)  # all begin their search at the same one
    held = [Port() for _ in range(50)]
    numbers = [port.number for port in held]
    assert len(set(numbers)) == 50
    for number in numbers:
        with socket.socket() as server:
            server.bind(("127.0.0.1", number))  # free, without any option


def test_the_supervisor_loads_nothing_of_the_house_but_its_own_room() -> None:
    script = """
import sys
from fourfold.adapters.local_engine import link
sys.argv = ["-c", str(link.SOURCE)]
own = {name for name in sys.modules if name.startswith("fourfold")}
for name in own: del sys.modules[name]
exec(link.BOOT.replace("main()", ""))
print(*sorted(name for name in sys.modules if name.startswith("fourfold")))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    rooms = {name for name in done.stdout.split() if not name.startswith("fourfold.adapters.local_engine")}
    assert rooms == {"fourfold", "fourfold.adapters", "fourfold.core", "fourfold.core.trace"}


V2 = """33 25 0:30 / {root}/unified rw,nosuid - cgroup2 cgroup2 rw,nsdelegate
"""
V1 = """31 25 0:28 /docker/abc {root}/memory rw,nosuid - cgroup cgroup rw,memory
32 25 0:29 / {root}/cpuacct rw - cgroup cgroup rw,cpu,cpuacct
"""


@pytest.mark.parametrize(
    ("mounts", "own", "memory"),
    [
        (V1, "4:memory:/docker/abc/mine\n3:cpu,cpuacct:/\n", "memory/mine"),
        (V1, "4:memory:/\n3:cpu,cpuacct:/\n", "memory"),
    ],
)
def test_the_place_for_groups_is_found_also_when_only_a_part_is_mounted(
    tmp_path: Path, mounts: str, own: str, memory: str
) -> None:
    (tmp_path / "memory" / "mine").mkdir(parents=True)
    (tmp_path / "cpuacct").mkdir()
    (tmp_path / "mounts").write_text(mounts.format(root=tmp_path))
    (tmp_path / "own").write_text(own)
    found = groups._own_paths(str(tmp_path / "own"))
    folder = groups._folder(groups._mounts(str(tmp_path / "mounts")).get("memory"), found.get("memory"))
    assert folder == str(tmp_path / memory)
    # Plain folders have no files of the kernel's, so nothing can be made there.
    assert groups.find_place(str(tmp_path / "own"), str(tmp_path / "mounts")) is None
