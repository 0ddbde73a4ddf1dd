"""Tables on a local disk: nothing has a name before its bytes are synced."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from fourfold.adapters.delta.disk import Disk
from fourfold.adapters.delta.place import StoredFile
from fourfold.adapters.delta.turns import Turn
from fourfold.core.times import Instant

_UNFINISHED = ".unfinished-"
"""What a file is called before its bytes are synced; a killed writer leaves it to the next vacuum."""
_DROPPED = ".dropped-"


class LocalPlace:
    """A folder of a local disk. What was acknowledged survives `kill -9` and a power cut."""

    def __init__(self, root: Path, disk: Disk | None = None) -> None:
        self._root = root
        self._disk = disk or Disk()
        self._rooted: set[Path] = set()
        """Folders whose own names are on the disk."""
        new = [path for path in (root, *root.parents) if not path.exists()]
        root.mkdir(parents=True, exist_ok=True)
        for path in new:
            self._disk.sync(path.parent)
        for half_dropped in [*root.glob(f"{_DROPPED}*"), *root.glob(f"*/_branches/{_DROPPED}*")]:
            shutil.rmtree(half_dropped, ignore_errors=True)

    def __repr__(self) -> str:
        return str(self._root)

    # Names that stand for something

    def put_if_absent(self, path: str, data: bytes) -> bool:
        target = self._root / path
        self._make(target.parent)
        unfinished = self._write(target, data)
        try:
            self._disk.link(unfinished, target)
        except FileExistsError:
            return False
        finally:
            with suppress(OSError):
                self._disk.unlink(unfinished)
        self._disk.sync(target.parent)
        return True

    def put(self, path: str, data: bytes) -> None:
        target = self._root / path
        self._make(target.parent)
        self._replace(target, self._write(target, data))

    def put_pieces(self, path: str, pieces: Iterable[bytes]) -> None:
        target = self._root / path
        unfinished = f"{path.rpartition('/')[0]}/{_UNFINISHED}{secrets.token_hex(8)}"
        with self.new_file(unfinished) as sink:
            for piece in pieces:
                sink.write(piece)
        self._replace(target, self._root / unfinished)

    def get(self, path: str) -> bytes | None:
        try:
            with open(f"{self._root}/{path}", "rb", buffering=0) as file:
                return file.read()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def get_many(self, paths: Sequence[str]) -> list[bytes | None]:
        return [self.get(path) for path in paths]

    def tag(self, path: str) -> str | None:
        try:
            status = os.stat(f"{self._root}/{path}")
        except (FileNotFoundError, NotADirectoryError):
            return None
        return f"{status.st_ino}-{status.st_mtime_ns}-{status.st_size}"

    @contextmanager
    def turn(self, folder: str) -> Iterator[None]:
        path = self._root / folder
        while True:
            self._make(path)
            try:
                turn = Turn(path)
            except FileNotFoundError:
                continue  # dropped this moment
            try:
                if not turn.is_valid:
                    continue
                yield
                return
            finally:
                turn.end()

    # Data files

    @contextmanager
    def new_file(self, path: str) -> Iterator[pa.NativeFile]:
        target = self._root / path
        self._make(target.parent)
        try:
            with self._disk.sink(target) as sink:
                yield sink
            self._disk.sync(target)
        except BaseException:
            with suppress(OSError):
                self._disk.unlink(target)
            raise

    def settle(self, paths: Sequence[str]) -> None:
        for folder in sorted({(self._root / path).parent for path in paths}):
            self._disk.sync(folder)

    def secure(self, paths: Sequence[str]) -> None:
        there = [path for path in (self._root / path for path in paths) if path.exists()]
        for path in there:
            self._disk.sync(path)
        for folder in sorted({path.parent for path in there}):
            self._disk.sync(folder)

    @property
    def is_far(self) -> bool:
        return False

    @property
    def filesystem(self) -> pafs.FileSystem:
        return pafs.LocalFileSystem()

    def located(self, path: str) -> str:
        return str(self._root / path)

    # Listing and removing

    def files(self, folder: str, *, after: str = "", deep: bool = False) -> list[StoredFile]:
        return sorted(_walk(self._root / folder, "", after, deep=deep), key=lambda file: file.path)

    def folders(self, folder: str) -> list[str]:
        try:
            with os.scandir(self._root / folder) as found:
                return sorted(entry.name for entry in found if entry.is_dir() and entry.name[0] != ".")
        except (FileNotFoundError, NotADirectoryError):
            return []

    def missing(self, paths: Sequence[str]) -> list[str]:
        return [path for path in paths if not os.path.exists(f"{self._root}/{path}")]

    def delete(self, paths: Iterable[str]) -> None:
        for path in paths:
            self._disk.unlink(self._root / path)

    def prune(self, folders: Iterable[str]) -> None:
        for folder in folders:
            path = self._root / folder
            with suppress(OSError):  # it is gone, or something is in it
                self._disk.rmdir(path)
                self._rooted.discard(path)
                self._disk.sync(path.parent)

    def remove(self, folder: str) -> None:
        target = self._root / folder
        gone = target.with_name(f"{_DROPPED}{target.name}-{secrets.token_hex(4)}")
        self._rooted = {path for path in self._rooted if path != target and target not in path.parents}
        with suppress(FileNotFoundError):
            self._disk.rename(target, gone)
            self._disk.sync(target.parent)
        shutil.rmtree(gone, ignore_errors=True)

    def mend(self, path: str) -> bool:
        torn = self._root / path
        with suppress(FileNotFoundError):
            self._disk.rename(torn, torn.with_name(f"{torn.name}.torn"))
        return True

    # Inside

    def _write(self, target: Path, data: bytes) -> Path:
        """The bytes, synced, under a name that no one looks for."""
        path = target.with_name(f"{_UNFINISHED}{secrets.token_hex(8)}")
        try:
            self._disk.write(path, data)
            self._disk.sync(path)
        except BaseException:
            with suppress(OSError):
                self._disk.unlink(path)
            raise
        return path

    def _replace(self, target: Path, unfinished: Path) -> None:
        try:
            self._disk.rename(unfinished, target)
        except OSError:
            self._disk.unlink(unfinished)
            raise
        self._disk.sync(target.parent)

    def _make(self, folder: Path) -> None:
        """Make a folder and those above it, their names on the disk."""
        if folder in self._rooted and folder.exists():
            return
        if folder != self._root:
            self._make(folder.parent)
            self._disk.mkdir(folder)
            self._disk.sync(folder.parent)
        self._rooted.add(folder)


def _walk(folder: Path, prefix: str, after: str, *, deep: bool) -> Iterator[StoredFile]:
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        path = prefix + entry.name
        if entry.name.startswith(_DROPPED):
            continue
        with suppress(FileNotFoundError):  # gone since it was listed
            if entry.is_dir():
                if deep:
                    yield from _walk(Path(entry.path), f"{path}/", after, deep=True)
            elif path > after:
                status = entry.stat()
                yield StoredFile(path, status.st_size, Instant(status.st_mtime_ns // 1000))
