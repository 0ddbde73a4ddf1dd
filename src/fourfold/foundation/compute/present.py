"""The environment of the process that calls, remembered where the project is kept."""

from __future__ import annotations

from typing import Protocol

from fourfold.core.environment import Environment
from fourfold.foundation.compute.environments import Environments


class Remember(Protocol):
    """`core.services.compute.Compute.remember_environment`, here or on a server."""

    def __call__(self, identity: str, *, python: str, platform: str, lock: str, origin: str) -> None: ...


class PresentEnvironment:
    """Fulfils `present_environment` of `core.services.compute.Compute`, beside the project and from afar.

    Training happens where it is called; so what is identified is this process's environment, never the
    server's.
    """

    def __init__(self, environments: Environments, remember: Remember) -> None:
        self._environments = environments
        self._remember = remember
        self._remembered = ""

    def present_environment(self) -> Environment:
        """The project's environment (its lock's, else what is installed), remembered once per process."""
        locked = self._environments.present()
        found = locked.environment
        if found.identity != self._remembered:
            self._remember(
                found.identity,
                python=found.python,
                platform=found.platform,
                lock=locked.lock,
                origin=locked.origin,
            )
            self._remembered = found.identity
        return found
