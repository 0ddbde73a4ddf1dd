"""Runs jobs as processes of this machine.

A supervisor process (see `supervisor.py`) starts and ends them and tells us what happens, so the
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
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from fourfold.adapters.local_engine import groups, output
from fourfold.adapters.local_engine.journal import (
    age_s,
    disk_error,
    ended_status,
    is_alive,
    lost,
    read_json,
    usage_of,
    usage_so_far,
    write_json,
)
from fourfold.adapters.local_engine.link import READY_WITHIN_S, Link
from fourfold.adapters.local_engine.processes import started_ticks
from fourfold.adapters.local_engine.strays import MARK, end_marked
from fourfold.core.compute import Unit
from fourfold.core.decide.match import check_abilities, match, refusal
from fourfold.core.decide.unit import offer_of
from fourfold.core.errors import Unavailable
from fourfold.core.ports.engine import (
    Capabilities,
    JobStatus,
    Launch,
    LogChunk,
    Offer,
    Phase,
    Resources,
    Usage,
)
from fourfold.core.quantities import Range
from fourfold.core.times import Instant

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
NEW = ".new-"
"""Begins the name of a job's folder while it is being filled."""
STALE_S = 3600.0
LOG_BYTES = 64 << 20
"""A job's output is kept up to here: the first quarter and the rest from the end."""


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
        log_bytes: int = LOG_BYTES,
        may_group: bool = True,
    ) -> None:
        """`folder` keeps one journal per job (`.fourfold/jobs`); `unit` is this machine as found.

        `cwd` is where commands run that name no folder. Journals and logs of jobs that ended are removed by
        `reap` after `ended_kept_s`. Of a job's output at most about `log_bytes` stay. `may_group` lets the
        kernel hold memory by control groups where this process can make them; else it is polled.
        """
        self._folder = folder.absolute()
        self._unit = unit
        self._price_usd_per_hour = price_usd_per_hour
        self._cwd = str((cwd or Path.cwd()).absolute())
        self._ended_kept_s = ended_kept_s
        self._log_bytes = log_bytes
        self._groups = groups.find_place() if may_group else None
        self._jobs: dict[str, JobStatus] = {}
        self._usage: dict[str, Usage] = {}
        self._keepers: dict[str, int] = {}
        self._supervisors: dict[str, Link] = {}  # of jobs that have not ended
        self._changed = threading.Condition()
        self._sending = threading.Lock()
        self._supervisor: Link | None = None

    def __repr__(self) -> str:
        running = sum(job.phase is not Phase.ended for job in self._jobs.values())
        return f"<LocalEngine {self._unit.name}: {running} running>"

    def capabilities(self) -> Capabilities:
        return Capabilities(
            services=True,
            memory_limit="polled" if self._groups is None else "enforced",
            time_limit=True,
            gpus=False,
            survives_control_restart=False,
            listens=True,
            nodes=True,
            nodes_share_units=True,
        )

    def offers(self, request: Resources) -> tuple[Offer, ...]:
        return match(request, self._all_offers())

    def prepare(self) -> None:
        """Start the supervisor now rather than with the first job."""
        with self._sending:
            self._alive_supervisor()

    def submit(self, launch: Launch) -> None:
        check_abilities(launch, self.capabilities(), engine=self._unit.name)
        asked = _of_all_nodes(launch)
        if not self.offers(asked):
            who = f"job '{launch.key}'" + (f" of {launch.nodes} nodes" if launch.nodes > 1 else "")
            raise refusal(asked, self._all_offers(), who=who)
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
            "nodes": launch.nodes,
            "listens": launch.listens,
            "log_bytes": self._log_bytes,
            "groups": self._groups,
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
            data, next_offset, size = output.read(str(self._job_folder(key)), offset, limit_bytes)
        except FileNotFoundError:
            return LogChunk(b"", offset, has_ended)
        return LogChunk(data, next_offset, has_ended and next_offset >= size)

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
            end_marked({str(folder)}, self._groups)

    def usage(self, key: str) -> Usage:
        with self._changed:
            job, usage, keeper = self._jobs.get(key), self._usage.get(key), self._keepers.get(key)
        if usage is not None:
            return usage
        folder = self._job_folder(key)
        if job is not None and keeper is not None:
            return usage_so_far(folder, keeper, job.started_at)
        if (record := read_json(folder / "end.json")) is not None:
            return usage_of(record)
        started = read_json(folder / "started.json")
        if started is None or self._status_on_disk(key).phase is not Phase.running:
            return Usage()
        return usage_so_far(folder, int(str(started["keeper"])), Instant(int(str(started["at_us"]))))

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
                if age_s(folder) > STALE_S:
                    shutil.rmtree(folder, ignore_errors=True)
                continue
            launch = read_json(folder / "launch.json")
            if launch is None or str(launch["key"]) in self._jobs or is_alive(launch):
                continue
            key = str(launch["key"])
            strays[str(folder)] = key
            if not (folder / "end.json").exists() and key not in keep:
                write_json(folder / "end.json", lost(key, "its control process ended"))
                ended.add(key)
            elif age_s(folder) > self._ended_kept_s and key not in keep:
                shutil.rmtree(folder, ignore_errors=True)
        ended |= {strays[folder] for folder in end_marked(strays, self._groups)}
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
                address = str(message["address"])
                self._jobs[key] = JobStatus(key, Phase.running, self._unit.name, at, None, None, pid, address)
                self._keepers[key] = int(str(message["keeper"]))
            else:
                if "usage" not in message:  # its keeper died, or never was, and wrote no end
                    exit_ = message["exit"]
                    assert isinstance(exit_, dict)
                    message = {**lost(key, str(exit_["reason"])), "started_at": known.started_at}
                    with contextlib.suppress(OSError):
                        write_json(self._job_folder(key) / "end.json", message)
                self._settle(key, message)
            self._changed.notify_all()

    def _supervisor_died(self, supervisor: Link) -> None:
        with self._changed:
            for key in [key for key, each in self._supervisors.items() if each is supervisor]:
                record = read_json(self._job_folder(key) / "end.json")
                self._settle(key, record or lost(key, "its supervisor died"))
            self._changed.notify_all()

    def _settle(self, key: str, record: Mapping[str, object]) -> None:
        self._usage[key] = usage_of(record)
        self._keepers.pop(key, None)
        self._supervisors.pop(key, None)
        self._jobs[key] = ended_status(record, self._unit.name)

    # Helpers of the above.

    def _all_offers(self) -> tuple[Offer, ...]:
        room_bytes = 0
        with contextlib.suppress(OSError):
            room_bytes = (
                shutil.disk_usage(self._cwd).free >> 30 << 30
            )  # whole GiB: a change is news to a pool
        price = self._price_usd_per_hour
        return (offer_of(self._unit, price_usd_per_hour=price, disk_bytes=room_bytes),)

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
            "control_started": started_ticks(pid),
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
            raise disk_error(error, f"job '{launch.key}' was not started") from error
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

    def _alive_supervisor(self) -> Link:
        if self._supervisor is None or self._supervisor.is_dead:
            self._supervisor = Link(self._heard, self._supervisor_died)
        return self._supervisor

    def _status_on_disk(self, key: str) -> JobStatus:
        """What is known of a key that this object did not submit."""
        folder = self._job_folder(key)
        if (record := read_json(folder / "end.json")) is not None:
            return ended_status(record, self._unit.name)
        launch = read_json(folder / "launch.json")
        if launch is None:
            return JobStatus(key, Phase.unknown)
        if is_alive(launch):
            started = read_json(folder / "started.json")
            if started is None:
                return JobStatus(key, Phase.starting, self._unit.name)
            at, pid = Instant(int(str(started["at_us"]))), int(str(started["pid"]))
            return JobStatus(
                key, Phase.running, self._unit.name, at, None, None, pid, str(started["address"])
            )
        return ended_status(lost(key, "its control process ended"), self._unit.name)

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


def _of_all_nodes(launch: Launch) -> Resources:
    """What a launch asks of this machine, which is the node of all its nodes."""
    asked, nodes = launch.resources, launch.nodes
    if nodes == 1:
        return asked
    memory = Range(asked.memory_bytes.low * nodes)
    return replace(
        asked, cpu=Range(asked.cpu.low * nodes), memory_bytes=memory, gpu=Range(asked.gpu.low * nodes)
    )
