"""What tables need of where they lie: the same on a disk and in an object store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa
import pyarrow.fs as pafs

from fourfold.core.times import Instant


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file as a listing tells it."""

    path: str
    """Relative to the folder that was listed."""
    size_bytes: int
    modified: Instant
    """By the place's own clock, which may have whole seconds only."""


class Place(Protocol):
    """Keeps files under paths such as `flights/_delta_log/00000000000000000000.json`.

    Paths are relative, with `/` between their parts; a folder is there when a file in it is. Files are
    written once, whole, and never changed, but for what `put` replaces. Calls may come from several threads.

    Errors are ours already (`OutOfSpace`, `Unavailable`, `Refused`), or `OSError`, which the callers put into
    words. What is not there is `None`, an empty listing, or nothing to delete, never an error.
    """

    # Names that stand for something

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """Store bytes under a name that nothing has; false when something has it.

        Of all who try at once, one succeeds. Once it returned true, the bytes and the name survive
        whatever the place promises to survive; the name is never seen with other bytes, nor with half of
        them. When it raises, the name may stand for the bytes or not: look.
        """
        ...

    def put(self, path: str, data: bytes) -> None:
        """Store bytes in the place of what the name stood for; readers see the old ones or the new."""
        ...

    def put_pieces(self, path: str, pieces: Iterable[bytes]) -> None:
        """The same for bytes that come one piece after the other, and are never held all at once."""
        ...

    def get(self, path: str) -> bytes | None:
        """All bytes of a file, `None` when it is not there."""
        ...

    def get_many(self, paths: Sequence[str]) -> list[bytes | None]:
        """`get` for each of the paths; at once, where each is a question to somebody far away."""
        ...

    def tag(self, path: str) -> str | None:
        """What changes when other bytes get this name; `None` when it is not there."""
        ...

    def turn(self, folder: str) -> AbstractContextManager[None]:
        """Waits for one's turn to commit to the log in `folder`; turns go by who asked first.

        It spares writers of one place lost tries. Nothing relies on it: where there are no locks, it
        keeps only the threads of this process apart.
        """
        ...

    # Data files

    def new_file(self, path: str) -> AbstractContextManager[pa.NativeFile]:
        """A sink for a new file, whose name nobody else uses. Its bytes are safe once the block has ended;
        when the block raises, no file is left."""
        ...

    def settle(self, paths: Sequence[str]) -> None:
        """Make the names of new files as safe as their bytes, before any version names them."""
        ...

    def secure(self, paths: Sequence[str]) -> None:
        """Make files and names safe that another program wrote, and that we are about to build on."""
        ...

    @property
    def is_far(self) -> bool:
        """Whether every question takes a while, so that much is asked at once and ahead."""
        ...

    @property
    def filesystem(self) -> pafs.FileSystem:
        """Where Arrow reads data files."""
        ...

    def located(self, path: str) -> str:
        """A path as `filesystem` takes it."""
        ...

    # Listing and removing

    def files(self, folder: str, *, after: str = "", deep: bool = False) -> list[StoredFile]:
        """The files of a folder, sorted by path, those greater than `after`; with `deep`, of all below it."""
        ...

    def folders(self, folder: str) -> list[str]:
        """The names of the folders in a folder, sorted."""
        ...

    def missing(self, paths: Sequence[str]) -> list[str]:
        """Those of the paths at which no file is."""
        ...

    def delete(self, paths: Iterable[str]) -> None:
        """Remove files."""
        ...

    def prune(self, folders: Iterable[str]) -> None:
        """Remove folders in which nothing is any more: their names may tell something."""
        ...

    def remove(self, folder: str) -> None:
        """Remove a folder with all in it; from its first moment on nobody takes it for a table."""
        ...

    def mend(self, path: str) -> bool:
        """Put aside a file that a power cut tore; false where no file can be torn."""
        ...
