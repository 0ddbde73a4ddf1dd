"""`fourfold up`: everything that a project runs, in one process and under one roof."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from starlette.types import ASGIApp

from fourfold.core.errors import FourfoldError
from fourfold.server.identity import check_binding
from fourfold.server.listening import bind, listen, url_of
from fourfold.server.problems import log
from fourfold.server.record import ServerRecord, holding, write_record


@dataclass(frozen=True, slots=True)
class Part:
    """Something that runs beside the API: the loop, the gateway. `start` answers its address, if any."""

    name: str
    start: Callable[[], str]
    stop: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Up:
    """What is up, for whoever announces it."""

    url: str
    token_file: Path
    parts: tuple[tuple[str, str], ...]
    """Name and address (or empty) of each part."""
    stop: Callable[[], None]


def up(
    home: Path,
    *,
    host: str,
    port: int,
    has_identity: bool,
    parts: Iterable[Part],
    app: Callable[[str], ASGIApp],
    started_at_us: int,
    announce: Callable[[Up], None],
) -> None:
    """Run until stopped.

    `app` makes the application, given its address. The order is: who holds the project, the port, the
    parts, the requests; and back. So a second server or a taken port changes nothing, and a request is
    answered only when what it needs runs. Each part is stopped, whatever became of the others.
    """
    check_binding(host, has_identity=has_identity)
    with holding(home), contextlib.ExitStack() as stack:
        listener = stack.enter_context(bind(host, port))
        url = url_of(listener)
        running = []
        for part in parts:
            address = part.start()
            stack.callback(_stop, part)
            running.append((part.name, address))

        def ready(stop: Callable[[], None]) -> None:
            gateway = dict(running).get("gateway", "")
            write_record(home, ServerRecord(os.getpid(), url, started_at_us, gateway))
            announce(Up(url, home / "token", tuple(running), stop))

        listen(app(url), listener, on_ready=ready)


def _stop(part: Part) -> None:
    try:
        part.stop()
    except FourfoldError as error:
        log.error("%s did not stop cleanly: %s", part.name, error)
    except Exception:
        log.exception("%s did not stop cleanly", part.name)
