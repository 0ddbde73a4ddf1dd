"""What can be wrong with the place of a table, in our own words."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa

from fourfold.core.errors import Conflict, Corrupted, FourfoldError, NotFound, OutOfSpace, Unavailable

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def no_table(name: str) -> NotFound:
    return NotFound(f"table '{name}' does not exist", ways_on=["see: fourfold table ls"], table=name)


def no_version(name: str, version: int, *, oldest: int = 0, newest: int) -> NotFound:
    return NotFound(
        f"table '{name}' has no version {version}",
        ways_on=[f"its versions: {oldest} to {newest}"],
        table=name,
        version=version,
    )


def vacuumed(name: str, version: int, paths: Sequence[str]) -> NotFound:
    shown = ", ".join(paths[:5]) + (f", and {len(paths) - 5} more" if len(paths) > 5 else "")
    return NotFound(
        f"the rows of table '{name}' at version {version} were vacuumed, or the table was dropped: "
        f"{len(paths)} of its files are gone",
        ways_on=[f"gone: {shown}", "read a newer version (see its history)"],
        table=name,
        version=version,
        files=list(paths[:100]),
    )


@contextmanager
def writable(name: str) -> Iterator[None]:
    """What the place says while it is written to, in our words."""
    try:
        yield
    except OSError as error:
        raise _written(error, name) from error


@contextmanager
def readable(name: str, version: int) -> Iterator[None]:
    """What the place says while a version's files are read, in our words."""
    try:
        yield
    except FileNotFoundError as error:
        raise vacuumed(name, version, [_first_line(error)]) from error
    except (OSError, pa.ArrowException) as error:
        raise Corrupted(
            f"table '{name}' at version {version} cannot be read: {_first_line(error)}",
            ways_on=["read an older version (see its history), or restore its folder from a backup"],
            table=name,
            version=version,
        ) from error


def dropped(name: str) -> Conflict:
    return Conflict(f"table '{name}' was dropped while it was written to", ways_on=["try again"], table=name)


def _written(error: OSError, name: str) -> FourfoldError:
    if isinstance(error, FileNotFoundError):
        return dropped(name)  # its folder is gone
    if error.errno in _FULL:
        return OutOfSpace(
            f"the disk that holds table '{name}' is full; the table is as it was",
            ways_on=["free some space and try again"],
            table=name,
        )
    return Unavailable(
        f"table '{name}' cannot be reached: {_first_line(error)}",
        ways_on=["check that its folder may be read and written"],
        table=name,
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
