"""How the gateway is served over HTTP, and how others in the project reach it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping, MutableMapping, Sequence
from typing import Any, Protocol

from fourfold.core.hosting import Prediction, Scalar, Traffic
from fourfold.core.times import Instant

Asgi = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]],
    Awaitable[None],
]
"""An ASGI application."""


class HttpServer(Protocol):
    """Serves one ASGI application."""

    async def serve(
        self, app: Asgi, *, host: str, port: int, on_listening: Callable[[str, int], Awaitable[None]]
    ) -> None:
        """Serve until `stop`. `on_listening` gets the host and the port really used (any free one if 0).

        A port in use is `Refused`, naming it, before `on_listening`. Requests that have begun are finished.
        """
        ...

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine that calls `serve`, in the event loop in which this server is quickest."""
        ...

    def stop(self) -> None:
        """End `serve`. Repeatable; may be called from a signal handler."""
        ...


class GatewayClient(Protocol):
    """Speaks to a running gateway. `Unavailable` when none answers at the address.

    Errors that the gateway answers come back as what they were (`Refused`, `NotFound`, `TooMuch`, ...).
    """

    def is_alive(self, url: str) -> bool:
        """Whether a gateway of this project answers there."""
        ...

    def predict(
        self,
        url: str,
        endpoint: str,
        rows: Sequence[Mapping[str, Scalar]],
        *,
        t: Instant | None = None,
        deadline_s: float | None = None,
    ) -> tuple[Prediction, ...]: ...

    def feedback(
        self, url: str, endpoint: str, prediction: str, values: Mapping[str, Scalar], at: Instant | None
    ) -> None: ...

    def reconcile(self, url: str) -> None:
        """Say that the catalog has changed, so that it is looked at now."""
        ...

    def flush(self, url: str, endpoint: str) -> int:
        """Write the endpoint's log; the rows written."""
        ...

    def traffic(self, url: str) -> Mapping[str, tuple[str, str, Traffic]]:
        """By endpoint: health, reason, and what it has done."""
        ...

    def stop(self, url: str) -> None:
        """Ask the gateway to flush and end."""
        ...
