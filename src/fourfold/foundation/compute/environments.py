"""Environments: which one the project has, and a Python that has it.

The project's environment is what its lock says: the one that the settings name, else a lock found beside
the project, else what is installed now, captured. Whoever runs code asks `python_for`: it answers the
running interpreter where that has the very packages, and otherwise builds a virtual environment once.

Fourfold itself is never fetched: a built environment gets a link to the package that built it, unless its
lock pins another version.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fourfold.core.environment import Environment, Package, identify
from fourfold.core.errors import (
    Corrupted,
    FourfoldError,
    NotFound,
    OutOfSpace,
    Refused,
    TimedOut,
    Unavailable,
)
from fourfold.foundation.compute.installed import Installed, closure, installed, read_installed
from fourfold.foundation.compute.locks import (
    OURSELVES,
    RECORD_HASH,
    applicable,
    demand_hashes,
    parse_lock,
    write_lock,
)

FOUND_LOCKS = ("requirements.lock", "requirements.txt")
"""Looked for beside the project, in this order; one that lacks a pin or a hash is passed over."""
BUILD_WITHIN_S = 1800.0


@dataclass(frozen=True, slots=True)
class Locked:
    """An environment, the text that rebuilds it, and where that came from."""

    environment: Environment
    lock: str
    origin: str
    """`lock` (the settings name it), `requirements` (found), or `captured` (what is installed)."""


def this_python() -> str:
    """The running interpreter's implementation and minor version, such as `cpython-3.11`."""
    return f"{sys.implementation.name}-{sys.version_info.major}.{sys.version_info.minor}"


def this_platform() -> str:
    """The running system and machine, such as `linux-x86_64`."""
    return sysconfig.get_platform()


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


def differences(environment: Environment) -> tuple[str, ...]:
    """What the running interpreter lacks of an environment, in words; empty when it serves."""
    if environment.python != this_python():
        return (f"it is for {environment.python}, this is {this_python()}",)
    if environment.platform != this_platform():
        return (f"it is for {environment.platform}, this is {this_platform()}",)
    return tuple(_lacking(applicable(environment), installed()))


class Environments:
    """The environments of a project: `home` is its `.fourfold` folder, `project` the folder around it."""

    def __init__(self, home: Path, *, project: Path | None = None, lock: str = "") -> None:
        """`lock` is the setting `environment.lock`: a path relative to the project; empty to look for one."""
        self._folder = home / "envs"
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
        """The Python of a virtual environment with exactly these packages; built once, then found.

        Two that build at once do not collide: the second waits and finds it. What failed half-way is
        removed. Packages come from uv's cache where they are in it, without the network.
        """
        _refuse_forged(environment)
        folder = self._folder / environment.identity
        python = folder / "bin" / "python"
        if (folder / "environment.json").exists():
            return python
        if environment.platform != this_platform():
            raise Refused(
                f"environment {environment.identity} is for {environment.platform}, not {this_platform()}",
                ways_on=["run it where that platform is, or lock it again for this one"],
            )
        demand_hashes(applicable(environment), what=f"environment {environment.identity}")
        with self._alone(environment.identity) as held:
            if (folder / "environment.json").exists():
                return python
            try:
                self._build(environment, folder, held)
            except OSError as error:
                if error.errno == 28:
                    raise OutOfSpace(
                        f"environment {environment.identity} was not built: the disk is full"
                    ) from error
                raise
        return python

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

    @contextmanager
    def _alone(self, identity: str) -> Iterator[int]:
        """Hold the lock of an environment; gives the file that holds it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with open(self._folder / f"{identity}.lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # released when the file closes, also by a crash
            yield file.fileno()

    def _build(self, environment: Environment, folder: Path, held: int) -> None:
        packages = applicable(environment)
        fetched = [package for package in packages if not _is_ourselves(package)]
        for stale in self._folder.glob(f".{environment.identity}-*"):
            shutil.rmtree(stale, ignore_errors=True)  # we hold the lock: whoever made it is gone
        new = Path(tempfile.mkdtemp(prefix=f".{environment.identity}-", dir=self._folder))
        try:
            wanted = sys.executable if environment.python == this_python() else environment.python
            _uv(
                ["venv", "--quiet", "--relocatable", "--allow-existing", "--python", wanted, str(new)],
                packages,
                held=held,
            )
            if fetched:
                _install(new, fetched, held=held)
            site = next(new.glob("lib/python*/site-packages"))
            if not (site / OURSELVES).exists():
                (site / OURSELVES).symlink_to(Path(__file__).resolve().parents[2], target_is_directory=True)
            _verify(fetched, read_installed([str(site)]))
            record = {"format": 1, "identity": environment.identity, "lock": write_lock(environment.packages)}
            (new / "environment.json").write_text(json.dumps(record))
            new.chmod(0o755)
            shutil.rmtree(folder, ignore_errors=True)
            os.sync()  # thousands of files, most of them links into a cache: all at once, or a power cut
            new.rename(folder)  # could leave a whole folder's name over half of its files
        finally:
            shutil.rmtree(new, ignore_errors=True)


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


def _captured(found: Iterable[Installed]) -> list[Package]:
    """Installed packages as an environment holds them; our own files are the build's to link, not to hash."""
    packages = [each.package for each in found]
    return [Package(p.name, p.version) if p.name == OURSELVES else p for p in packages]


