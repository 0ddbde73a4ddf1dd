"""Bundles of code that were fetched from the owner, kept by their digest for the workers of this machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from fourfold.resources.flows import bundle

MOST_BUNDLES = 32
"""So many are kept; beyond them those that nobody has used for a week go."""
_WEEK_S = 7 * 86400.0


def fetched(digest: str, fetch: Callable[[str], bytes], *, folder: Path | None = None) -> Path:
    """The folder with the code of this digest, fetched now if it is not there; what comes is verified."""
    into = folder or _folder()
    found = into / digest
    if not found.is_dir():
        found = bundle.unpack(fetch(digest), into, digest)
    os.utime(found)
    _prune(into)
    return found


def _folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = Path(base) / "fourfold" / "code"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:  # a home that cannot be written to
        return Path(tempfile.mkdtemp(prefix="fourfold-code-"))
    return path


def _prune(into: Path) -> None:
    with contextlib.suppress(OSError):
        kept = sorted(
            (path for path in into.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime
        )
        newest = kept[-1].stat().st_mtime
        for path in kept[: max(0, len(kept) - MOST_BUNDLES)]:
            if newest - path.stat().st_mtime > _WEEK_S:
                shutil.rmtree(path, ignore_errors=True)
