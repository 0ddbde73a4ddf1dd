"""Refusals as Kubernetes words them: a `Status` with a reason and a code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class ApiError(Exception):
    """An answer that is no success."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        *,
        details: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.headers = dict(headers or {})
        self.status = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "details": dict(details or {}),
            "code": code,
        }


def not_found(plural: str, name: str) -> ApiError:
    details = {"name": name, "kind": plural}
    return ApiError(404, "NotFound", f'{plural} "{name}" not found', details=details)


def already_exists(plural: str, name: str) -> ApiError:
    details = {"name": name, "kind": plural}
    return ApiError(409, "AlreadyExists", f'{plural} "{name}" already exists', details=details)


def conflict(plural: str, name: str, why: str = "") -> ApiError:
    why = why or (
        "the object has been modified; please apply your changes to the latest version and try again"
    )
    message = f'Operation cannot be fulfilled on {plural} "{name}": {why}'
    return ApiError(409, "Conflict", message, details={"name": name, "kind": plural})


def bad_request(message: str) -> ApiError:
    return ApiError(400, "BadRequest", message)


def invalid(kind: str, name: str, causes: Sequence[tuple[str, str]]) -> ApiError:
    """Of a body that has the right shape and makes no sense: each field, and what is wrong with it."""
    said = ", ".join(f"{field}: {what}" for field, what in causes)
    details = {
        "name": name,
        "kind": kind,
        "causes": [
            {"reason": "FieldValueInvalid", "field": field, "message": what} for field, what in causes
        ],
    }
    return ApiError(422, "Invalid", f'{kind} "{name}" is invalid: {said}', details=details)


def gone(message: str) -> ApiError:
    return ApiError(410, "Expired", message)
