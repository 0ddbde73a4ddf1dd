"""podman's command line as we use it: words as lists, within a bounded time, errors in our words."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from fourfold.adapters.containers.settings import ContainerSettings
from fourfold.core.errors import FourfoldError, Missing, OutOfSpace, Refused, Unavailable

PROJECT, KEY = "fourfold.project", "fourfold.key"
"""Labels of every container of ours."""
AT_ONCE = 100
"""So many containers are named in one command."""
PULL_FACTOR = 20
SHOWN_CHARACTERS = 400


class Podman:
    """The calls that the engine makes. May be used from several threads."""

    def __init__(self, settings: ContainerSettings, folder: Path) -> None:
        """`folder` is where podman works: a container's monitor leaves files where it was started."""
        self._settings = settings
        self._folder = folder
        self._stops: list[subprocess.Popen[bytes]] = []
        self._base = ["podman"]
        if settings.runtime:
            self._base += ["--runtime", settings.runtime]
        if settings.cgroup_manager:
            self._base += ["--cgroup-manager", settings.cgroup_manager]

    def cgroup_manager(self) -> str:
        return str(json.loads(self._ask(["info", "--format", "json"]))["host"].get("cgroupManager", ""))

    def listed(self, filters: Sequence[str]) -> list[dict[str, Any]]:
        """Containers, live and ended, in one call."""
        words = [word for each in filters for word in ("--filter", each)]
        return list(json.loads(self._ask(["ps", "--all", "--no-trunc", "--format", "json", *words]) or "[]"))

    def inspected(self, names: Collection[str]) -> list[dict[str, Any]]:
        """All about some containers; one that is gone meanwhile is left out."""
        found: list[dict[str, Any]] = []
        ordered = sorted(names)
        for start in range(0, len(ordered), AT_ONCE):
            done = self._run(["container", "inspect", *ordered[start : start + AT_ONCE]])
            if done.returncode and b"no such container" not in done.stderr:
                raise self._failed("inspect", done)
            found += json.loads(done.stdout or b"[]")
        return found

    def has_image(self, image: str) -> bool:
        done = self._run(["image", "exists", image])
        if done.returncode not in (0, 1):
            raise self._failed("image exists", done)
        return done.returncode == 0

    def pull(self, image: str) -> None:
        done = self._run(["pull", "--quiet", image], timeout_s=self._settings.timeout_s * PULL_FACTOR)
        if done.returncode:
            raise self._failed(f"pull {image}", done)

    def create(self, words: Sequence[str], env: Mapping[str, str]) -> bool:
        """Make a container; False when one of that name is there already."""
        done = self._run(["create", *words], env=env)
        if done.returncode and b"already in use" in done.stderr:
            return False
        if done.returncode:
            raise self._refused(done)
        return True

    def begin(self, name: str, output: Path, *, is_made: bool) -> None:
        """Start a container that was created; its output goes to a file.

        With podman's driver `passthrough` the container inherits what `init` was given. podman prints the
        name there too, before the command starts; it is cut off.
        """
        with output.open("ab") as out:
            if not is_made:
                done = self._run(["init", name], stdout=out.fileno())
                if done.returncode:
                    done.stderr = output.read_bytes()[-4096:]
                    raise self._refused(done)
            out.truncate(0)
        # One that was stopped in between is made again by this, and inherits what we give: see `_run`.
        with tempfile.TemporaryFile() as said:
            done = self._run(["start", name], stdout=said.fileno())
            if done.returncode:
                said.seek(0)
                done.stderr = said.read()
        if done.returncode and b"already running" not in done.stderr:
            raise self._refused(done)

    def stop(self, name: str, grace_s: int) -> None:
        """Ask a container to stop, and after its grace end it by force, without waiting for it here.

        The command goes on when we die.
        """
        self._stops = [each for each in self._stops if each.poll() is None]
        try:
            self._stops.append(
                subprocess.Popen(
                    [*self._base, "stop", "--ignore", "--time", str(grace_s), name],
                    cwd=self._working_folder(),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            )
        except OSError as error:
            raise _missing(error) from error

    def close(self) -> None:
        """What asks for stops is waited for a moment, and goes on without us."""
        for each in self._stops:
            try:
                each.wait(1.0)
            except subprocess.TimeoutExpired:
                each.returncode = 0  # it ends by itself, and init takes it
        self._stops = []

    def remove(self, names: Collection[str]) -> None:
        """Forget containers, with what is left of them; gone ones need nothing."""
        ordered = sorted(names)
        for start in range(0, len(ordered), AT_ONCE):
            piece = ordered[start : start + AT_ONCE]
            done = self._run(["rm", "--force", "--time", "0", "--ignore", *piece])
            if done.returncode:
                raise self._failed("rm", done)

    def _ask(self, words: Sequence[str]) -> str:
        done = self._run(words)
        if done.returncode:
            raise self._failed(words[0], done)
        return done.stdout.decode(errors="replace")

    def _run(
        self,
        words: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdout: int = subprocess.PIPE,
        timeout_s: float | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        within_s = timeout_s or self._settings.timeout_s
        try:
            return subprocess.run(
                [*self._base, *words],
                cwd=self._working_folder(),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                # A container that starts inherits it, so it cannot be a pipe that is read to its end.
                stderr=subprocess.PIPE if stdout == subprocess.PIPE else stdout,
                env={**os.environ, **env} if env else None,
                timeout=within_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise Unavailable(
                f"podman has not answered '{words[0]}' within {within_s:g} s",
                ways_on=["it is asked again; try: podman info", "raise timeout_s in the pool's address"],
            ) from error
        except OSError as error:
            raise _missing(error) from error

    def _working_folder(self) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder

    def _failed(self, what: str, done: subprocess.CompletedProcess[bytes]) -> FourfoldError:
        return Unavailable(
            f"podman could not {what}: {_last_words(done)}", ways_on=["try: podman info", "it is asked again"]
        )

    def _refused(self, done: subprocess.CompletedProcess[bytes]) -> FourfoldError:
        said = _last_words(done)
        if "no space left" in said:
            return OutOfSpace(f"podman has no room for a container: {said}", ways_on=["podman system prune"])
        return Refused(
            f"podman refuses this container: {said}",
            ways_on=[
                "where crun refuses the cgroups: runtime=runc&cgroup_manager=cgroupfs in the pool's address",
                "where limits are not permitted: lower most_files and most_processes",
            ],
            exit_code=done.returncode,
        )


def _last_words(done: subprocess.CompletedProcess[bytes]) -> str:
    lines = (done.stderr or b"").decode(errors="replace").strip().splitlines()
    last = next((line for line in reversed(lines) if line.startswith("Error")), lines[-1] if lines else "")
    return last.removeprefix("Error: ")[:SHOWN_CHARACTERS] or f"exit status {done.returncode}"


def _missing(error: OSError) -> FourfoldError:
    if isinstance(error, FileNotFoundError):
        return Missing("podman is not installed", ways_on=["apt-get install podman runc catatonit"])
    return Unavailable(f"podman could not be started: {error.strerror}")
