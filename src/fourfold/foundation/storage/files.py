"""The caller's own files: what is wrong with one, or with where it shall be, in words."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fourfold.core.errors import NotFound, OutOfSpace, Refused


@contextmanager
def callers_file(path: Path) -> Iterator[None]:
    """Within the block, say in words what is wrong with the file that was named."""
    try:
        yield
    except (FileNotFoundError, IsADirectoryError) as error:
        raise NotFound(f"{path} is not a file", ways_on=["name one file"], path=str(path)) from error
    except PermissionError as error:
        raise Refused(f"{path} may not be read", ways_on=["check its mode"], path=str(path)) from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within the block, say in words that there is no space for what is written."""
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise
        raise OutOfSpace(
            f"the disk that holds {path.parent} is full; nothing was put there",
            ways_on=["free some space and try again"],
            path=str(path),
        ) from error
