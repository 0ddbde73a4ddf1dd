"""Runs jobs as processes of this machine.

A supervisor process (see `local_supervisor.py`) starts and ends them and tells us what happens, so the
status of any number of jobs is a look into memory. Each key owns a folder under the engine's folder, made
before its process is: who makes the folder starts the job, so a key submitted twice, also by another
process or after a restart, starts one. When the control process dies, its jobs are killed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

from fourfold.core.compute import Unit
from fourfold.core.decide.match import check_abilities, match, refusal
from fourfold.core.errors import OutOfSpace, Refused, Unavailable
from fourfold.core.ports.engine import (
    Capabilities,
    Exit,
    ExitKind,
    JobStatus,
    Launch,
    LogChunk,
    Offer,
    Phase,
    Resources,
    Usage,
)
from fourfold.core.times import Instant

MARK = "FOURFOLD_JOB"
"""Set in the environment of every job to its folder: how `reap` finds what nobody watches any more."""
PASSED_ON = (
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "VIRTUAL_ENV",
)
CLOUDS = ("AWS_", "AZURE_", "GOOGLE_", "ICEBERG_")
"""How the variables begin by which clients of object stores and catalogs find address and credentials: a job
reads the project's tables itself. They go to the job alone; no file keeps them."""
THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "RAYON_NUM_THREADS",
)
SUPERVISOR = Path(__file__).with_name("local_supervisor.py")
NEW = ".new-"
"""Begins the name of a job's folder while it is being filled."""
STALE_S = 3600.0
READY_WITHIN_S = 20.0


