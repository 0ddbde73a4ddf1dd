"""What is said to a machine that has neither Fourfold nor the environment of a run: both are brought there.

A *starter* is what runs there before a worker: it asks for our package (by the digest that its launch names)
and for the plan (which environment, of which lock), says that it is alive while it builds that, and in the
end becomes the worker, or tells why it cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Protocol

from fourfold.core.compute import EnvironmentRecord
from fourfold.core.errors import FourfoldError, Remedy
from fourfold.core.ports.control import Arrival, Away, Message, Preparing, Unready, WorkerSpec
from fourfold.core.ports.engine import Capabilities
from fourfold.foundation.compute.ourselves import application, starter
from fourfold.resources.pools.pool import Pool, PoolPlan

DEFAULT_PYTHON = "python3"


@dataclass(frozen=True, slots=True)
class Brought:
    """What workers elsewhere are brought."""

    environment: Callable[[str], EnvironmentRecord]
    """An environment with its lock, by its identity."""
    settings: Callable[[], str] = str
    """The text of the project's settings file."""


class Send(Protocol):
    def __call__(self, peer: str, header: dict[str, Any], parts: Sequence[bytes] = ()) -> None: ...


class Starters:
    """Answers starters. Called by the loop's thread; what takes time is done beside it."""

    def __init__(
        self,
        brought: Brought,
        *,
        installation: str,
        send: Send,
        tell: Callable[[Arrival], None],
        beside: Executor,
    ) -> None:
        """`send` may be called from any thread; `tell` hands something to the loop."""
        self._brought = brought
        self._installation = installation
        self._send = send
        self._tell = tell
        self._beside = beside

    def python(self, plan: PoolPlan, able: Capabilities) -> str:
        """What a worker of a pool begins with, where it must be brought things; else ""."""
        if not plan.outlives:  # nobody there reaches us
            return ""
        return plan.python or ("" if able.shares_files else DEFAULT_PYTHON)

    def argv(self, python: str) -> tuple[str, ...]:
        return (python, "-I", "-c", starter())

    def environ(self, plan: PoolPlan, able: Capabilities) -> dict[str, str]:
        """What a starter finds in its environment variables beside what workers do."""
        told = {"FOURFOLD_RUNNER": application().digest}
        if plan.cache:
            told["FOURFOLD_CACHE"] = plan.cache
        if plan.cache_bytes:
            told["FOURFOLD_CACHE_BYTES"] = str(plan.cache_bytes)
        if not able.shares_files:
            told["FOURFOLD_AFAR"] = "1"
        return told

    def heard(self, message: Message, worker: str, spec: WorkerSpec | None, pool: Pool | None) -> None:
        """A word from a starter; `spec` and `pool` are those of its worker, as long as it is wanted."""
        peer, kind = message.peer, message.header["type"]
        if kind == "left":
            if pool is not None:
                pool.preparing(worker, is_there=False)
                self._tell(Away(worker))
            return
        if spec is None or pool is None:
            told = "this worker was given up, and its work is done elsewhere"
            self._send(peer, {"type": "refused", "key": "", "reason": told, "is_stale": True})
            return
        pool.preparing(worker, is_there=True)
        self._tell(Preparing(worker))
        match kind:
            case "application":
                self._beside.submit(self._tell_application, peer, str(message.header["digest"]))
            case "plan":
                self._beside.submit(self._tell_plan, peer, worker, spec)
            case "unready":
                self._unready(worker, message.header)
                self._send(peer, {"type": "heard"})
            case _:
                self._send(peer, {"type": "heard"})

    def _tell_application(self, peer: str, digest: str) -> None:
        ours = application()
        parts = [ours.data] if ours.digest == digest else []
        told = "" if parts else f"it was asked for {digest[:16]}, and has {ours.digest[:16]}"
        self._send(peer, {"type": "application", "reason": told}, parts)

    def _tell_plan(self, peer: str, worker: str, spec: WorkerSpec) -> None:
        try:
            record, settings = self._brought.environment(spec.environment), self._brought.settings()
        except FourfoldError as error:
            is_permanent = error.remedy is Remedy.permanent
            self._tell(Unready(worker, str(error), type(error).__name__, is_permanent))
            return
        plan = {
            "environment": record.identity,
            "python": record.python,
            "platform": record.platform,
            "lock": record.lock,
            "settings": settings,
            "installation": self._installation,
        }
        self._send(peer, {"type": "plan", **plan})

    def _unready(self, worker: str, header: dict[str, Any]) -> None:
        reason, error = str(header["message"])[:4000], str(header["code"])[:80]
        self._tell(Unready(worker, reason, error, bool(header["is_permanent"])))
