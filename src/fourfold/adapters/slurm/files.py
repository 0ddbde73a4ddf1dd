"""The files of one job, in a folder that this machine and the job's nodes share.

Who makes a folder takes its key. Slurm may start a job twice (a controller that was killed forgets that it
ended; a node that was cut off goes on): `start.json` is made by one start alone, `end.json` by the first who
says how it ended, both in one step that fails for everybody else. What they say is settled.

    launch.json   what was asked; `env.json`: the environment, which the job removes once it has read it
    asked         Slurm may have been asked; `job.json`: the number that it answered with
    start.json    the one start that counts; `address.json`: where it listens
    use.json      what it has used so far; `log`: what it prints; `slurm.log`: what Slurm says of it
    stop.json     it should end; `end.json`: how it ended
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fourfold.core.errors import FourfoldError, OutOfSpace, Refused, Unavailable
from fourfold.core.jobs import Exit, ExitKind, Usage
from fourfold.core.times import Instant

NEW = ".new-"
"""Begins the name of a job's folder while it is being filled."""
STALE_S = 3600.0
LOCK_WITHIN_S = 60.0


class JobFiles:
    """One job's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"<JobFiles {self.path.name}>"

    def read(self, name: str) -> dict[str, Any] | None:
        try:
            found = json.loads((self.path / name).read_bytes())
        except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
            return None
        return found if isinstance(found, dict) else None

    def exists(self, name: str = "") -> bool:
        return (self.path / name).exists()

    def write(self, name: str, record: Mapping[str, object]) -> None:
        """Write a file anew, in one step; `OutOfSpace` where the disk is full."""
        new = self._written(name, record)
        new.replace(self.path / name)

    def write_once(self, name: str, record: Mapping[str, object]) -> bool:
        """Write a file that is not there yet; whether it is ours that is there now."""
        new = self._written(name, record)
        try:
            os.link(new, self.path / name)
        except FileExistsError:
            return False
        finally:
            new.unlink()
        return True

    @contextmanager
    def alone(self) -> Iterator[None]:
        """One process at a time talks to Slurm about a key."""
        with (self.path / "lock").open("ab") as file:
            deadline = time.monotonic() + LOCK_WITHIN_S
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() > deadline:
                        raise Unavailable(
                            f"another process has been submitting the same job for {LOCK_WITHIN_S:g} s",
                            ways_on=["try again"],
                        ) from error
                    time.sleep(0.02)
            yield

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def age_s(self) -> float:
        try:
            return time.time() - self.path.stat().st_mtime
        except OSError:  # somebody else has removed it
            return 0.0

    def _written(self, name: str, record: Mapping[str, object]) -> Path:
        """A file beside its place."""
        new = self.path / f".{name}.{os.getpid()}.{threading.get_ident()}"
        try:
            new.write_text(json.dumps(record))
        except OSError as error:
            with contextlib.suppress(OSError):
                new.unlink()
            raise disk_error(error, f"'{name}' of a job was not written") from error
        return new


def folder_name(key: str) -> str:
    """The name of a key's folder; keys may hold anything.

    >>> folder_name("run/1 'x'") == folder_name("run/1 'x'"), len(folder_name("…"))
    (True, 32)
    """
    return hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()[:32]


def claim(path: Path, launch: Mapping[str, object], environment: Mapping[str, str]) -> bool:
    """Make a job's folder; whether it is we who made it.

    It is filled beside its place and then moved there: a crash in between uses up no key.
    """
    new = path.parent / f"{NEW}{os.getpid()}-{threading.get_ident()}-{path.name}"
    try:
        if path.exists():
            return False
        new.mkdir(parents=True)
        (new / "launch.json").write_text(json.dumps(launch))
        descriptor = os.open(new / "env.json", os.O_WRONLY | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(environment, file)
        new.rename(path)
    except OSError as error:
        shutil.rmtree(new, ignore_errors=True)
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY) and path.exists():
            return False
        raise disk_error(error, f"job '{launch['key']}' was not started") from error
    return True


def disk_error(error: OSError, what: str) -> FourfoldError:
    """The error for what a disk said."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutOfSpace(f"{what}: the disk is full", ways_on=["free some space, then try again"])
    return Refused(f"{what}: {error.strerror}: {error.filename}")


class Controls:
    """Which control processes live: each holds a lock on a file of its own as long as it does."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "controls"
        self._folder.mkdir(parents=True, exist_ok=True)
        self.ours = f"{os.getpid()}-{time.time_ns()}"
        self._file = (self._folder / self.ours).open("ab")
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def is_alive(self, control: str) -> bool:
        """Whether it is another's that lives."""
        if control == self.ours:
            return False
        try:
            with (self._folder / control).open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except OSError:  # it is held; or locks do not work there, and then we end nobody's work
            return True
        return False

    def close(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self._folder / self.ours).unlink()
        self._file.close()


def exit_of(record: Mapping[str, Any]) -> Exit:
    told = record["exit"]
    return Exit(ExitKind(told["kind"]), str(told["reason"]), told["code"])


def usage_of(record: Mapping[str, Any] | None) -> Usage | None:
    told = (record or {}).get("usage")
    return Usage(**told) if isinstance(told, dict) else None


def instant_of(value: object) -> Instant | None:
    return None if value is None else Instant(int(str(value)))
