"""Fourfold itself as one zip application, named by its content: what a machine without it is sent.

It holds the package without the HTTP server, which no step needs, and begins with `fourfold.runner.prepare`.
Equal files give equal bytes.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fourfold.core.package import FOLDER

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip can hold
_LEFT_OUT = frozenset({"__pycache__", "server"})
_BEGINS = "from fourfold.runner.prepare import main\n\nmain()\n"


@dataclass(frozen=True, slots=True)
class Application:
    """Our own package, packed."""

    digest: str
    """SHA-256: what begins on the other machine has the standard library only."""
    data: bytes


@cache
def application() -> Application:
    """The package as it is here. Packed once per process."""
    root = Path(FOLDER) / "fourfold"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr(zipfile.ZipInfo("__main__.py", _EPOCH), _BEGINS, zipfile.ZIP_DEFLATED)
        for path in sorted(root.rglob("*")):
            inside = path.relative_to(root)
            if path.is_file() and not _LEFT_OUT & set(inside.parts):
                name = zipfile.ZipInfo(f"fourfold/{inside.as_posix()}", _EPOCH)
                packed.writestr(name, path.read_bytes(), zipfile.ZIP_DEFLATED)
    data = buffer.getvalue()
    return Application(hashlib.sha256(data).hexdigest(), data)


@cache
def starter() -> str:
    """The text of what fetches the application there: `python3 -I -c TEXT`."""
    return (Path(FOLDER) / "fourfold" / "runner" / "start.py").read_text(encoding="utf-8")
