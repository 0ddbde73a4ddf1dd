"""Where Iceberg's files lie: on a local disk, synced before anything names them, or in an object store.

`pyiceberg` syncs nothing. All that it writes (data, manifests, metadata) it writes through its `FileIO`, so
ours syncs each file, and its folder, when it is closed: before the catalog can name it.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
from pyiceberg.io import InputFile, OutputFile, OutputStream
from pyiceberg.io.pyarrow import PyArrowFile, PyArrowFileIO

WRITE_BYTES = 1 << 20
_PLACES: dict[str, Place] = {}
"""What a name in a catalog's properties stands for: `pyiceberg` makes its `FileIO` from texts alone."""


@dataclass(frozen=True, slots=True)
class Place:
    """A root below which tables lie, and how to get at it."""

    root: str
    """`file:///folder` or `s3://bucket/prefix`."""
    filesystem: pafs.FileSystem
    """For a store: over paths below `root`. For a disk: over absolute paths."""

    @property
    def is_local(self) -> bool:
        return self.root.startswith("file://")

    def properties(self) -> dict[str, str]:
        """What to tell a catalog, so that its tables' files are read and written here."""
        _PLACES[self.root] = self
        return {"py-io-impl": f"{PlacedIO.__module__}.{PlacedIO.__name__}", "fourfold.place": self.root}

    def path(self, location: str) -> str | None:
        """A location as the file system takes it; `None` where it lies elsewhere."""
        if not location.startswith(f"{self.root.rstrip('/')}/"):
            return None
        return location.removeprefix("file://") if self.is_local else location[len(self.root) :].lstrip("/")


class PlacedIO(PyArrowFileIO):
    """Reads and writes the files of one place by its own file system, and others as `pyiceberg` does."""

    def __init__(self, properties: Any = None) -> None:
        super().__init__(properties or {})
        self._place = _PLACES[self.properties["fourfold.place"]]

    def new_input(self, location: str) -> PyArrowFile:
        path = self._place.path(location)
        if path is None:
            return super().new_input(location)
        return PyArrowFile(location, path, self._place.filesystem)

    def new_output(self, location: str) -> PyArrowFile:
        path = self._place.path(location)
        if path is None:
            return super().new_output(location)
        if self._place.is_local:
            return _SyncedFile(location, path, self._place.filesystem)
        return PyArrowFile(location, path, self._place.filesystem)

    def delete(self, location: str | InputFile | OutputFile) -> None:
        text = location if isinstance(location, str) else location.location
        path = self._place.path(text)
        if path is None:
            super().delete(location)
        else:
            self._place.filesystem.delete_file(path)

    def remove_all(self, location: str) -> None:
        """Remove all files below a location of this place."""
        path = self._place.path(location)
        if path is not None and self._place.filesystem.get_file_info(path).type == pafs.FileType.Directory:
            self._place.filesystem.delete_dir(path)


class _SyncedFile(PyArrowFile):
    """A local file that is on the disk, under its name, once its stream is closed."""

    def create(self, overwrite: bool = False) -> OutputStream:
        path = Path(self._path)
        _make(path.parent)
        return io.BufferedWriter(_SyncedStream(path, "w" if overwrite else "x"), WRITE_BYTES)


class _SyncedStream(io.FileIO):
    def __init__(self, path: Path, mode: str) -> None:
        super().__init__(path, mode)
        self._folder = path.parent

    def close(self) -> None:
        if not self.closed:
            try:
                os.fsync(self.fileno())
            finally:
                super().close()
            sync_folder(self._folder)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make(folder: Path) -> None:
    """Make a folder and those above it, their names on the disk."""
    if not folder.is_dir():
        _make(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)
