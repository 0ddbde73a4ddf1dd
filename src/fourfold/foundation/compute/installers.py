"""The tools that make an environment: uv where there is one, else Python's own venv and pip.

Both install exactly what they are given, hash-checked, and add nothing. What a tool prints is handed on line
by line to who wants to see how it goes, and its last lines are the words of the error when it fails.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from fourfold.core.environment import Package
from fourfold.core.errors import FourfoldError, Missing, OutOfSpace, Refused, TimedOut, Unavailable

BUILD_WITHIN_S = 1800.0
MOST_SAID_LINES = 12
_NOT_PASSED_ON = ("VIRTUAL_ENV", "PYTHONHOME", "PYTHONPATH")

Say = Callable[[str], None]
"""Is told how a build goes, a line at a time."""


class Run(Protocol):
    """Runs a tool, and raises its last words as an error when it fails."""

    def __call__(self, command: list[str], packages: Iterable[Package]) -> None: ...


class Installer(Protocol):
    """Makes a virtual environment, and fills it."""

    name: str

    def make(self, folder: Path, python: str, packages: Iterable[Package]) -> None:
        """Make an empty one. `python` is the path of an interpreter, or such as `cpython-3.11`."""
        ...

    def fill(self, folder: Path, requirements: Path, packages: Iterable[Package], *, is_hashed: bool) -> None:
        """Install what a requirements file pins; with `is_hashed` each file must have a hash of its."""
        ...

    def settle(self, folder: Path, final: Path) -> None:
        """Make it fit for the folder that it will be moved to."""
        ...


def installer(run: Run) -> Installer:
    """The best that there is here."""
    program = _uv()
    return Uv(program, run) if program else VenvAndPip(run)


class Uv:
    """Quick, with a cache that environments of the machine share."""

    name = "uv"

    def __init__(self, program: str, run: Run) -> None:
        self._program = program
        self._run = run

    def make(self, folder: Path, python: str, packages: Iterable[Package]) -> None:
        options = ["--quiet", "--relocatable", "--allow-existing", "--python", python]
        self._run([self._program, "venv", *options, str(folder)], packages)

    def fill(self, folder: Path, requirements: Path, packages: Iterable[Package], *, is_hashed: bool) -> None:
        command = [self._program, "pip", "install", "--no-deps", "--python", str(folder / "bin/python")]
        command += ["--require-hashes"] if is_hashed else []
        command += ["-r", str(requirements)]
        try:
            self._run([*command, "--offline"], packages)
        except OutOfSpace:
            raise
        except FourfoldError:
            self._run(command, packages)  # something is not in the cache

    def settle(self, folder: Path, final: Path) -> None:
        """It is relocatable as it is."""


class VenvAndPip:
    """What comes with Python."""

    name = "pip"

    def __init__(self, run: Run) -> None:
        self._run = run

    def make(self, folder: Path, python: str, packages: Iterable[Package]) -> None:
        try:
            self._run([_interpreter(python), "-m", "venv", str(folder)], packages)
        except Unavailable as error:
            if "ensurepip is not" not in error.message:
                raise
            raise Missing(
                "neither uv nor Python's own venv can be used here",
                ways_on=["install uv, or on Debian: apt-get install python3-venv"],
            ) from error

    def fill(self, folder: Path, requirements: Path, packages: Iterable[Package], *, is_hashed: bool) -> None:
        command = [str(folder / "bin/python"), "-m", "pip", "install", "--no-deps", "--no-input"]
        command += ["--disable-pip-version-check", "--progress-bar", "off"]
        command += ["--require-hashes"] if is_hashed else []
        self._run([*command, "-r", str(requirements)], packages)

    def settle(self, folder: Path, final: Path) -> None:
        """Scripts name their interpreter by its path."""
        was, now = f"#!{folder}/".encode(), f"#!{final}/".encode()
        for script in (folder / "bin").iterdir():
            if script.is_symlink() or not script.is_file():
                continue
            data = script.read_bytes()
            if data.startswith(was):
                script.write_bytes(now + data.removeprefix(was))


def runner(*, held: int, say: Say | None) -> Run:
    """Runs tools that hold the lock too: when we are killed, the next builder waits until they have ended."""

    def run(command: list[str], packages: Iterable[Package]) -> None:
        environ = {name: value for name, value in os.environ.items() if name not in _NOT_PASSED_ON}
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environ,
            pass_fds=[held],
        )
        is_late = threading.Event()

        def late() -> None:
            is_late.set()
            process.kill()

        timer = threading.Timer(BUILD_WITHIN_S, late)
        timer.start()
        said: deque[str] = deque(maxlen=200)
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.strip():
                    said.append(line.strip())
                    if say is not None:
                        say(line.rstrip())
            code = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            timer.cancel()
            assert process.stdout is not None
            process.stdout.close()
        if is_late.is_set():
            raise TimedOut(f"building an environment took longer than {BUILD_WITHIN_S:g} s")
        if code:
            raise failure(said, packages, tool=Path(command[0]).name)

    return run


def failure(said: Iterable[str], packages: Iterable[Package], *, tool: str) -> FourfoldError:
    """What a tool's last lines mean."""
    lines = list(said)
    text = " ".join(" ".join(lines).split())
    if "No space left" in text:
        return OutOfSpace("the environment was not built: the disk is full", ways_on=["free some space"])
    last = [line[:300] for line in lines[-MOST_SAID_LINES:]]
    found = culprit(text, packages)
    if found is None:
        return Unavailable(
            f"the environment was not built: {text[-500:]}", ways_on=[*last, "try again"], tool=tool
        )
    return Unavailable(
        f"the environment was not built: {found.name}=={found.version} cannot be installed",
        ways_on=[*last, "check that this version exists for this Python and platform, and the way to it"],
        package=found.name,
        version=found.version,
        tool=tool,
    )


def culprit(said: str, packages: Iterable[Package]) -> Package | None:
    """The package that a tool complains of: named with its version if possible, and as early as possible.

    >>> given = [Package("click", "8.1.0"), Package("numpy", "2.4.6")]
    >>> culprit("ERROR: No matching distribution found for numpy==2.4.6", given).name
    'numpy'
    """
    places = []
    for package in packages:
        for rank, form in enumerate((f"{package.name}=={package.version}", package.name)):
            found = re.search(rf"(?<![\w.-]){re.escape(form)}(?![\w-])", said, re.IGNORECASE)
            if found is not None:
                places.append((rank, found.start(), package))
                break
    return min(places, key=lambda place: place[:2])[2] if places else None


def _uv() -> str:
    """uv as it came with us, or as somebody installed it; "" where it is not."""
    try:
        from uv import find_uv_bin

        return str(find_uv_bin())
    except (ImportError, FileNotFoundError):
        return shutil.which("uv") or ""


def _interpreter(python: str) -> str:
    """The path of an interpreter that may be given as `cpython-3.11`."""
    if os.path.isabs(python):
        return python
    name = f"python{python.rpartition('-')[2]}"
    found = shutil.which(name) if python.startswith("cpython-") else None
    if found is None:
        here = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise Refused(
            f"the environment is for {python}, which is not on this machine (this is Python {here})",
            ways_on=[f"install {name} there, or uv, which finds or fetches one"],
        )
    return found