def _is_ourselves(package: Package) -> bool:
    if package.name != OURSELVES:
        return False
    here = installed().get(OURSELVES)
    return here is None or here.package.version == package.version


def _lacking(packages: Iterable[Package], here: dict[str, Installed]) -> Iterator[str]:
    for package in packages:
        found = here.get(package.name)
        if found is None:
            yield f"{package.name} {package.version} is not installed"
        elif found.package.version != package.version:
            yield f"{package.name} is {found.package.version}, not {package.version}"
        elif package.name != OURSELVES and _record(package) not in (None, _record(found.package)):
            yield f"{package.name} {package.version} has other files than those recorded"


def _record(package: Package) -> str | None:
    return next((each for each in package.hashes if each.startswith(RECORD_HASH)), None)


def _verify(packages: list[Package], here: dict[str, Installed]) -> None:
    lacking = list(_lacking(packages, here))
    if lacking:
        raise Corrupted(
            f"the environment that was built is not the one asked for: {lacking[0]}",
            ways_on=[
                "the package was published again under the same version, or built from source: lock it anew"
            ],
            lacking=lacking,
        )


def _install(venv: Path, packages: list[Package], *, held: int) -> None:
    """Install exactly these packages, from the cache first; hashes are demanded where all are known."""
    known = [Package(p.name, p.version, tuple(h for h in p.hashes if _record(p) != h)) for p in packages]
    requirements = venv / "requirements.txt"
    requirements.write_text(write_lock(tuple(known)))
    command = ["pip", "install", "--quiet", "--no-deps", "--python", str(venv / "bin/python")]
    command += ["--require-hashes"] if all(package.hashes for package in known) else []
    command += ["-r", str(requirements)]
    try:
        _uv([*command, "--offline"], packages, held=held)
    except FourfoldError:
        _uv(command, packages, held=held)  # something is not in the cache


def _uv(command: list[str], packages: Iterable[Package], *, held: int) -> None:
    """Run uv, which holds the lock too: when we are killed, the next builder waits until uv has ended."""
    from uv import find_uv_bin

    environ = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHONHOME", "PYTHONPATH")}
    try:
        done = subprocess.run(
            [find_uv_bin(), *command],
            capture_output=True,
            text=True,
            timeout=BUILD_WITHIN_S,
            env=environ,
            pass_fds=[held],
        )
    except subprocess.TimeoutExpired as error:
        raise TimedOut(f"building an environment took longer than {BUILD_WITHIN_S:g} s") from error
    if done.returncode == 0:
        return
    said = " ".join(done.stderr.split())
    if "No space left" in said:
        raise OutOfSpace("the environment was not built: the disk is full", ways_on=["free some space"])
    culprit = _culprit(said, packages)
    if culprit is None:
        raise Unavailable(f"the environment was not built: {said[-500:]}", ways_on=["try again"])
    raise Unavailable(
        f"the environment was not built: {culprit.name}=={culprit.version} cannot be installed",
        ways_on=[f"uv says: {said[:500]}", "check that this version exists for this Python and platform"],
        package=culprit.name,
        version=culprit.version,
    )


def _culprit(said: str, packages: Iterable[Package]) -> Package | None:
    """The package that uv complains of: named with its version if possible, and as early as possible."""
    places = []
    for package in packages:
        for rank, form in enumerate((f"{package.name}=={package.version}", package.name)):
            found = re.search(rf"(?<![\w.-]){re.escape(form)}(?![\w-])", said, re.IGNORECASE)
            if found is not None:
                places.append((rank, found.start(), package))
                break
    return min(places, key=lambda place: place[:2])[2] if places else None


def _read_lock(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise NotFound(f"lock '{path}' does not exist") from error
    except UnicodeDecodeError as error:
        raise Refused(f"lock '{path.name}' is not text") from error
