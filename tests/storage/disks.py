"""Disks that die, are full, or forget: put in the place of the one under `LocalPlace`."""

from __future__ import annotations

import errno
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from fourfold.adapters.delta.disk import Disk


class Killed(BaseException):
    """The process died. Nothing in it may catch this, and nothing it does afterwards reaches the disk."""


class QuickDisk(Disk):
    """A disk that syncs nothing: where only the process dies, it makes no difference."""

    def sync(self, path: Path) -> None:
        if not path.exists():
            raise FileNotFoundError(path)


class CutDisk(Disk):
    """Counts its steps, and fails at one of them and every later one.

    With `error` the disk is full: what takes room fails from then on, and removing works. Without it the
    process is dead.
    """

    def __init__(self, under: Disk | None = None) -> None:
        self.under = under or QuickDisk()
        self.steps: list[str] = []
        self.cut_at: int | None = None
        self.error: int | None = None
        self._lock = threading.Lock()

    def arm(self, cut_at: int | None, error: int | None = None) -> None:
        self.steps, self.cut_at, self.error = [], cut_at, error

    @property
    def was_cut(self) -> bool:
        return self.cut_at is not None and len(self.steps) > self.cut_at

    def step(self, what: str) -> None:
        with self._lock:
            self.steps.append(what)
            if not self.was_cut:
                return
        if self.error is None:
            raise Killed(what)
        if what not in {"unlink", "sync"}:
            raise OSError(self.error, os.strerror(self.error))

    def write(self, path: Path, data: bytes) -> None:
        self.step("create")
        self.under.write(path, data[: len(data) // 2])
        self.step("write")
        with path.open("ab") as file:
            file.write(data[len(data) // 2 :])

    def sink(self, path: Path) -> pa.NativeFile:
        self.step("create")
        return pa.PythonFile(_Sink(self, self.under.sink(path)), mode="w")

    def sync(self, path: Path) -> None:
        self.step("sync")
        self.under.sync(path)

    def link(self, path: Path, name: Path) -> None:
        self.step("link")
        self.under.link(path, name)

    def rename(self, path: Path, name: Path) -> None:
        self.step("rename")
        self.under.rename(path, name)

    def unlink(self, path: Path) -> None:
        self.step("unlink")
        self.under.unlink(path)

    def rmdir(self, path: Path) -> None:
        self.step("unlink")
        self.under.rmdir(path)

    def mkdir(self, path: Path) -> None:
        if path.exists():
            return
        self.step("mkdir")
        self.under.mkdir(path)


class _Sink:
    """A file whose writes are steps."""

    closed = False

    def __init__(self, disk: CutDisk, under: pa.NativeFile) -> None:
        self._disk, self._under = disk, under

    def write(self, data: Any) -> int:
        self._disk.step("write")
        self._under.write(data)
        return len(data)

    def tell(self) -> int:
        return int(self._under.tell())

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True
        self._under.close()


class ForgetfulDisk(Disk):
    """Knows what was synced, and can tell what a power cut would leave."""

    def __init__(self) -> None:
        self._bytes: dict[int, bytes] = {}
        self._names: dict[int, dict[str, int]] = {}
        self._is_folder: dict[int, bool] = {}
        self._held: list[int] = []
        """Open files, so that no inode's number is used twice."""

    def sync_all(self, folder: Path) -> None:
        """Take all of a folder for synced."""
        for path in (folder, *folder.rglob("*")):
            self.sync(path)

    def sync(self, path: Path) -> None:
        inode = self._hold(path)
        if not path.is_dir():
            self._bytes[inode] = path.read_bytes()
            return
        names = {}
        for entry in path.iterdir():
            with suppress(FileNotFoundError):  # another thread renamed it since
                names[entry.name] = self._hold(entry)
        self._names[inode] = names

    def after_a_cut(self, root: Path, target: Path, *, names_last: bool) -> None:
        """Make `target` what `root` is after a power cut: bytes are there only if they were synced.

        Names are there if their folder was synced; with `names_last`, also if it was not, as a disk may
        write names sooner than bytes.
        """
        target.mkdir()
        inode = root.stat().st_ino
        names = dict(self._names.get(inode, {}))
        if names_last and root.exists():
            names = {entry.name: entry.stat().st_ino for entry in root.iterdir()}
        for name, number in sorted(names.items()):
            if self._is_folder.get(number, (root / name).is_dir()):
                self._folder_after(root / name, number, target / name, names_last=names_last)
            else:
                (target / name).write_bytes(self._bytes.get(number, b'{"add":'))

    def _folder_after(self, path: Path, inode: int, target: Path, *, names_last: bool) -> None:
        if path.exists() and path.stat().st_ino == inode:
            self.after_a_cut(path, target, names_last=names_last)
            return
        target.mkdir()  # renamed since: what it holds is known by its number only
        for name, number in sorted(self._names.get(inode, {}).items()):
            if self._is_folder.get(number):
                self._folder_after(path / name, number, target / name, names_last=names_last)
            else:
                (target / name).write_bytes(self._bytes.get(number, b""))

    def forget(self) -> None:
        """Begin anew."""
        for descriptor in self._held:
            os.close(descriptor)
        self.__dict__.update(ForgetfulDisk().__dict__)

    def _hold(self, path: Path) -> int:
        status = path.stat()
        if status.st_ino not in self._is_folder:
            self._held.append(os.open(path, os.O_RDONLY))
            self._is_folder[status.st_ino] = path.is_dir()
        return status.st_ino


FULL = errno.ENOSPC
