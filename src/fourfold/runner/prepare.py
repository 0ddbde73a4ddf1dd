"""Before a worker begins on a machine without its environment: build that, or find it, and start in it.

`start.py` has brought our package and runs this with whatever Python the machine has. The environment is
built from the lock of the run, once for all workers of the machine, in a cache that is bounded. While it is
built the owner hears that this worker is alive; what cannot be built is told with the tool's own last words.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sys
import threading
import time
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from fourfold.core.environment import Environment, identify
from fourfold.core.errors import Corrupted, FourfoldError, OutOfSpace, Remedy, Unavailable
from fourfold.foundation.compute.built import Built
from fourfold.foundation.compute.environments import differences
from fourfold.foundation.compute.locks import parse_lock
from fourfold.runner.start import GivenUp, Line, cache_folder, say, tell_unready

MOST_CACHE_BYTES = 20 << 30
"""So much may the environments of a machine take, unless the pool says otherwise."""
MOST_APPLICATIONS = 4
_WEEK_S = 7 * 86400.0
_BEAT_S = 5.0


def main() -> None:
    """Make this machine ready for the worker that the environment variables describe, and become it."""
    environ = dict(os.environ)
    try:
        with Presence(environ) as owner:
            try:
                python, more = prepared(environ, owner.ask({"type": "plan"}, "plan"))
            except (FourfoldError, OSError) as error:
                told = _told(error)
                owner.tell_unready(told)
                sys.exit(1)
    except GivenUp as error:
        sys.exit(str(error))
    sys.stdout.flush()
    os.execve(python, [python, "-P", "-m", "fourfold.runner"], environ | more)  # noqa: S606 - no shell


def prepared(environ: dict[str, str], plan: dict[str, Any]) -> tuple[str, dict[str, str]]:
    """The Python that the worker runs in, and what it finds in its environment variables."""
    cache = Path(cache_folder(environ))
    package = str(Path(__file__).resolve().parents[2])
    more = {"PYTHONPATH": package}
    if environ.get("FOURFOLD_AFAR"):
        more["FOURFOLD_HOME"] = str(_project(cache, plan["installation"], plan["settings"]))
    built = Built(cache / "envs", links=None, say=say)
    python = environment_python(built, environment_of(plan))
    for gone in built.prune(int(environ.get("FOURFOLD_CACHE_BYTES") or MOST_CACHE_BYTES)):
        say(f"removed {gone}, which nobody had used for longest")
    _prune(cache / "runner", keep=Path(package).name)
    return python, more


def environment_python(built: Built, environment: Environment) -> str:
    """A Python with this environment: this one where it has the very packages, else one that is built.

    The one that was built is held as long as the process lives that this becomes.
    """
    lacking = differences(environment, is_brought=True)
    if not lacking:
        return sys.executable
    say(f"this machine's {sys.executable} does not do: {lacking[0]}")
    os.set_inheritable(built.hold(environment.identity), True)
    return str(built.build(environment))


def environment_of(plan: dict[str, Any]) -> Environment:
    """What the plan says, if its lock gives the very identity."""
    found = identify(
        python=plan["python"], platform=plan["platform"], packages=parse_lock(plan["lock"], what="the lock")
    )
    if found.identity != plan["environment"]:
        raise Corrupted(f"the lock that came gives {found.identity}, not {plan['environment']}")
    return found


class Presence:
    """Keeps the owner informed from a thread that this worker is alive, and carries questions to it."""

    def __init__(self, environ: dict[str, str]) -> None:
        self._line = Line(environ)
        self._using = threading.Lock()
        self._over = threading.Event()
        self._given_up: SimpleQueue[str] = SimpleQueue()

    def __enter__(self) -> Presence:
        threading.Thread(target=self._beat, name="fourfold-presence", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._line.close()  # what still waits for an answer finds no connection

    def ask(self, header: dict[str, Any], wanted: str) -> dict[str, Any]:
        with self._using:
            return self._line.ask(header, wanted)[0]

    def tell_unready(self, error: FourfoldError) -> None:
        with self._using:
            is_permanent = error.remedy is Remedy.permanent
            tell_unready(self._line, str(error), type(error).__name__, is_permanent=is_permanent)

    def _beat(self) -> None:
        """Ask for a sign of life every few seconds. Who is refused, or alone for too long, ends."""
        while not self._over.wait(_BEAT_S):
            with self._using:
                if self._over.is_set():
                    return
                try:
                    self._line.ask({"type": "preparing"}, "heard")
                except GivenUp as error:
                    say(str(error))
                    _end()


def _end() -> None:
    """End this process, and the tools that it started."""
    from fourfold.runner.far import end_all

    end_all("this worker ends before it has begun")


def _told(error: FourfoldError | OSError) -> FourfoldError:
    where = f"on {socket.gethostname()}"
    if isinstance(error, FourfoldError):
        return type(error)(f"{where}: {error.message}", ways_on=error.ways_on)
    if error.errno == 28:
        return OutOfSpace(f"{where}: the disk is full: {error}")
    return Unavailable(f"{where}: {error}")


def _project(cache: Path, installation: str, settings: str) -> Path:
    """A folder that stands for the project's here: it holds its settings, and nothing of its data."""
    folder = cache / "projects" / installation
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = folder / f".settings-{os.getpid()}"
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(settings)
    new.rename(folder / "fourfold.toml")
    return folder / ".fourfold"


def _prune(folder: Path, *, keep: str) -> None:
    """Remove applications that were not used for a week, and what was left half unpacked."""
    now = time.time()
    with contextlib.suppress(OSError):
        found = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime)
        for path in found[: max(0, len(found) - MOST_APPLICATIONS)]:
            if path.name != keep and now - path.stat().st_mtime > _WEEK_S:
                shutil.rmtree(path, ignore_errors=True)
