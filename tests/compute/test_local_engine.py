"""The local engine keeps the port's promises, and its own: one process per key, and none left behind."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fourfold.adapters.local_engine import LocalEngine, groups, link
from fourfold.adapters.local_engine import engine as local_engine
from fourfold.adapters.local_engine.strays import MARK, marked
from fourfold.core.compute import Unit
from fourfold.core.errors import OutOfSpace, Refused, Unavailable
from fourfold.core.ports.engine import ExitKind, Launch, Phase, Resources
from fourfold.core.quantities import Range
from fourfold.testing.engine import EngineKit

pytestmark = pytest.mark.slow

UNIT = Unit("local", cores=2, memory_bytes=8 << 30)


def python(script: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", "-c", script, *arguments)


class TestLocalEngineKeepsTheKit(EngineKit):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "jobs"

    def open(self) -> LocalEngine:
        return LocalEngine(self.folder, unit=UNIT)

    def open_in(self, folder: Path) -> LocalEngine:
        return LocalEngine(folder, unit=UNIT)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[LocalEngine]:
    engine = LocalEngine(tmp_path / "jobs", unit=UNIT)
    yield engine
    engine.close()


def eventually(claim: Callable[[], object], *, within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while not claim():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)  # other processes end when they end: there is no event to await


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def first_line(engine: LocalEngine, key: str) -> str:
    eventually(lambda: b"\n" in engine.logs(key).data)
    return engine.logs(key).data.decode().splitlines()[0]


ESCAPE = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
told, tell = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.write(tell, str(os.getpid()).encode())
        os.execve("/bin/sleep", ["sleep", "600"], {})  # a clean environment: no mark is left
    os._exit(0)
os.wait()
print(os.read(told, 20).decode(), flush=True)
time.sleep(float(sys.argv[1]))
"""


def test_stopping_ends_processes_that_forked_away_and_ignore_the_polite_word(engine: LocalEngine) -> None:
    engine.submit(Launch("a", python(ESCAPE, "600")))
    escaped = int(first_line(engine, "a"))
    engine.stop("a", 0.05)
    exit_ = engine.wait(["a"], 20)["a"].exit
    assert exit_ is not None
    assert exit_.kind is ExitKind.cancelled
    assert is_gone(escaped)


def test_a_job_that_ends_leaves_nothing_running(engine: LocalEngine) -> None:
    engine.submit(Launch("a", python(ESCAPE, "0")))
    status = engine.wait(["a"], 20)["a"]
    assert status.exit is not None
    assert status.exit.kind is ExitKind.ok
    assert is_gone(int(first_line(engine, "a")))


CONTROL = """
import os, sys, time
from pathlib import Path
from fourfold.adapters.local_engine import LocalEngine
from fourfold.core.compute import Unit
from fourfold.core.ports.engine import Launch
engine = LocalEngine(Path(sys.argv[1]), unit=Unit("local", cores=2, memory_bytes=8 << 30))
engine.submit(Launch("a", (sys.executable, "-I", "-S", "-c", sys.argv[2], "600")))
while b"\\n" not in engine.logs("a").data: time.sleep(0.01)
print(engine.status(["a"])["a"].pid, engine._supervisor._process.pid, flush=True)
time.sleep(600)
"""


