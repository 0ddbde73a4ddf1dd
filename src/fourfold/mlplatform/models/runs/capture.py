"""What is noted of a run's surroundings without being asked: its code, its machine, its step."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from types import FrameType

from fourfold.core import context
from fourfold.core.context import Ref
from fourfold.core.errors import FourfoldError, Refused
from fourfold.core.models import Code, CodeFile, Host
from fourfold.core.ports.blobs import Digest
from fourfold.resources.flows import bundle

GIT_TIMEOUT_S = 10.0
DIFF_BYTES = 8 * 2**20
"""The largest diff that is kept; a larger one is most likely data."""

Put = Callable[[bytes], Digest]


def host() -> Host:
    """This machine and process."""
    return Host(
        platform.node(), os.getpid(), f"{platform.system().lower()}-{platform.machine()}", os.cpu_count() or 0
    )


def step() -> tuple[Ref | None, int]:
    """The step that runs now and its attempt."""
    here = context.ambient()
    return (None, 0) if here is None else (here.executing.ref, here.executing.attempt)


def data(given: Iterable[object]) -> tuple[Ref, ...]:
    """The versions a run is given, with those that the present step has read so far."""
    refs: list[Ref] = []
    for each in given:
        ref = each if isinstance(each, Ref) else getattr(each, "ref", None)
        if not isinstance(ref, Ref):
            raise Refused(
                f"data holds {type(each).__name__} {str(each)[:60]!r}, which names no version",
                ways_on=['pass what a table\'s write or history returned, or Ref("table", name, version)'],
            )
        refs.append(ref)
    # A step's ambient collects what the step read; a body's or a test's need not.
    reads: Iterable[Ref] = getattr(context.ambient(), "reads", ())
    refs += [ref for ref in reads if ref.kind in {"table", "training_set", "blob", "feature_service"}]
    return tuple(dict.fromkeys(refs))


def code(put: Put) -> Code:
    """The code of whoever called Fourfold: commit and diff in git, the text of what git lacks."""
    here = context.ambient()
    bundled = here.executing.code if here is not None else ""
    place = _caller()
    if place is None:
        return Code(bundle=bundled)
    files = bundle.closure(place)
    commit, remote, root = _head(place.root)
    if not commit:
        return Code(entry=place.module, files=_keep(files, place.root, put), bundle=bundled)
    diff = _git(root, "diff", "HEAD", "--no-color", "--no-ext-diff", "--binary")
    held = set((_git(root, "ls-files", "-z") or b"").decode(errors="surrogateescape").split("\0"))
    lacking = {
        name: file
        for name, file in files.items()
        if not (file.is_relative_to(root) and file.relative_to(root).as_posix() in held)
    }
    if diff is None or len(diff) > DIFF_BYTES:
        diff, lacking = None, files  # keep the text itself: what ran must be known
    return Code(
        entry=place.module,
        commit=commit,
        remote=remote,
        diff=put(diff) if diff else None,
        files=_keep(lacking, place.root, put),
        bundle=bundled,
    )


def _caller() -> bundle.Place | None:
    """Where the innermost caller outside Fourfold lives; `None` for a console or a notebook."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001  (documented, and the only way to look)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name != "fourfold" and not name.startswith(("fourfold.", "contextlib", "importlib.")):
            module = sys.modules.get(name)
            try:
                return None if module is None else bundle.place_of(module)
            except FourfoldError:
                return None
        frame = frame.f_back
    return None


def _keep(files: dict[str, Path], root: Path, put: Put) -> tuple[CodeFile, ...]:
    kept = []
    for name, file in files.items():
        path = file.relative_to(root).as_posix() if file.is_relative_to(root) else name.replace(".", "/")
        kept.append(CodeFile(path, put(file.read_bytes())))
    return tuple(kept)


@lru_cache(maxsize=16)
def _head(folder: Path) -> tuple[str, str, Path]:
    """Commit, remote address and root of the git work tree; empty outside of one.

    Asked once a process: a commit made while it runs is not what it runs.
    """
    top = _git(folder, "rev-parse", "HEAD", "--show-toplevel")
    if top is None:
        return "", "", folder
    commit, root = top.decode(errors="replace").split("\n")[:2]
    remote = (_git(folder, "config", "--get", "remote.origin.url") or b"").decode(errors="replace").strip()
    return commit, _without_secret(remote), Path(root).resolve()


def _without_secret(address: str) -> str:
    """An address without the user and token that some people write into it.

    >>> _without_secret("https://me:token@example.com/a.git")
    'https://example.com/a.git'
    """
    scheme, sign, rest = address.partition("://")
    return scheme + sign + rest.rpartition("@")[2] if sign else address


def _git(folder: Path, *arguments: str) -> bytes | None:
    """What git answers; `None` when it is not there, or refuses."""
    try:
        done = subprocess.run(
            ["git", "-C", os.fspath(folder), *arguments],
            capture_output=True,
            timeout=GIT_TIMEOUT_S,
            check=False,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
