"""The caller's own files: what is wrong with one, in words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fourfold.core.errors import NotFound, Refused


@contextmanager
def callers_file(path: Path) -> Iterator[None]:
    """Within the block, say in words what is wrong with the file that was named."""
    try:
        yield
    except (FileNotFoundError, IsADirectoryError) as error:
        raise NotFound(f"{path} is not a file", ways_on=["name one file"], path=str(path)) from error
    except PermissionError as error:
        raise Refused(f"{path} may not be read", ways_on=["check its mode"], path=str(path)) from error
