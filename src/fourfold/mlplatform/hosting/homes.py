"""Where a model version lives on this machine: its verified files in a folder, and the Python to run it."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import fourfold
from fourfold.core.models import LoadPolicy, ModelVersion
from fourfold.core.wire import encode
from fourfold.mlplatform.hosting.worker import POLICY_ENV


@dataclass(frozen=True, slots=True)
class Home:
    """What a worker of a version is started with."""

    folder: Path
    python: str
    """The interpreter of the version's environment."""
    env: dict[str, str]


class Homes(Protocol):
    """Prepares the folder and the environment of a version; may take long the first time."""

    def home(self, version: ModelVersion) -> Home: ...


class Materialize(Protocol):
    """Writes a version's files into a folder; what is there already and right is kept."""

    def __call__(self, version: ModelVersion, into: Path) -> Path: ...


class PythonFor(Protocol):
    """The interpreter of an environment, built if need be; the present one where it satisfies the lock."""

    def __call__(self, environment: str) -> str: ...


class LocalHomes:
    """Homes under a folder of the project."""

    def __init__(
        self,
        folder: Path,
        *,
        materialize: Materialize,
        python_for: PythonFor,
        policy: LoadPolicy | None = None,
        threads: int = 1,
    ) -> None:
        self._folder = folder
        self._materialize = materialize
        self._python_for = python_for
        self._policy = policy
        self._threads = threads

    def home(self, version: ModelVersion) -> Home:
        digest = version.digest.rpartition(":")[2]
        folder = self._materialize(version, self._folder / f"{version.name}-{version.number}-{digest[:16]}")
        python = self._python_for(version.environment) if version.environment else sys.executable
        env = {
            # Numeric libraries start a thread per core each; several workers on a machine would fight.
            "OMP_NUM_THREADS": str(self._threads),
            "OPENBLAS_NUM_THREADS": str(self._threads),
            "MKL_NUM_THREADS": str(self._threads),
        }
        if self._policy is not None:
            env[POLICY_ENV] = encode(self._policy).decode()
        if Path(python) != Path(sys.executable):
            # The worker's code is ours, whatever Fourfold the version's own lock may hold.
            env["PYTHONPATH"] = os.fspath(Path(fourfold.__file__).parent.parent)
        return Home(folder, python, env)
