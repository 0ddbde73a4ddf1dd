"""A disk that can be cut off: what a process that dies, or a machine without power, leaves behind.

Nothing of this is simulated but the cut itself: the code under test works on real files, and calls the
system as ever. Each call that changes or syncs a file counts as a step.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

STEPS = (
    *("fsync", "replace", "rename", "unlink", "mkdir", "link", "utime", "fchmod", "chmod"),
    *("copy_file_range", "sendfile", "write", "ftruncate"),
)
"""The functions of `os` that a cut can come before."""


class Killed(BaseException):
    """The process is dead: no handler of it runs, and what it tries to tidy fails too."""


class Disk:
    """Counts the steps of a write; before one of them it fails, or everything ends."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.steps = 0
        self._fail_at: int | None = None
        self._kill_at: int | None = None
        self._files: dict[int, bytes] = {}
        self._folders: dict[int, dict[str, int]] = {}
        for name in STEPS:
            patch.setattr(os, name, self._counted(name, getattr(os, name)))
        patch.setattr(fcntl, "flock", self._counted("flock", fcntl.flock))

    @contextmanager
    def full_at(self, step: int) -> Iterator[None]:
        """Before this step of the block, the disk says that it is full."""
        self.steps, self._fail_at = 0, step
        try:
            yield
        finally:
            self._fail_at = None

    @contextmanager
    def killed_at(self, step: int) -> Iterator[None]:
        """Before this step of the block the process dies; so does every step after it."""
        self.steps, self._kill_at = 0, step
        try:
            yield
        except Killed:
            pass
        finally:
            self._kill_at = None

    def _counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            if self._kill_at is not None and self.steps >= self._kill_at:
                raise Killed(name)
            self.steps += 1
            if (
                self._fail_at is not None
                and self.steps == self._fail_at + 1
                and name not in {"unlink", "flock"}
            ):
                raise OSError(errno.ENOSPC, "No space left on device", name)
            done = function(*args, **kwargs)
            if name == "fsync":
                self._synced(args[0])
            return done

        return counted

    def _synced(self, descriptor: int) -> None:
        known = os.fstat(descriptor)
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            self._folders[known.st_ino] = {
                entry.name: entry.inode() for entry in os.scandir(f"/proc/self/fd/{descriptor}")
            }
        else:
            self._files[known.st_ino] = Path(f"/proc/self/fd/{descriptor}").read_bytes()

    def after_power_cut(self, folder: Path, into: Path, *, names_last: bool) -> Path:
        """What is left of `folder`: of files what was synced; of names those that were synced, or, where
        the file system happened to write them sooner (`names_last`), all."""
        into.mkdir()
        kept = self._folders.get(folder.stat().st_ino, {})
        for path in folder.iterdir():
            inode = path.stat().st_ino
            if not names_last and kept.get(path.name) != inode:
                continue
            if path.is_dir():
                self.after_power_cut(path, into / path.name, names_last=names_last)
            else:
                (into / path.name).write_bytes(self._files.get(inode, b""))
        return into