class LocalEngine:
    """The engine of `local://`: this machine, one process tree per job."""

    def __init__(
        self,
        folder: Path,
        *,
        unit: Unit,
        price_usd_per_hour: float = 0.0,
        cwd: Path | None = None,
        ended_kept_s: float = 7 * 86400.0,
    ) -> None:
        """`folder` keeps one journal per job (`.fourfold/jobs`); `unit` is this machine as found.

        `cwd` is where commands run that name no folder. Journals and logs of jobs that ended are removed by
        `reap` after `ended_kept_s`.
        """
        self._folder = folder.absolute()
        self._unit = unit
        self._price_usd_per_hour = price_usd_per_hour
        self._cwd = str((cwd or Path.cwd()).absolute())
        self._ended_kept_s = ended_kept_s
        self._jobs: dict[str, JobStatus] = {}
        self._usage: dict[str, Usage] = {}
        self._keepers: dict[str, int] = {}
        self._supervisors: dict[str, _Supervisor] = {}  # of jobs that have not ended
        self._changed = threading.Condition()
        self._sending = threading.Lock()
        self._supervisor: _Supervisor | None = None

    def __repr__(self) -> str:
        running = sum(job.phase is not Phase.ended for job in self._jobs.values())
        return f"<LocalEngine {self._unit.name}: {running} running>"

    def capabilities(self) -> Capabilities:
        return Capabilities(
            services=True, memory_limit="polled", time_limit=True, gpus=False, survives_control_restart=False
        )

    def offers(self, request: Resources) -> tuple[Offer, ...]:
        return match(request, self._all_offers())

    def prepare(self) -> None:
        """Start the supervisor now rather than with the first job."""
        with self._sending:
            self._alive_supervisor()

    def submit(self, launch: Launch) -> None:
        check_abilities(launch, self.capabilities(), engine=self._unit.name)
        if not self.offers(launch.resources):
            raise refusal(launch.resources, self._all_offers(), who=f"job '{launch.key}'")
        with self._sending:  # before the key is used up: without a supervisor nothing can start
            self._alive_supervisor()
        folder = self._job_folder(launch.key)
        if not self._claim(folder, launch):
            return
        resources = launch.resources
        message: dict[str, object] = {
            "op": "start",
            "key": launch.key,
            "folder": str(folder),
            "argv": launch.argv,
            "env": self._environment(launch, folder),
            "cwd": launch.cwd or self._cwd,
            "time_limit_s": resources.time_limit_s,
            "memory_limit_bytes": resources.memory_bytes.high,
        }
        with self._sending:
            supervisor = self._alive_supervisor()
            with self._changed:
                self._jobs[launch.key] = JobStatus(launch.key, Phase.starting, unit=self._unit.name)
                self._supervisors[launch.key] = supervisor
            try:
                supervisor.send(message)
            except Unavailable:
                self._supervisor_died(supervisor)  # the key is used: the job ends as lost, and says so

    def status(self, keys: Collection[str]) -> Mapping[str, JobStatus]:
        with self._changed:
            return {key: self._jobs.get(key) or self._status_on_disk(key) for key in keys}

    def wait(self, keys: Collection[str], timeout_s: float) -> Mapping[str, JobStatus]:
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                found = self.status(keys)
                left = deadline - time.monotonic()
                is_ours = any(key in self._jobs for key in keys)
                if left <= 0 or any(job.phase in (Phase.ended, Phase.unknown) for job in found.values()):
                    return found
                # Of a job of another process nobody tells us: look again from time to time.
                self._changed.wait(left if is_ours else min(left, 0.2))

    def logs(self, key: str, offset: int = 0, limit_bytes: int = 1 << 20) -> LogChunk:
        has_ended = self.status([key])[key].phase in (Phase.ended, Phase.unknown)  # asked before reading
        try:
            with (self._job_folder(key) / "log").open("rb") as file:
                file.seek(offset)
                data = file.read(limit_bytes)
                size = os.fstat(file.fileno()).st_size
        except FileNotFoundError:
            return LogChunk(b"", offset, has_ended)
        return LogChunk(data, offset + len(data), has_ended and offset + len(data) >= size)

    def stop(self, key: str, grace_s: float = 5.0) -> None:
        with self._changed:
            ours, supervisor = self._jobs.get(key), self._supervisors.get(key)
        if ours is not None:
            if supervisor is not None:
                with self._sending, contextlib.suppress(Unavailable):  # one that died has ended its jobs
                    supervisor.send({"op": "stop", "key": key, "grace_s": grace_s})
            return
        if self._status_on_disk(key).phase is Phase.running:  # another control process watches it
            folder = self._job_folder(key)
            (folder / "cancelled").touch()
            _end_marked({str(folder)})

    def usage(self, key: str) -> Usage:
        with self._changed:
            job, usage, keeper = self._jobs.get(key), self._usage.get(key), self._keepers.get(key)
        if usage is not None:
            return usage
        if job is not None and keeper is not None:
            return _usage_of_tree(keeper, job.started_at)
        record = _read_json(self._job_folder(key) / "end.json")
        return Usage() if record is None else _usage(record)

    def reap(self, keep: Collection[str]) -> tuple[str, ...]:
        with self._changed:
            ours = [
                key for key, job in self._jobs.items() if job.phase is not Phase.ended and key not in keep
            ]
        for key in ours:
            self.stop(key, 0)
        ended = set(ours)
        strays: dict[str, str] = {}  # folder -> key
        for folder in self._folders():
            if folder.name.startswith(NEW):
                if _age_s(folder) > STALE_S:
                    shutil.rmtree(folder, ignore_errors=True)
                continue
            launch = _read_json(folder / "launch.json")
            if launch is None or str(launch["key"]) in self._jobs or _is_alive(launch):
                continue
            key = str(launch["key"])
            strays[str(folder)] = key
            if not (folder / "end.json").exists() and key not in keep:
                _write_json(folder / "end.json", _lost(key, "its control process ended"))
                ended.add(key)
            elif _age_s(folder) > self._ended_kept_s and key not in keep:
                shutil.rmtree(folder, ignore_errors=True)
        ended |= {strays[folder] for folder in _end_marked(strays)}
        if ours:
            self._wait_all(ours)
        return tuple(sorted(ended))

    def close(self) -> None:
        with self._sending:
            supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            supervisor.close(grace_s=1.0)

    # What the supervisor tells.

    def _heard(self, message: dict[str, object]) -> None:
        key = str(message["key"])
        with self._changed:
            known = self._jobs.get(key)
            if known is None or known.phase is Phase.ended:
                return
            if message["event"] == "started":
                at = Instant(int(str(message["at_us"])))
                pid = int(str(message["pid"]))
                self._jobs[key] = JobStatus(key, Phase.running, self._unit.name, at, None, None, pid)
                self._keepers[key] = int(str(message["keeper"]))
            else:
                if "usage" not in message:  # its keeper died, or never was, and wrote no end
                    exit_ = message["exit"]
                    assert isinstance(exit_, dict)
                    message = {**_lost(key, str(exit_["reason"])), "started_at": known.started_at}
                    with contextlib.suppress(OSError):
                        _write_json(self._job_folder(key) / "end.json", message)
                self._settle(key, message)
            self._changed.notify_all()

    def _supervisor_died(self, supervisor: _Supervisor) -> None:
        with self._changed:
            for key in [key for key, each in self._supervisors.items() if each is supervisor]:
                record = _read_json(self._job_folder(key) / "end.json")
                self._settle(key, record or _lost(key, "its supervisor died"))
            self._changed.notify_all()

    def _settle(self, key: str, record: Mapping[str, object]) -> None:
        self._usage[key] = _usage(record)
        self._keepers.pop(key, None)
        self._supervisors.pop(key, None)
        self._jobs[key] = _ended(record, self._unit.name)

    # Helpers of the above.

    def _all_offers(self) -> tuple[Offer, ...]:
        unit = self._unit
        gpu_name = unit.gpus[0].name if unit.gpus else ""
        price = self._price_usd_per_hour
        return (Offer(unit.name, unit.cores, unit.memory_bytes, len(unit.gpus), gpu_name, price),)

    def _claim(self, folder: Path, launch: Launch) -> bool:
        """Make the job's folder; whether it is we who made it.

        It is filled beside its place and then moved there: a crash in between uses up no key.
        """
        pid = os.getpid()
        record = {
            "format": 1,
            "key": launch.key,
            "argv": launch.argv,
            "control_pid": pid,
            "control_started": _started_ticks(pid),
        }
        new = self._folder / f"{NEW}{pid}-{threading.get_ident()}-{folder.name}"
        try:
            if folder.exists():
                return False
            new.mkdir(parents=True)
            (new / "launch.json").write_text(json.dumps(record))
            new.rename(folder)
        except OSError as error:
            shutil.rmtree(new, ignore_errors=True)
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY) and folder.exists():
                return False
            raise _disk_error(error, f"job '{launch.key}' was not started") from error
        return True

    def _environment(self, launch: Launch, folder: Path) -> dict[str, str]:
        cpu = launch.resources.cpu
        threads = str(max(1, int(min(cpu.high or cpu.low, self._unit.cores))))
        return {
            **{
                name: value
                for name, value in os.environ.items()
                if name in PASSED_ON or name.startswith(CLOUDS)
            },
            **dict.fromkeys(THREADS, threads),  # else each job would start a thread for every core
            **launch.env,
            MARK: str(folder),
        }

    def _alive_supervisor(self) -> _Supervisor:
        if self._supervisor is None or self._supervisor.is_dead:
            self._supervisor = _Supervisor(self._heard, self._supervisor_died)
        return self._supervisor

    def _status_on_disk(self, key: str) -> JobStatus:
        """What is known of a key that this object did not submit."""
        folder = self._job_folder(key)
        if (record := _read_json(folder / "end.json")) is not None:
            return _ended(record, self._unit.name)
        launch = _read_json(folder / "launch.json")
        if launch is None:
            return JobStatus(key, Phase.unknown)
        if _is_alive(launch):
            return JobStatus(key, Phase.running, self._unit.name)
        return _ended(_lost(key, "its control process ended"), self._unit.name)

    def _wait_all(self, keys: Collection[str]) -> None:
        with self._changed:
            self._changed.wait_for(
                lambda: all(self._jobs[key].phase is Phase.ended for key in keys), READY_WITHIN_S
            )

    def _job_folder(self, key: str) -> Path:
        return self._folder / hashlib.sha256(key.encode()).hexdigest()[:32]

    def _folders(self) -> Iterator[Path]:
        with contextlib.suppress(FileNotFoundError):
            yield from sorted(self._folder.iterdir())


