"""Errors as answers: what happened, what to do next, and never a traceback."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.responses import Response

from fourfold.core import wire
from fourfold.core.errors import Defect, FourfoldError, Refused, Remedy

log = logging.getLogger("fourfold.server")

RETRY_AFTER_S = 1


class AtDoor(Exception):
    """An error of ours with a more telling HTTP status than its kind's own (413, 415 and the like)."""

    def __init__(self, status: int, error: FourfoldError, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(error.message)
        self.status = status
        self.error = error
        self.headers = headers or {}


def answer(error: Exception, *, doing: str) -> Response:
    """The HTTP answer to an error that `doing` raised.

    An error that Fourfold raised on purpose travels whole. Anything else is ours to explain: the log
    keeps its traceback under an id, and the client gets the id.
    """
    status, more = 0, {}
    if isinstance(error, AtDoor):
        status, more, error = error.status, dict(error.headers), error.error
    if not isinstance(error, FourfoldError):
        error_id = "err_" + secrets.token_hex(6)
        log.error("%s: %s failed with %s", error_id, doing, type(error).__name__, exc_info=error)
        error = Defect(
            f"{doing} met a defect of Fourfold",
            ways_on=[f"the server's log explains it under {error_id}; please report it"],
            error_id=error_id,
        )
    headers = {"cache-control": "no-store", **more}
    status = status or error.status
    if error.remedy is Remedy.transient and status >= 429:
        headers["retry-after"] = str(RETRY_AFTER_S)
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    return Response(wire.encode(described(error)), status, headers, "application/json")


def described(error: FourfoldError) -> dict[str, Any]:
    """An error as data: `{"error": {code, message, ways_on, facts}}`."""
    return {
        "error": {
            "code": error.code,
            "message": error.message,
            "ways_on": list(error.ways_on),
            "facts": msgspec.to_builtins(error.facts, enc_hook=str, str_keys=True),
        }
    }


def too_large(limit_bytes: int) -> AtDoor:
    """The body is larger than this door takes."""
    return AtDoor(
        413,
        Refused(
            f"the request's body is larger than {limit_bytes} bytes",
            ways_on=["send it in pieces, or raise the setting server.body_bytes"],
            limit_bytes=limit_bytes,
        ),
        {"connection": "close"},
    )
