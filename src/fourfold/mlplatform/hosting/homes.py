"""Where a model version lives on this machine: its verified files in a folder, and the Python to run it."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fourfold.core import package
from fourfold.core.environment import Environment
from fourfold.core.models import LoadPolicy, ModelVersion
from fourfold.core.wire import decode, encode
from fourfold.mlplatform.hosting.worker import POLICY_ENV

ENVIRONMENT = "environment.json"
"""The file of a version that names its packages."""


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
    """The interpreter of an environment, built if need be; the present one where it has the packages."""

    def __call__(self, environment: Environment) -> Path: ...


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
        python = os.fspath(self._python_for(self._environment(folder)))
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
            env["PYTHONPATH"] = os.fspath(package.FOLDER)
        return Home(folder, python, env)

    def _environment(self, folder: Path) -> Environment:
        """What the version itself says that it needs; its files are verified again by the worker."""
        return decode((folder / ENVIRONMENT).read_bytes(), Environment, what=f"{ENVIRONMENT} of a model")
