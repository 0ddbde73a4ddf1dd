"""The environments that were built in a folder: each once, whole or not at all, and so many bytes at most.

Any number of processes of a machine may share the folder. An environment is the folder of its identity,
and its `environment.json` is written last. Beside it lie two files that are only locked: `.lock` by who
builds it, `.used` by those that run in it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fourfold.core.environment import Environment, Package, identify
from fourfold.core.errors import Corrupted, OutOfSpace, Refused, Unavailable
from fourfold.foundation.compute.installed import Installed, installed, read_installed
from fourfold.foundation.compute.installers import Installer, Say, installer, runner
from fourfold.foundation.compute.locks import (
    OURSELVES,
    RECORD_HASH,
    applicable,
    demand_hashes,
    parse_lock,
    write_lock,
)
from fourfold.foundation.compute.pythons import this_platform, this_python

WHOLE = "environment.json"
"""Without it inside, a folder is no environment."""
FULL_BELOW_BYTES = 4 << 20
"""A tool that fails where less is free has met a full disk."""


class Built:
    """Builds environments in a folder, finds them again, and removes those that nobody has used for long."""

    def __init__(self, folder: Path, *, links: Path | None, say: Say | None = None) -> None:
        """`links` is our own package, which each environment gets a link to; without it, whoever starts
        something there brings us along. `say` is told how a build goes."""
        self._folder = folder
        self._links = links
        self._say = say

    def __repr__(self) -> str:
        return f"<Built in {self._folder}>"

    def build(self, environment: Environment) -> Path:
        """The Python of a virtual environment with exactly these packages; built once, then found.

        Two that build at once do not collide: the second waits and finds it. What failed half-way is
        removed. Packages come from uv's cache where they are in it, without the network.
        """
        _refuse_forged(environment)
        folder = self._folder / environment.identity
        python = folder / "bin" / "python"
        if (folder / WHOLE).exists():
            return python
        if environment.platform != this_platform():
            raise Refused(
                f"environment {environment.identity} is for {environment.platform}, not {this_platform()}",
                ways_on=["run it where that platform is, or lock it again for this one"],
            )
        demand_hashes(applicable(environment), what=f"environment {environment.identity}")
        try:
            with self._alone(environment.identity) as held:
                if not (folder / WHOLE).exists():
                    self._build(environment, folder, held)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise self._full(environment) from error
            raise
        return python

    def hold(self, identity: str) -> int:
        """Say that an environment is in use, as long as the file stays open; called before it is built."""
        self._folder.mkdir(parents=True, exist_ok=True)
        file = os.open(self._folder / f"{identity}.used", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(file, fcntl.LOCK_SH)
        os.utime(file)
        return file

    def prune(self, most_bytes: int) -> tuple[str, ...]:
        """Remove environments, used longest ago first, until so many bytes are left; which were removed.

        Those in use stay, whatever they take.
        """
        found = []
        for path in self._folder.glob(f"*/{WHOLE}"):
            with contextlib.suppress(OSError, ValueError):
                size = int(json.loads(path.read_text()).get("bytes", 0))
                used = self._folder / f"{path.parent.name}.used"
                stamp = used if used.exists() else path
                found.append((stamp.stat().st_mtime, path.parent.name, size))
        total, removed = sum(size for _, _, size in found), []
        for _, identity, size in sorted(found):
            if total <= most_bytes:
                break
            if self._remove(identity):
                total -= size
                removed.append(identity)
        return tuple(removed)

    # How.

    def _remove(self, identity: str) -> bool:
        """Remove an environment unless somebody uses it."""
        with open(self._folder / f"{identity}.used", "w") as used:
            try:
                fcntl.flock(used, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return False
            gone = Path(tempfile.mkdtemp(prefix=f".{identity}-", dir=self._folder))
            with contextlib.suppress(OSError):
                (self._folder / identity).rename(gone / identity)
        shutil.rmtree(gone, ignore_errors=True)
        return True

    @contextmanager
    def _alone(self, identity: str) -> Iterator[int]:
        """Hold the lock of an environment; gives the file that holds it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with open(self._folder / f"{identity}.lock", "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._tell("another process of this machine builds it: waiting for that")
                fcntl.flock(file, fcntl.LOCK_EX)  # released when the file closes, also by a crash
            yield file.fileno()

    def _build(self, environment: Environment, folder: Path, held: int) -> None:
        packages = applicable(environment)
        fetched = [package for package in packages if not self._is_brought(package)]
        for stale in self._folder.glob(f".{environment.identity}-*"):
            shutil.rmtree(stale, ignore_errors=True)  # we hold the lock: whoever made it is gone
        new = Path(tempfile.mkdtemp(prefix=f".{environment.identity}-", dir=self._folder))
        tool = installer(runner(held=held, say=self._say))
        self._tell(f"building {environment.identity}: {len(fetched)} packages, with {tool.name}")
        try:
            python = sys.executable if environment.python == this_python() else environment.python
            tool.make(new, python, packages)
            if fetched:
                _fill(tool, new, fetched)
            site = next(new.glob("lib/python*/site-packages"))
            if self._links is not None and not (site / OURSELVES).exists():
                (site / OURSELVES).symlink_to(self._links, target_is_directory=True)
            _verify(fetched, read_installed([str(site)]))
            tool.settle(new, folder)
            record = {
                "format": 1,
                "identity": environment.identity,
                "lock": write_lock(environment.packages),
                "bytes": _size(new),
            }
            (new / WHOLE).write_text(json.dumps(record))
            new.chmod(0o755)
            shutil.rmtree(folder, ignore_errors=True)
            os.sync()  # thousands of files, most of them links into a cache: all at once, or a power cut
            new.rename(folder)  # could leave a whole folder's name over half of its files
        except Unavailable as error:
            if shutil.disk_usage(new).free < FULL_BELOW_BYTES:  # tools within tools do not pass it on
                raise self._full(environment) from error
            raise
        finally:
            shutil.rmtree(new, ignore_errors=True)
        self._tell(f"built {environment.identity}")

    def _full(self, environment: Environment) -> OutOfSpace:
        return OutOfSpace(
            f"environment {environment.identity} was not built: the disk is full",
            ways_on=[f"free some space at {self._folder}"],
        )

    def _is_brought(self, package: Package) -> bool:
        """Whether it is ourselves, and comes along without being fetched."""
        if package.name != OURSELVES:
            return False
        here = installed().get(OURSELVES)
        return self._links is None or here is None or here.package.version == package.version

    def _tell(self, line: str) -> None:
        if self._say is not None:
            self._say(line)


def lacking(packages: Iterable[Package], here: dict[str, Installed]) -> Iterator[str]:
    """What of some packages is not among installed ones, in words."""
    for package in packages:
        found = here.get(package.name)
        if found is None:
            yield f"{package.name} {package.version} is not installed"
        elif found.package.version != package.version:
            yield f"{package.name} is {found.package.version}, not {package.version}"
        elif package.name != OURSELVES and _record(package) not in (None, _record(found.package)):
            yield f"{package.name} {package.version} has other files than those recorded"


def _refuse_forged(environment: Environment) -> None:
    """A model brings its environment along: neither a path nor an option of the installer may hide in it."""
    found = identify(python=environment.python, platform=environment.platform, packages=environment.packages)
    is_plain = re.fullmatch(r"[a-z]+-\d+\.\d+", environment.python) is not None
    try:
        is_lock = parse_lock(write_lock(found.packages)) == found.packages
    except Refused:
        is_lock = False
    if found != environment or not is_plain or not is_lock:
        raise Corrupted(
            f"environment '{environment.identity[:80]}' is not what its packages make; nothing was built",
            ways_on=["whoever made it did not use Fourfold, or somebody changed it: save the model again"],
        )


def _fill(tool: Installer, new: Path, packages: list[Package]) -> None:
    """Install exactly these packages, from a cache first; hashes are demanded where all are known."""
    known = [Package(p.name, p.version, tuple(h for h in p.hashes if _record(p) != h)) for p in packages]
    requirements = new / "requirements.txt"
    requirements.write_text(write_lock(tuple(known)))
    tool.fill(new, requirements, packages, is_hashed=all(package.hashes for package in known))


def _verify(packages: list[Package], here: dict[str, Installed]) -> None:
    missing = list(lacking(packages, here))
    if missing:
        raise Corrupted(
            f"the environment that was built is not the one asked for: {missing[0]}",
            ways_on=[
                "the package was published again under the same version, or built from source: lock it anew"
            ],
            lacking=missing,
        )


def _record(package: Package) -> str | None:
    return next((each for each in package.hashes if each.startswith(RECORD_HASH)), None)


def _size(folder: Path) -> int:
    """The bytes of all files below."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total
