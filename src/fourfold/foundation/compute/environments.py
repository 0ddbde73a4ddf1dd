"""Environments: which one the project has, and a Python that has it.

The project's environment is what its lock says: the one that the settings name, else a lock found beside
the project, else what is installed now, captured. Whoever runs code asks `python_for`: it answers the
running interpreter where that has the very packages, and otherwise builds a virtual environment once.

Fourfold itself is never fetched: a built environment gets a link to the package that built it, unless its
lock pins another version.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fourfold.core.environment import Environment, Package, identify
from fourfold.core.errors import NotFound, Refused
from fourfold.foundation.compute.built import Built, lacking
from fourfold.foundation.compute.installed import Installed, closure, installed
from fourfold.foundation.compute.locks import OURSELVES, applicable, demand_hashes, parse_lock, write_lock
from fourfold.foundation.compute.pythons import this_platform, this_python

FOUND_LOCKS = ("requirements.lock", "requirements.txt")
"""Looked for beside the project, in this order; one that lacks a pin or a hash is passed over."""


@dataclass(frozen=True, slots=True)
class Locked:
    """An environment, the text that rebuilds it, and where that came from."""

    environment: Environment
    lock: str
    origin: str
    """`lock` (the settings name it), `requirements` (found), or `captured` (what is installed)."""


def identify_lock(lock: Path | str) -> Environment:
    """The environment of a lock, given as a path or as its text, for this Python and platform."""
    text = _read_lock(lock) if isinstance(lock, Path) else lock
    what = lock.name if isinstance(lock, Path) else "the lock"
    return identify(python=this_python(), platform=this_platform(), packages=parse_lock(text, what=what))


def current_environment() -> Environment:
    """The environment of what is installed beside this interpreter. Quick: read once per process."""
    return identify(python=this_python(), platform=this_platform(), packages=_captured(installed().values()))


def lock_for(modules: Iterable[str], *, within: Environment | None = None) -> tuple[Environment, str]:
    """The environment that these modules need, and its lock: the smallest part of what is installed.

    Hashes come from `within` (the project's environment) where it pins the same version; a package that it
    does not pin is held by the hash of its installed files, which a later build must meet.

    >>> environment, lock = lock_for(["json", "msgspec"])
    >>> [package.name for package in environment.packages]
    ['msgspec']
    """
    pinned = {(p.name, p.version): p for p in within.packages} if within is not None else {}
    packages = [
        Package(package.name, package.version, pinned.get((package.name, package.version), package).hashes)
        for package in _captured(closure(modules))
    ]
    environment = identify(python=this_python(), platform=this_platform(), packages=packages)
    note = f"Python {environment.python} on {environment.platform}: what these modules need."
    return environment, write_lock(environment.packages, note=note)


def differences(environment: Environment, *, is_brought: bool = False) -> tuple[str, ...]:
    """What the running interpreter lacks of an environment, in words; empty when it serves.

    With `is_brought` nobody asks for Fourfold itself: whoever starts something there brings it along.
    """
    if environment.python != this_python():
        return (f"it is for {environment.python}, this is {this_python()}",)
    if environment.platform != this_platform():
        return (f"it is for {environment.platform}, this is {this_platform()}",)
    wanted = (each for each in applicable(environment) if not is_brought or each.name != OURSELVES)
    return tuple(lacking(wanted, installed()))


class Environments:
    """The environments of a project: `home` is its `.fourfold` folder, `project` the folder around it."""

    def __init__(self, home: Path, *, project: Path | None = None, lock: str = "") -> None:
        """`lock` is the setting `environment.lock`: a path relative to the project; empty to look for one."""
        self._built = Built(home / "envs", links=Path(__file__).resolve().parents[2])
        self._project = project or home.parent
        self._setting = lock
        self._present: tuple[object, Locked] | None = None
        self._guard = threading.Lock()

    def present(self) -> Locked:
        """The project's environment. Read again only when its lock has changed."""
        with self._guard:
            path = self._lock_path()
            stamp = None if path is None else (path, path.stat().st_mtime_ns, path.stat().st_size)
            if self._present is None or self._present[0] != stamp:
                self._present = (stamp, self._read_present(path))
            return self._present[1]

    def python_for(self, environment: Environment) -> Path:
        """An interpreter that has this environment: the running one where it does, else one built for it."""
        return Path(sys.executable) if not differences(environment) else self.build(environment)

    def build(self, environment: Environment) -> Path:
        """The Python of a virtual environment with exactly these packages; built once, then found."""
        return self._built.build(environment)

    # How.

    def _lock_path(self) -> Path | None:
        if self._setting:
            path = self._project / self._setting
            if not path.is_file():
                raise NotFound(
                    f"the lock that setting 'environment.lock' names does not exist: {self._setting}",
                    ways_on=["make it, or correct [environment] lock in fourfold.toml"],
                )
            return path
        return next((self._project / name for name in FOUND_LOCKS if (self._project / name).is_file()), None)

    def _read_present(self, path: Path | None) -> Locked:
        if path is not None:
            try:
                text = _read_lock(path)
                environment = identify_lock(path)
                demand_hashes(environment.packages, what=path.name)
                return Locked(environment, text, "lock" if self._setting else "requirements")
            except Refused:
                if self._setting:
                    raise
                # A loose requirements.txt is no lock: what is installed is the better answer.
        environment = current_environment()
        note = f"Python {environment.python} on {environment.platform}, captured from what is installed."
        return Locked(environment, write_lock(environment.packages, note=note), "captured")


def _captured(found: Iterable[Installed]) -> list[Package]:
    """Installed packages as an environment holds them; our own files are the build's to link, not to hash."""
    packages = [each.package for each in found]
    return [Package(p.name, p.version) if p.name == OURSELVES else p for p in packages]


def _read_lock(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise NotFound(f"lock '{path}' does not exist") from error
    except UnicodeDecodeError as error:
        raise Refused(f"lock '{path.name}' is not text") from error
