"""The project's owner token: who can read the file may do everything with the project."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from fourfold.core.errors import Refused

TOKEN_BYTES = 32


def owner_token(home: Path) -> str:
    """The project's owner token, made at first use in a file that only its owner can read."""
    path = home / "token"
    if not path.exists():
        _make(path)
    if path.stat().st_mode & 0o077:
        path.chmod(0o600)
    token = path.read_text().strip()
    if len(token) < TOKEN_BYTES:
        raise Refused(
            f"the token file {path} is damaged",
            ways_on=["remove it; the next 'fourfold up' makes a new one"],
        )
    return token


def _make(path: Path) -> None:
    """Make the file whole or not at all; of several processes that do, the first one's stays."""
    new = path.with_name(f".token-{secrets.token_hex(8)}")
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write("ff_" + secrets.token_urlsafe(TOKEN_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(new, path)
    finally:
        new.unlink(missing_ok=True)
