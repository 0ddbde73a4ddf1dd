"""The caller's own files as blobs: what a process does for itself when the store is behind a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fourfold.core.errors import NotFound, Refused
from fourfold.core.storage import Digest

if TYPE_CHECKING:
    from collections.abc import Iterable

PIECE_BYTES = 2**20


class CallersFiles:
    """Fulfils `put_file` of `core.services.storage.Storage` by its `put_blob`."""

    def __init__(self, put_blob: Callable[[Iterable[bytes]], Digest]) -> None:
        self._put_blob = put_blob

    def put_file(self, path: Path) -> Digest:
        """Store a file's bytes under their digest; it is sent in pieces and need not fit in memory."""
        with callers_file(path), path.open("rb") as file:
            return self._put_blob(iter(lambda: file.read(PIECE_BYTES), b""))


@contextmanager
def callers_file(path: Path) -> Iterator[None]:
    """Within the block, say in words what is wrong with the file that was named."""
    try:
        yield
    except (FileNotFoundError, IsADirectoryError) as error:
        raise NotFound(f"{path} is not a file", ways_on=["name one file"], path=str(path)) from error
    except PermissionError as error:
        raise Refused(f"{path} may not be read", ways_on=["check its mode"], path=str(path)) from error