class _Supervisor:
    """Our end of the supervisor process: starts it, sends to it, and hears it in a thread."""

    def __init__(
        self, heard: Callable[[dict[str, object]], None], died: Callable[[_Supervisor], None]
    ) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-I", "-S", str(SUPERVISOR), str(theirs.fileno()), str(os.getpid())]
            self._process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                cwd="/",
                env={"PATH": os.defpath},
                start_new_session=True,
            )
        self._socket = ours
        self._died = died
        self._heard = heard
        self.is_dead = False
        self._lines = ours.makefile("rb")
        if not self._lines.readline():
            raise Unavailable("the supervisor of local jobs did not start", ways_on=["run: fourfold doctor"])
        threading.Thread(target=self._listen, name="local-engine", daemon=True).start()

    def send(self, message: dict[str, object]) -> None:
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            self.is_dead = True
            raise Unavailable("the supervisor of local jobs has died", ways_on=["try again"]) from error

    def close(self, *, grace_s: float) -> None:
        with contextlib.suppress(Unavailable):
            self.send({"op": "close", "grace_s": grace_s})
        try:
            self._process.wait(grace_s + READY_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()  # the keepers see it and kill their jobs
            self._process.wait()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _listen(self) -> None:
        with self._lines, self._socket:
            for line in self._lines:
                self._heard(json.loads(line))
        self.is_dead = True
        self._process.wait()
        self._died(self)


def _end_marked(folders: Collection[str]) -> set[str]:
    """Kill every process whose environment names one of these job folders; the folders that had any."""
    ended: set[str] = set()
    if not folders:
        return ended
    for _ in range(100):  # until a walk finds none: a process may fork while we walk
        found = [(pid, folder) for pid, folder in _marked() if folder in folders and pid != os.getpid()]
        if not found:
            break
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid, _ in found:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
        ended.update(folder for _, folder in found)
    return ended


def _marked() -> Iterator[tuple[int, str]]:
    prefix = MARK.encode() + b"="
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            for setting in _environment_of(int(entry)).split(b"\0"):
                if setting.startswith(prefix):
                    yield int(entry), os.fsdecode(setting[len(prefix) :])


def _environment_of(pid: int) -> bytes:
    """The environment that a process was started with; nothing for one that is not ours to read.

    While a process is in the middle of `exec` the kernel shows an empty one: it is read again then, for
    at most a second, since a mark that is missed is a process that nobody ends.
    """
    for _ in range(1000):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                environment = file.read()
            if environment or not _is_being_started(pid):
                return environment
        except OSError:
            return b""
        time.sleep(0.001)
    return b""


def _is_being_started(pid: int) -> bool:
    """Whether a process whose environment reads as empty has one, or none yet (proc(5), `stat`)."""
    with open(f"/proc/{pid}/stat") as file:
        state, *words = file.read().rpartition(")")[2].split()
    start, end = int(words[46]), int(words[47])
    return state not in "ZX" and (end == 0 or end > start)


def _age_s(folder: Path) -> float:
    try:
        return time.time() - folder.stat().st_mtime
    except OSError:  # somebody else has removed it
        return 0.0


def _is_alive(launch: Mapping[str, object]) -> bool:
    """Whether the control process of a launch is still that process (numbers are used again)."""
    return _started_ticks(int(str(launch["control_pid"]))) == launch["control_started"]


def _started_ticks(pid: int) -> int:
    """When a process started, in clock ticks since boot; -1 if there is none, or only its remains."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return -1
    fields = stat.rpartition(")")[2].split()
    return -1 if fields[0] in "ZX" else int(fields[19])


def _usage_of_tree(keeper: int, started_at: Instant | None) -> Usage:
    """The use so far of a running job: all below its keeper, and what they and it have waited for."""
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    cpu_s, memory = 0.0, 0
    pids = [keeper]
    for pid in pids:
        with contextlib.suppress(OSError, IndexError):
            for task in os.listdir(f"/proc/{pid}/task"):
                pids += [int(w) for w in Path(f"/proc/{pid}/task/{task}/children").read_text().split()]
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            cpu_s += sum(int(field) for field in fields[11:15]) * tick_s
            memory += int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
    wall_s = 0.0 if started_at is None else time.time() - started_at / 1e6
    return Usage(wall_s, cpu_s, memory, memory_peak_is_exact=False)


def _ended(record: Mapping[str, object], unit: str) -> JobStatus:
    exit_ = record["exit"]
    started, ended = record.get("started_at"), record.get("ended_at")
    assert isinstance(exit_, dict)
    return JobStatus(
        str(record["key"]),
        Phase.ended,
        unit,
        None if started is None else Instant(int(str(started))),
        None if ended is None else Instant(int(str(ended))),
        Exit(ExitKind(exit_["kind"]), exit_["reason"], exit_["code"]),
    )


def _usage(record: Mapping[str, object]) -> Usage:
    usage = record.get("usage") or {}
    assert isinstance(usage, dict)
    return Usage(**usage)


def _lost(key: str, reason: str) -> dict[str, object]:
    exit_ = {"kind": "worker_lost", "reason": reason, "code": None}
    return {"format": 1, "key": key, "started_at": None, "ended_at": None, "exit": exit_}


def _read_json(path: Path) -> dict[str, object] | None:
    try:
        record = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None
    return record if isinstance(record, dict) else None


def _write_json(path: Path, record: Mapping[str, object]) -> None:
    new = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}.new")
    new.write_text(json.dumps(record))
    new.replace(path)


def _disk_error(error: OSError, what: str) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutOfSpace(f"{what}: the disk is full", ways_on=["free some space, then try again"])
    return Refused(f"{what}: {error.strerror}: {error.filename}")