def control_process(folder: Path) -> tuple[subprocess.Popen[str], int, int]:
    process = subprocess.Popen(
        [sys.executable, "-c", CONTROL, str(folder), ESCAPE], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    leader, supervisor = process.stdout.readline().split()
    return process, int(leader), int(supervisor)


def test_jobs_die_with_their_control_process_and_their_keys_stay_used(tmp_path: Path) -> None:
    process, leader, supervisor = control_process(tmp_path)
    other = LocalEngine(tmp_path, unit=UNIT)
    escaped = int(first_line(other, "a"))
    assert other.status(["a"])["a"].phase is Phase.running
    assert other.reap([]) == ()  # its control process lives: not ours to end
    process.kill()
    process.communicate()
    eventually(lambda: is_gone(leader) and is_gone(escaped) and is_gone(supervisor))
    exit_ = other.status(["a"])["a"].exit
    assert exit_ is not None
    other.submit(Launch("a", python("print('a second process')")))
    assert b"second" not in other.logs("a").data
    other.close()


def test_what_outlived_even_its_supervisor_is_reaped_at_the_next_start(tmp_path: Path) -> None:
    process, leader, supervisor = control_process(tmp_path)
    other = LocalEngine(tmp_path, unit=UNIT)
    unmarked = int(first_line(other, "a"))
    keepers = [
        int(word) for word in Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    ]
    os.kill(supervisor, signal.SIGSTOP)
    for pid in (*keepers, supervisor, process.pid):
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    marked = subprocess.Popen(
        ["/bin/sleep", "600"], env={"FOURFOLD_JOB": str(next(tmp_path.iterdir()))}, start_new_session=True
    )
    assert other.reap([]) == ("a",)
    if groups.find_place() is None:  # it hid its mark, and all who knew it are dead: the stated limit
        os.kill(unmarked, signal.SIGKILL)
    eventually(lambda: is_gone(unmarked))
    marked.wait(20)
    eventually(lambda: is_gone(leader))
    exit_ = other.status(["a"])["a"].exit
    assert exit_ is not None
    assert exit_.kind is ExitKind.worker_lost
    assert other.reap([]) == ()
    other.close()


def test_a_process_that_is_just_being_started_is_known_by_its_mark(tmp_path: Path) -> None:
    # Of processes looked at right after their start some percent are in the middle of `exec`.
    for _ in range(100):
        process = subprocess.Popen(["/bin/sleep", "600"], env={MARK: str(tmp_path)}, start_new_session=True)
        try:
            assert (process.pid, str(tmp_path)) in set(marked())
        finally:
            process.kill()
            process.wait()


def test_a_job_whose_keeper_is_killed_is_lost_and_its_processes_ended(engine: LocalEngine) -> None:
    engine.submit(Launch("a", python(ESCAPE, "600")))
    escaped = int(first_line(engine, "a"))
    leader = engine.status(["a"])["a"].pid
    assert leader is not None
    keeper = int(Path(f"/proc/{leader}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(keeper, signal.SIGKILL)
    exit_ = engine.wait(["a"], 20)["a"].exit
    assert exit_ is not None
    assert exit_.kind is ExitKind.worker_lost
    eventually(lambda: is_gone(escaped) and is_gone(leader))


def test_the_engine_goes_on_after_its_supervisor_is_killed(engine: LocalEngine) -> None:
    engine.submit(Launch("a", python(ESCAPE, "600")))
    escaped = int(first_line(engine, "a"))
    supervisor = engine._supervisor
    assert supervisor is not None
    supervisor._process.kill()
    exit_ = engine.wait(["a"], 20)["a"].exit
    assert exit_ is not None
    assert exit_.kind in (ExitKind.worker_lost, ExitKind.cancelled)
    eventually(lambda: is_gone(escaped) and supervisor.is_dead)
    engine.submit(Launch("b", python("print('again')")))
    assert engine.wait(["b"], 20)["b"].exit is not None
    assert engine.logs("b").data == b"again\n"


def test_a_job_of_the_next_supervisor_does_not_die_with_the_last_one(engine: LocalEngine) -> None:
    engine.submit(Launch("a", python(ESCAPE, "600")))
    first_line(engine, "a")
    dead = engine._supervisor
    assert dead is not None
    dead._process.kill()
    engine.wait(["a"], 20)
    engine.submit(Launch("b", python(ESCAPE, "600")))
    first_line(engine, "b")
    engine._supervisor_died(dead)  # word of the death may come late
    assert engine.status(["b"])["b"].phase is Phase.running
    engine.stop("b", 0)
    assert engine.wait(["b"], 20)["b"].phase is Phase.ended


def test_a_job_that_could_not_be_handed_over_ends_as_lost(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.prepare()

    def fails(message: object) -> None:
        raise Unavailable("the supervisor of local jobs has died")

    monkeypatch.setattr(engine._supervisor, "send", fails)
    engine.submit(Launch("a", python("print('ran')")))
    exit_ = engine.status(["a"])["a"].exit
    assert exit_ is not None
    assert exit_.kind is ExitKind.worker_lost


def test_without_a_supervisor_nothing_starts_and_the_key_stays_free(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(link, "SOURCE", tmp_path)
        with pytest.raises(Unavailable, match="did not start"):
            engine.submit(Launch("a", python("print('ran')")))
    assert engine.status(["a"])["a"].phase is Phase.unknown
    engine.submit(Launch("a", python("print('ran')")))
    assert engine.wait(["a"], 20)["a"].exit is not None
    assert engine.logs("a").data == b"ran\n"


def test_a_supervisor_that_hangs_while_it_starts_is_given_up(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(link, "READY_WITHIN_S", 0.2)
        patch.setattr(link, "BOOT", "import time; time.sleep(600)")
        with pytest.raises(Unavailable, match="did not start"):
            engine.submit(Launch("a", python("pass")))
    assert engine.status(["a"])["a"].phase is Phase.unknown
    engine.submit(Launch("a", python("pass")))
    exit_ = engine.wait(["a"], 60)["a"].exit
    assert exit_ is not None
    assert exit_.kind is ExitKind.ok


def test_a_supervisor_that_hangs_keeps_nobody_waiting_and_is_ended(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "READY_WITHIN_S", 0.2)
    engine.submit(Launch("a", python("import time; print('begun', flush=True); time.sleep(600)")))
    first_line(engine, "a")
    pid = engine.status(["a"])["a"].pid
    assert pid is not None
    assert engine._supervisor is not None
    os.kill(engine._supervisor._process.pid, signal.SIGSTOP)
    with contextlib.suppress(Unavailable):
        for number in range(200):  # more than the line holds
            engine.submit(Launch(f"b/{number}", python("pass"), env={"FILL": "x" * 50_000}))
    engine.stop("a", 0)
    exit_ = engine.wait(["a"], 60)["a"].exit
    assert exit_ is not None
    assert exit_.kind is ExitKind.worker_lost
    eventually(lambda: is_gone(pid))


def test_when_no_more_can_be_opened_one_job_is_lost_and_the_others_go_on(engine: LocalEngine) -> None:
    engine.submit(Launch("a", python(ESCAPE, "600")))
    first_line(engine, "a")
    supervisor = engine._supervisor
    assert supervisor is not None
    usual = resource.prlimit(supervisor._process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(supervisor._process.pid, resource.RLIMIT_NOFILE, (3, usual[1]))
    engine.submit(Launch("b", python("print('ran')")))
    exit_ = engine.wait(["b"], 20)["b"].exit
    assert exit_ is not None
    assert exit_.kind is ExitKind.worker_lost
    assert "cannot start a process: Too many open files" in exit_.reason
    resource.prlimit(supervisor._process.pid, resource.RLIMIT_NOFILE, usual)
    engine.submit(Launch("c", python("print('ran')")))
    engine.wait(["c"], 20)
    assert engine.logs("c").data == b"ran\n"
    assert engine.status(["a"])["a"].phase is Phase.running
    engine.stop("a", 0)


def test_a_claim_that_a_crash_cut_short_uses_up_no_key(engine: LocalEngine, tmp_path: Path) -> None:
    half = tmp_path / "jobs" / f"{local_engine.NEW}1-1-of-somebody"
    half.mkdir(parents=True)
    engine.submit(Launch("a", python("print('ran')")))
    assert engine.wait(["a"], 20)["a"].exit is not None
    assert engine.logs("a").data == b"ran\n"
    assert engine.reap([]) == ()
    assert half.exists()  # perhaps somebody fills it right now
    os.utime(half, (0, 0))
    engine.reap([])
    assert not half.exists()


def test_one_key_submitted_by_many_at_once_starts_once(tmp_path: Path) -> None:
    engines = [LocalEngine(tmp_path, unit=UNIT) for _ in range(4)]
    threads = [
        threading.Thread(target=each.submit, args=(Launch("a", python("print('ran')")),)) for each in engines
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    eventually(lambda: engines[0].status(["a"])["a"].phase is Phase.ended)
    assert engines[0].logs("a").data == b"ran\n"
    assert [folder.name for folder in tmp_path.iterdir() if folder.name.startswith(local_engine.NEW)] == []
    for each in engines:
        each.close()


def test_a_job_killed_from_outside_is_lost_and_one_that_crashes_failed(engine: LocalEngine) -> None:
    engine.submit(Launch("killed", python("import os; os.kill(os.getpid(), 9)")))
    engine.submit(Launch("crashed", python("import os; os.kill(os.getpid(), 11)")))
    killed = engine.wait(["killed"], 20)["killed"].exit
    crashed = engine.wait(["crashed"], 20)["crashed"].exit
    assert killed is not None
    assert crashed is not None
    assert killed.kind is ExitKind.worker_lost
    assert (crashed.kind, crashed.reason) == (ExitKind.failed, "crashed with SIGSEGV")


def test_a_command_that_does_not_exist_fails_with_its_name(engine: LocalEngine) -> None:
    engine.submit(Launch("a", ("/no/such/command",)))
    engine.submit(Launch("b", python("pass"), cwd="/no/such/folder"))
    for key, name in (("a", "/no/such/command"), ("b", "/no/such/folder")):
        exit_ = engine.wait([key], 20)[key].exit
        assert exit_ is not None
        assert (exit_.kind, exit_.code) == (ExitKind.failed, 127)
        assert name in exit_.reason


def test_a_job_gets_a_small_clean_environment(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hush")
    script = "import json, os; print(json.dumps(dict(os.environ)))"
    engine.submit(Launch("a", python(script), env={"GIVEN": "yes"}, resources=Resources(cpu=Range(1, 2))))
    engine.wait(["a"], 20)
    seen = json.loads(engine.logs("a").data)
    assert seen["GIVEN"] == "yes"
    assert seen["OMP_NUM_THREADS"] == "2"
    assert "SECRET_TOKEN" not in seen


def test_use_is_measured_over_the_whole_tree(engine: LocalEngine) -> None:
    script = """
import os, time
if os.fork() == 0:
    end = time.process_time() + 0.3
    while time.process_time() < end: pass
    os._exit(0)
block = bytearray(64 << 20)
os.wait()
"""
    engine.submit(Launch("a", python(script)))
    engine.wait(["a"], 20)
    usage = engine.usage("a")
    assert usage.cpu_s is not None
    assert usage.memory_peak_bytes is not None
    assert usage.cpu_s >= 0.3
    assert 64 << 20 < usage.memory_peak_bytes < 256 << 20


def test_the_use_of_a_running_job_can_be_asked(engine: LocalEngine) -> None:
    engine.submit(Launch("a", python(ESCAPE, "600")))
    first_line(engine, "a")
    usage = engine.usage("a")
    assert usage.wall_s > 0
    assert usage.memory_peak_bytes
    assert not usage.memory_peak_is_exact
    engine.stop("a", 0)


def test_what_ended_is_known_to_a_later_engine(engine: LocalEngine, tmp_path: Path) -> None:
    engine.submit(Launch("a", python("print('kept'); raise SystemExit(4)")))
    engine.wait(["a"], 20)
    later = LocalEngine(tmp_path / "jobs", unit=UNIT)
    exit_ = later.status(["a"])["a"].exit
    assert exit_ is not None
    assert exit_.code == 4
    assert later.logs("a").data == b"kept\n"
    assert later.usage("a").cpu_s == engine.usage("a").cpu_s


def test_another_process_of_the_project_can_stop_a_job(engine: LocalEngine, tmp_path: Path) -> None:
    engine.submit(Launch("a", python(ESCAPE, "600")))
    escaped = int(first_line(engine, "a"))
    LocalEngine(tmp_path / "jobs", unit=UNIT).stop("a")
    exit_ = engine.wait(["a"], 20)["a"].exit
    assert exit_ is not None
    assert exit_.kind is ExitKind.cancelled
    assert is_gone(escaped)


def test_the_status_of_ten_thousand_jobs_asks_nobody(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [f"job/{index}" for index in range(10_000)]
    engine.submit(Launch(keys[0], python("pass")))
    engine.wait([keys[0]], 60)
    engine._jobs |= dict.fromkeys(keys[1:], replace(engine.status([keys[0]])[keys[0]], phase=Phase.running))
    monkeypatch.setattr(engine, "_status_on_disk", None)  # no file is looked at
    monkeypatch.setattr(engine, "_supervisor", None)  # and the supervisor is not asked
    found = engine.status(keys)
    assert len(found) == 10_000
    assert {found[key].phase for key in keys[1:]} == {Phase.running}


def test_old_journals_are_removed_and_kept_ones_stay(tmp_path: Path) -> None:
    engine = LocalEngine(tmp_path, unit=UNIT)
    for key in ("old", "kept"):
        engine.submit(Launch(key, python("pass")))
        engine.wait([key], 20)
    engine.close()
    for folder in tmp_path.iterdir():
        record = json.loads((folder / "launch.json").read_text())
        (folder / "launch.json").write_text(json.dumps({**record, "control_pid": 2**22 + 1}))
        os.utime(folder, (0, 0))
    later = LocalEngine(tmp_path, unit=UNIT)
    later.reap(["kept"])
    assert later.status(["old"])["old"].phase is Phase.unknown
    assert later.status(["kept"])["kept"].phase is Phase.ended


def test_a_command_is_needed(engine: LocalEngine) -> None:
    with pytest.raises(Refused, match="no command"):
        engine.submit(Launch("a", ()))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_on_a_full_disk_nothing_starts_and_the_key_stays_free(tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=64", "tmpfs", str(tmp_path)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        engine = LocalEngine(tmp_path / "jobs", unit=UNIT)
        engine.prepare()
        with open(tmp_path / "filler", "wb", buffering=0) as filler:
            for size in (4096, 1):
                try:
                    while True:
                        filler.write(b"x" * size)
                except OSError:
                    continue
        with pytest.raises(OutOfSpace, match="disk is full"):
            engine.submit(Launch("a", python("print('ran')")))
        (tmp_path / "filler").unlink()
        engine.submit(Launch("a", python("print('ran')")))
        engine.wait(["a"], 20)
        assert engine.logs("a").data == b"ran\n"
        engine.close()
    finally:
        subprocess.run(["umount", str(tmp_path)], check=False)
