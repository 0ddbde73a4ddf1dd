"""The engine of `slurm://`: a key is a folder of files and a Slurm job that bears its name.

The keeper (`keeper.py`) on the job's node settles in files what started and how it ended; Slurm is asked for
what files cannot tell: what waits, and what became of a job whose node died. So the end of a job is seen in
milliseconds, a controller that is away loses nothing, and any number of jobs is one question.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from fourfold.adapters.slurm.cluster import WAITING, Cluster, SlurmJob
from fourfold.adapters.slurm.ends import exit_for
from fourfold.adapters.slurm.files import (
    NEW,
    STALE_S,
    Controls,
    JobFiles,
    claim,
    exit_of,
    folder_name,
    instant_of,
    usage_of,
)
from fourfold.adapters.slurm.room import Room
from fourfold.core.decide.match import check_abilities
from fourfold.core.errors import FourfoldError, OutOfSpace, Refused, Remedy, Unavailable
from fourfold.core.ports.engine import (
    Capabilities,
    ExitKind,
    JobStatus,
    Launch,
    LogChunk,
    Offer,
    Phase,
    Resources,
    Usage,
)
from fourfold.core.times import SECOND_US, Instant

PASSED_ON = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH",
             "VIRTUAL_ENV")  # fmt: skip
CLOUDS = ("AWS_", "AZURE_", "GOOGLE_", "ICEBERG_")
"""How the variables begin by which clients of object stores and catalogs find address and credentials: a job
reads the project's tables itself. They lie in a file of ours alone until the job has read it."""
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS",
           "RAYON_NUM_THREADS")  # fmt: skip
KEEPER = Path(__file__).with_name("keeper.py")
FIRST_LOOK_S, LONGEST_LOOK_S = 0.005, 0.25
"""While we wait, files are looked at so often at first, and in the end; for a tenth of a core at most."""
QUEUE_LOOK_S, QUEUE_LONGEST_S = 2.0, 15.0
"""And the queue, for what files cannot tell."""
FILES_LATE_S = 10.0
"""How long after a job's end its files may take to be seen from here."""
UNHEARD_S = 60.0
"""A job that Slurm took lately and does not know is not yet given up."""
FORCE_AFTER_S = 5.0
REAP_WITHIN_S = 20.0
DAY_US = 86_400 * SECOND_US


