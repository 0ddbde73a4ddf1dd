"""The disk under the tables: syncing, and what can be wrong with it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
from deltalake.exceptions import DeltaError

from fourfold.core.errors import Corrupted, FourfoldError, OutOfSpace, Unavailable

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def translated(error: DeltaError | OSError, name: str) -> FourfoldError:
    """Our error for one of `deltalake`'s, which tells what the disk said only in words."""
    text = str(error)
    if "No space left" in text or "os error 28" in text or "File too large" in text or is_full(error):
        return _full(name)
    if isinstance(error, OSError) or "os error" in text:
        return Unavailable(
            f"table '{name}' cannot be reached: {_first_line(error)}",
            ways_on=["check that its folder may be read and written"],
            table=name,
        )
    return Corrupted(
        f"table '{name}' cannot be used: {_first_line(error)}",
        ways_on=["check its folder, or restore it from a backup"],
        table=name,
    )


def is_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in _FULL


@contextmanager
def out_of_space(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise _full(name) from error
        raise


@contextmanager
def readable(name: str, version: int) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException, DeltaError) as error:
        raise Corrupted(
            f"table '{name}' at version {version} cannot be read: {_first_line(error)}",
            ways_on=["read an older version (see its history), or restore its folder from a backup"],
            table=name,
            version=version,
        ) from error


def _full(name: str) -> OutOfSpace:
    return OutOfSpace(
        f"the disk that holds table '{name}' is full; the table is as it was",
        ways_on=["free some space and try again"],
        table=name,
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
