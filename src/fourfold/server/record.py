"""Which server holds a project: one at a time, known to every other process by `server.json`.

The lock is the truth, the file only describes its holder: a lock ends with its process, so a file that a
crash left behind misleads nobody.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from fourfold.core.errors import Refused

FORMAT = 1


@dataclass(frozen=True, slots=True)
class ServerRecord:
    """The server that holds a project."""

    pid: int
    url: str
    started_at_us: int
    gateway_url: str = ""
    format: int = FORMAT


@contextlib.contextmanager
def holding(home: Path) -> Iterator[None]:
    """Hold the project as its one server; refused, naming the holder, when there is one."""
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (home / "server.lock").open("a+b") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _held(home) from None
        try:
            yield
        finally:
            (home / "server.json").unlink(missing_ok=True)


def write_record(home: Path, record: ServerRecord) -> None:
    """Say who holds the project; whole or not at all. Call it while `holding`."""
    path = home / "server.json"
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(record)))
    partial.chmod(0o600)
    os.replace(partial, path)


def read_record(home: Path) -> ServerRecord | None:
    """The server that holds the project now, if one does and is ready."""
    try:
        with (home / "server.lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None  # we could have it, so nobody holds it
    except FileNotFoundError:
        return None
    except BlockingIOError:
        return _read(home)


def _read(home: Path) -> ServerRecord | None:
    try:
        told = json.loads((home / "server.json").read_text())
        return ServerRecord(
            pid=int(told["pid"]),
            url=str(told["url"]),
            started_at_us=int(told["started_at_us"]),
            gateway_url=str(told.get("gateway_url", "")),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None  # it is just starting, or stopping


def _held(home: Path) -> Refused:
    holder = _read(home)
    if holder is None:
        return Refused(
            f"another 'fourfold up' is just starting or stopping in {home}", ways_on=["try again in a moment"]
        )
    return Refused(
        f"this project is up already: process {holder.pid} serves it at {holder.url}",
        ways_on=["use it as it is: fourfold flow ls", f"or stop it: kill {holder.pid}"],
        pid=holder.pid,
        url=holder.url,
    )