class SlurmEngine:
    """Fulfils `Engine` on a Slurm cluster whose nodes share `folder` with this machine."""

    def __init__(
        self,
        folder: Path,
        *,
        cluster: Cluster,
        python: str = "",
        partition: str = "",
        price_usd_per_hour: float = 0.0,
        cwd: Path | None = None,
        ended_kept_s: float = 7 * 86400.0,
        most_output_bytes: int = 256 << 20,
    ) -> None:
        """`folder` keeps a folder per job; `python` watches jobs on the nodes (empty: the path of ours).

        `cwd` is where commands run that name no folder. What is left of jobs that ended is removed by `reap`
        after `ended_kept_s`. A job that prints more than `most_output_bytes` is ended.
        """
        self._folder = folder.absolute()
        if any(ord(sign) < 32 for sign in str(self._folder)):
            raise Refused(f"the folder of the jobs holds a line break: {str(self._folder)!r}")
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._cluster = cluster
        self._python = python or sys.executable
        self._room = Room(cluster, partition, price_usd_per_hour)
        self._cwd = str((cwd or Path.cwd()).absolute())
        self._ended_kept_s = ended_kept_s
        self._most_output_bytes = most_output_bytes
        self._controls = Controls(self._folder)
        self._label = self._made_label()
        self._ended: dict[str, JobStatus] = {}
        self._force_at: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<SlurmEngine {self._label} in {self._folder}: {len(self._ended)} known to have ended>"

    def capabilities(self) -> Capabilities:
        """What the cluster can do; where it does not answer now, what is sure."""
        memory: Literal["enforced", "polled"] = "polled"
        has_gpus = True
        with contextlib.suppress(Unavailable):
            memory = "enforced" if self._room.traits().enforces_memory else "polled"
            has_gpus = any(node.gpus for node in self._room.nodes())
        return Capabilities(
            services=True,
            memory_limit=memory,
            time_limit=True,
            gpus=has_gpus,
            survives_control_restart=True,
            listens=True,
            nodes=True,
            images=False,
            shares_files=True,
        )

    def offers(self, request: Resources) -> tuple[Offer, ...]:
        return self._room.offers(request)

    def submit(self, launch: Launch) -> None:
        check_abilities(launch, self.capabilities(), engine="slurm")
        _check_words(launch)
        files = self._files(launch.key)
        if files.exists("job.json"):
            return
        place = self._room.place(launch)
        claim(files.path, self._record(launch, place.cpus), self._environment(launch, place.cpus))
        with files.alone():
            if files.exists("job.json") or files.exists("start.json"):
                return
            name = self._name(launch.key)
            if files.exists("asked") and (found := self._found(name)):
                # The answer to an earlier submission was lost; the job was not.
                files.write("job.json", {"job_id": found, "at": _now()})
                return
            try:
                files.write("asked", {})
            except OutOfSpace:
                files.remove()  # nothing was asked of Slurm: the key is not used up
                raise
            order = self._room.order(
                launch,
                place,
                name=name,
                comment=f"fourfold {self._label} {_plain(launch.key)}",
                script=self._script(files),
                output=str(files.path / "slurm.log"),
            )
            try:
                job_id = self._cluster.submit(order)
            except FourfoldError as error:
                if error.remedy is not Remedy.transient:
                    files.remove()  # Slurm said no: the key is not used up
                    raise
                raise type(error)(
                    error.message,
                    ways_on=[*error.ways_on, "submit the same key again: if it was taken, it will be found"],
                ) from error
            with contextlib.suppress(OutOfSpace):  # then it is found by its name
                files.write("job.json", {"job_id": job_id, "at": _now()})

    def status(self, keys: Collection[str]) -> Mapping[str, JobStatus]:
        found = self._by_files(keys)
        return found | self._by_slurm([key for key in dict.fromkeys(keys) if key not in found])

    def wait(self, keys: Collection[str], timeout_s: float) -> Mapping[str, JobStatus]:
        deadline = time.monotonic() + timeout_s
        look_s, queue_s = FIRST_LOOK_S, QUEUE_LOOK_S
        queue_at = time.monotonic() + queue_s
        while True:
            began = time.monotonic()
            if self._by_files(keys) or began >= deadline:
                return self.status(keys)
            if began >= queue_at:
                with contextlib.suppress(Unavailable):  # files go on telling; at the end we say so
                    found = self.status(keys)
                    if any(status.phase in (Phase.ended, Phase.unknown) for status in found.values()):
                        return found
                queue_s = min(queue_s * 1.5, QUEUE_LONGEST_S)
                queue_at = time.monotonic() + queue_s
            cost_s = time.monotonic() - began
            time.sleep(max(0.0, min(max(look_s, 10 * cost_s), deadline - time.monotonic())))
            look_s = min(look_s * 1.3, LONGEST_LOOK_S)

    def logs(self, key: str, offset: int = 0, limit_bytes: int = 1 << 20) -> LogChunk:
        files = self._files(key)
        has_ended = not files.exists() or files.exists("end.json")  # asked before reading
        # Where the command never started, what Slurm itself has to say is all there is.
        name = "log" if files.exists("log") or not has_ended else "slurm.log"
        try:
            with (files.path / name).open("rb") as file:
                file.seek(offset)
                data = file.read(limit_bytes)
                size = os.fstat(file.fileno()).st_size
        except FileNotFoundError:
            return LogChunk(b"", offset, has_ended)
        return LogChunk(data, offset + len(data), has_ended and offset + len(data) >= size)

    def stop(self, key: str, grace_s: float = 5.0) -> None:
        files = self._files(key)
        if not files.exists() or files.exists("end.json"):
            return
        known = files.read("stop.json")
        grace_s = grace_s if known is None else min(grace_s, float(known["grace_s"]))
        try:
            files.write("stop.json", {"grace_s": grace_s})  # from here on it cannot start, and ends if it had
        except OutOfSpace:  # the keeper cannot be told: Slurm is
            name = self._name(key)
            live = [job.job_id for job in self._cluster.queue(()) if job.name == name and job.is_active]
            self._cluster.cancel(live)
            return
        force_at = time.monotonic() + grace_s + FORCE_AFTER_S
        self._force_at[key] = min(force_at, self._force_at.get(key, force_at))
        if not files.exists("start.json"):
            with contextlib.suppress(Unavailable):  # then it stays in the queue until it may start, and ends
                self._cancel(key, files)

    def usage(self, key: str) -> Usage:
        files = self._files(key)
        record = files.read("end.json")
        if record is None:
            return usage_of(files.read("use.json")) or Usage()
        usage = usage_of(record)
        if usage is None and files.exists("start.json"):
            with contextlib.suppress(Unavailable):  # its keeper died: Slurm's accounts are the next best
                told = self._cluster.history([self._name(key)], since=Instant(_now() - 30 * DAY_US))
                usage = next((job.usage for job in told if job.usage is not None), None)
        return usage or Usage()

    def reap(self, keep: Collection[str]) -> tuple[str, ...]:
        kept = set(keep)
        strays = []
        for files in self._all_files():
            launch = files.read("launch.json")
            if launch is None or launch["key"] in kept or self._controls.is_alive(str(launch["control"])):
                continue
            if not files.exists("end.json"):
                strays.append(str(launch["key"]))
            elif files.age_s() > self._ended_kept_s:
                files.remove()
        for key in strays:
            self.stop(key, 0)
        strays += self._reap_queue()
        self._wait_all([key for key in strays if self._files(key).exists()])
        return tuple(sorted(strays))

    def close(self) -> None:
        """Its jobs go on."""
        self._controls.close()
        self._cluster.close()

    # What became of a key.

    def _by_files(self, keys: Collection[str]) -> dict[str, JobStatus]:
        """What files settle; of the others Slurm has to be asked."""
        found = {key: self._ended.get(key) or self._settled(key) for key in keys}
        return {key: status for key, status in found.items() if status is not None}

    def _settled(self, key: str) -> JobStatus | None:
        files = self._files(key)
        record = files.read("verdict.json") or files.read("end.json")
        if record is None:
            return None if files.exists() else JobStatus(key, Phase.unknown)
        exit_ = exit_of(record)
        if exit_.kind is ExitKind.worker_lost and not files.exists("verdict.json"):
            return None  # Slurm ended it, and knows why
        status = _ended(key, record, files.read("start.json") or {})
        self._ended[key] = status
        self._force_at.pop(key, None)
        return status

    def _by_slurm(self, keys: Collection[str]) -> dict[str, JobStatus]:
        if not keys:
            return {}
        queue = self._look([self._files(key) for key in keys])
        found: dict[str, JobStatus] = {}
        lost: dict[str, list[SlurmJob]] = {}
        for key in keys:
            jobs = queue.get(self._name(key), [])
            status = self._running(key, jobs)
            if status is None:
                lost[key] = jobs
            else:
                found[key] = status
        if unheard := [key for key, jobs in lost.items() if not jobs]:
            # Not in the queue: over for longer than the controller remembers, or never taken.
            told = self._cluster.history(
                [self._name(key) for key in unheard], since=Instant(_now() - 30 * DAY_US)
            )
            for key in unheard:
                lost[key] = [job for job in told if job.name == self._name(key)]
        for key, jobs in lost.items():
            found[key] = self._over(key, jobs)
        return found

    def _running(self, key: str, jobs: list[SlurmJob]) -> JobStatus | None:
        """The state of a job that is not over by the queue; none if it is."""
        files = self._files(key)
        start = files.read("start.json")
        live = [job for job in jobs if job.is_active]
        if start is not None:  # only the job that started counts; others of its name will do nothing
            live = [job for job in live if job.job_id == start["job_id"]]
        if not live:
            return None
        self._force(key, [job.job_id for job in live])
        job = live[0]
        if start is None or job.state in WAITING:
            return JobStatus(key, Phase.starting)
        address = (files.read("address.json") or {}).get("address", "")
        return JobStatus(
            key, Phase.running, str(start["node"]), instant_of(start["at"]), pid=start["pid"], address=address
        )

    def _over(self, key: str, jobs: list[SlurmJob]) -> JobStatus:
        """What to say of a job that Slurm is done with, or does not know."""
        files = self._files(key)
        if (status := self._settled(key)) is not None:
            return status
        start, job_file = files.read("start.json"), files.read("job.json")
        ended = [job for job in jobs if not job.is_active]
        if start is not None:
            ended = [job for job in ended if job.job_id == start["job_id"]]
        job = max(ended, key=lambda each: each.job_id, default=None)
        if job is None and start is None and job_file is None and not files.exists("stop.json"):
            return JobStatus(key, Phase.unknown)  # Slurm never took it
        since_us = _now() - int((job.ended_at if job else None) or (job_file or {}).get("at") or 0)
        patience_s = (FILES_LATE_S if job.state in ("COMPLETED", "FAILED") else 0) if job else UNHEARD_S
        if since_us < patience_s * SECOND_US and not files.exists("end.json"):
            return JobStatus(key, Phase.starting if start is None else Phase.running)
        told = files.read("end.json")
        exit_ = exit_for(
            job,
            was_started=start is not None,
            was_stopped=files.exists("stop.json"),
            told=exit_of(told) if told else None,
        )
        record = told or {
            "format": 1,
            "key": key,
            "node": (start or {}).get("node") or (job.node if job else ""),
            "started_at": (start or {}).get("at"),
            "ended_at": (job.ended_at if job else None) or _now(),
            "usage": None,
        }
        record["exit"] = {"kind": exit_.kind, "reason": exit_.reason, "code": exit_.code}
        try:
            files.write_once("end.json", record)  # a keeper that was only out of reach will find it, and end
            files.write_once("verdict.json", record)
        except OutOfSpace:  # told all the same, and asked again
            return _ended(key, record, start or {})
        status = self._settled(key)
        assert status is not None
        return status

    # Talking with Slurm.

    def _look(self, files: Collection[JobFiles]) -> dict[str, list[SlurmJob]]:
        """The queue by name: one question for all."""
        records = [each.read("start.json") or each.read("job.json") for each in files]
        ids = [int(record["job_id"]) for record in records if record is not None]
        queue: dict[str, list[SlurmJob]] = {}
        for job in self._cluster.queue(ids if len(ids) == len(records) else ()):
            queue.setdefault(job.name, []).append(job)
        return queue

    def _found(self, name: str) -> int | None:
        """The number of a job by its name, in the queue or in the accounts."""
        jobs = [job for job in self._cluster.queue(()) if job.name == name]
        jobs = jobs or self._cluster.history([name], since=Instant(_now() - 30 * DAY_US))
        return min((job.job_id for job in jobs), default=None)

    def _cancel(self, key: str, files: JobFiles) -> None:
        """Take a job that has not started out of the queue."""
        name = self._name(key)
        jobs = [job.job_id for job in self._cluster.queue(()) if job.name == name and job.is_active]
        if jobs and not files.exists("start.json"):
            self._cluster.cancel(jobs)

    def _force(self, key: str, job_ids: list[int]) -> None:
        """End by Slurm what has not heeded the wish to stop: its keeper hangs, or hears nothing."""
        due = self._force_at.get(key)
        if due is not None and time.monotonic() > due:
            self._force_at[key] = time.monotonic() + FORCE_AFTER_S
            self._cluster.cancel(job_ids)

    def _reap_queue(self) -> list[str]:
        """End jobs of ours in the queue whose folder is gone; their names are told, the keys are lost."""
        prefix = f"ff-{self._label}-"
        jobs = [job for job in self._cluster.queue(()) if job.is_active and job.name.startswith(prefix)]
        strays = [job for job in jobs if not (self._folder / job.name.removeprefix(prefix)).exists()]
        self._cluster.cancel([job.job_id for job in strays])
        return sorted({job.name for job in strays})

    def _wait_all(self, keys: list[str]) -> None:
        deadline = time.monotonic() + REAP_WITHIN_S
        while keys and time.monotonic() < deadline:
            keys = [key for key in keys if self._settled(key) is None]
            if keys:
                self.wait(keys, min(1.0, deadline - time.monotonic()))
                found = self.status(keys)
                keys = [key for key in keys if found[key].phase is not Phase.ended]

    # What goes along.

    def _files(self, key: str) -> JobFiles:
        return JobFiles(self._folder / folder_name(key))

    def _all_files(self) -> Iterator[JobFiles]:
        for path in sorted(self._folder.iterdir()):
            if path.name.startswith(NEW):
                if JobFiles(path).age_s() > STALE_S:
                    JobFiles(path).remove()
            elif len(path.name) == 32:
                yield JobFiles(path)

    def _name(self, key: str) -> str:
        return f"ff-{self._label}-{folder_name(key)}"

    def _made_label(self) -> str:
        """What tells our jobs from those of other projects: made once, and kept in the folder."""
        path = self._folder / "label"
        with contextlib.suppress(FileExistsError), path.open("x") as file:
            file.write(hashlib.sha256(os.urandom(32)).hexdigest()[:12])
        return path.read_text()

    def _script(self, files: JobFiles) -> str:
        """What the node is to run. No word of the launch is in it: those are read from the job's folder."""
        text = KEEPER.read_bytes()
        path = self._folder / f"keeper-{hashlib.sha256(text).hexdigest()[:12]}.py"
        if not path.exists():
            new = path.with_suffix(f".{os.getpid()}.new")
            new.write_bytes(text)
            new.replace(path)
        return f"#!/bin/sh\nexec {shlex.join([self._python, '-I', '-S', str(path), str(files.path)])}\n"

    def _record(self, launch: Launch, cpus: int) -> dict[str, Any]:
        return {
            "format": 1,
            "key": launch.key,
            "argv": launch.argv,
            "cwd": launch.cwd or self._cwd,
            "nodes": launch.nodes,
            "cpus": cpus,
            "listens": launch.listens,
            "time_limit_s": launch.resources.time_limit_s,
            "memory_limit_bytes": launch.resources.memory_bytes.high,
            "most_output_bytes": self._most_output_bytes,
            "control": self._controls.ours,
        }

    def _environment(self, launch: Launch, cpus: int) -> dict[str, str]:
        return {
            **{
                name: value
                for name, value in os.environ.items()
                if name in PASSED_ON or name.startswith(CLOUDS)
            },
            **dict.fromkeys(THREADS, str(cpus)),  # else each job would start a thread for every core
            **launch.env,
        }


def _ended(key: str, record: Mapping[str, Any], start: Mapping[str, Any]) -> JobStatus:
    """The status of a job by the record of its end."""
    return JobStatus(
        key,
        Phase.ended,
        str(record.get("node") or start.get("node") or ""),
        instant_of(record.get("started_at") or start.get("at")),
        instant_of(record.get("ended_at")),
        exit_of(record),
    )


def _check_words(launch: Launch) -> None:
    """Refuse what no command line or environment can hold."""
    words = [*launch.argv, launch.cwd, *launch.env, *launch.env.values()]
    if any("\0" in word for word in words):
        raise Refused(f"job '{launch.key}' has a word with a zero byte, which no command can be given")
    if bad := [name for name in launch.env if not name or "=" in name]:
        raise Refused(f"job '{launch.key}' names an environment variable that cannot be: {bad[0]!r}")


def _plain(key: str) -> str:
    """A key for the eyes of those who look at the queue."""
    return re.sub(r"[^A-Za-z0-9._/:@-]", "_", key)[:120]


def _now() -> int:
    return time.time_ns() // 1000
