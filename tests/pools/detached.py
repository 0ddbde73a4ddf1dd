"""An engine whose jobs outlive their control process, and do not see its files: what a cluster is to us."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Mapping
from pathlib import Path

from fourfold.core.jobs import Exit, ExitKind, Resources, Usage
from fourfold.core.ports.engine import Capabilities, JobStatus, Launch, LogChunk, Offer, Phase


class Detached:
    """Starts processes in sessions of their own; several objects over one `jobs` are one engine's lives."""

    def __init__(
        self,
        folder: Path,
        jobs: dict[str, subprocess.Popen[bytes]],
        *,
        bare: Path | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """`bare` is a folder of programs: the machine has these and nothing of ours; `environ` is its own."""
        folder.mkdir(exist_ok=True)
        self._bare = bare
        self._environ = environ or {}
        self.is_out_of_reach = False
        """Whether its machine hears no word to end a job."""
        self.units: tuple[str, ...] = ("node1",)
        """All but the last are busy with somebody else's jobs."""
        self._folder = folder
        self._jobs = jobs
        self._lock = threading.Lock()

    def capabilities(self) -> Capabilities:
        return Capabilities(
            services=False,
            memory_limit="none",
            time_limit=False,
            gpus=False,
            survives_control_restart=True,
            shares_files=False,
        )

    def offers(self, request: Resources) -> tuple[Offer, ...]:
        return tuple(Offer(unit, 2, 4 << 30) for unit in self.units)

    def submit(self, launch: Launch) -> None:
        with self._lock:
            if launch.key in self._jobs:
                return
            env = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), **self._environ}
            env |= launch.env
            cwd = launch.cwd
            if self._bare is not None:
                env = {"PATH": str(self._bare), "HOME": "/nonexistent", **self._environ, **launch.env}
                cwd = str(self._folder)
            env["FOURFOLD_CODE"] = f"/not/seen/here/{Path(env['FOURFOLD_CODE']).name}"
            env["XDG_CACHE_HOME"] = str(self._folder / "cache")
            with (self._folder / launch.key).open("wb") as log:
                self._jobs[launch.key] = subprocess.Popen(
                    self._argv(launch), env=env, cwd=cwd, stdout=log, stderr=log, start_new_session=True
                )

    def _argv(self, launch: Launch) -> list[str]:
        if self._bare is None:
            return list(launch.argv)
        return [str(self._bare / launch.argv[0]), *launch.argv[1:]]

    def status(self, keys: Collection[str]) -> Mapping[str, JobStatus]:
        return {key: self._status(key) for key in keys}

    def wait(self, keys: Collection[str], timeout_s: float) -> Mapping[str, JobStatus]:
        deadline = time.monotonic() + timeout_s
        for key in keys:
            if (job := self._jobs.get(key)) is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    job.wait(max(0.0, deadline - time.monotonic()))
        return self.status(keys)

    def logs(self, key: str, offset: int = 0, limit_bytes: int = 1 << 20) -> LogChunk:
        data = (self._folder / key).read_bytes()[offset : offset + limit_bytes]
        return LogChunk(data, offset + len(data), is_end=True)

    def stop(self, key: str, grace_s: float = 5.0) -> None:
        if self.is_out_of_reach:
            return
        if (job := self._jobs.get(key)) is not None and job.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(job.pid, signal.SIGKILL)

    def usage(self, key: str) -> Usage:
        return Usage()

    def reap(self, keep: Collection[str]) -> tuple[str, ...]:
        strays = tuple(key for key, job in self._jobs.items() if key not in keep and job.poll() is None)
        for key in strays:
            self.stop(key)
            self._jobs[key].wait(10)
        return strays

    def close(self) -> None:
        """Its jobs go on."""

    def _status(self, key: str) -> JobStatus:
        job = self._jobs.get(key)
        if job is None:
            return JobStatus(key, Phase.unknown)
        code = job.poll()
        if code is None:
            return JobStatus(key, Phase.running, self.units[-1])
        kind = ExitKind.ok if code == 0 else ExitKind.failed
        return JobStatus(key, Phase.ended, self.units[-1], exit=Exit(kind, f"exit status {code}", code))
