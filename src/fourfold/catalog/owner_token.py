"""The project's owner token: who can read the file may do everything with the project."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from fourfold.core.errors import Refused

TOKEN_BYTES = 32


def owner_token(home: Path) -> str:
    """The project's owner token, made at first use in a file that only its owner can read."""
    path = home / "token"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
        token = path.read_text().strip()
        if len(token) < TOKEN_BYTES:
            raise Refused(
                f"the token file {path} is damaged",
                ways_on=["remove it; the next 'fourfold up' makes a new one"],
            ) from None
        return token
    token = "ff_" + secrets.token_urlsafe(TOKEN_BYTES)
    with os.fdopen(descriptor, "w") as file:
        file.write(token + "\n")
        file.flush()
        os.fsync(file.fileno())
    return token
