"""The calls that change a local disk, each one step: what a fault can come between."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa


class Disk:
    """The disk itself. Tests put one in its place that dies, is full, or forgets what was not synced."""

    def write(self, path: Path, data: bytes) -> None:
        """Make a new file of these bytes."""
        with path.open("xb") as file:
            file.write(data)

    def sink(self, path: Path) -> pa.NativeFile:
        """Make a new file and write to it as it grows."""
        return pa.OSFile(str(path), "wb")

    def sync(self, path: Path) -> None:
        """Wait until a file's bytes, or a folder's names, are on the disk."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def link(self, path: Path, name: Path) -> None:
        """Give a file a second name, which nothing may have yet."""
        os.link(path, name)

    def rename(self, path: Path, name: Path) -> None:
        path.rename(name)

    def unlink(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def rmdir(self, path: Path) -> None:
        """Remove a folder in which nothing is."""
        path.rmdir()

    def mkdir(self, path: Path) -> None:
        path.mkdir(exist_ok=True)
