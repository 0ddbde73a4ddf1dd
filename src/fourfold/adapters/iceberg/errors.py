"""What can go wrong with Iceberg, in our words."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
from pyiceberg import exceptions as theirs

from fourfold.core.errors import Corrupted, FourfoldError, NotFound, OutOfSpace, Refused, Unavailable
from fourfold.core.ports.tables import Ability

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = (theirs.UnauthorizedError, theirs.ForbiddenError, theirs.OAuthError)


@contextmanager
def translating(name: str) -> Iterator[None]:
    """Foreign errors of the block come out as ours; ours pass."""
    try:
        yield
    except FourfoldError:
        raise
    except Exception as error:
        found = _translated(error, name)
        if found is None:
            raise
        raise found from error


def cannot(ability: Ability, message: str, *ways_on: str) -> Refused:
    return Refused(message, ways_on=ways_on, ability=ability.value)


def _is_full_catalog(error: Exception) -> bool:
    """Whether the catalog is a file of SQLite on a disk that is full."""
    name: str = getattr(getattr(error, "orig", None), "sqlite_errorname", "")
    return name.startswith("SQLITE_FULL")


def _translated(error: Exception, name: str) -> FourfoldError | None:
    said = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
    if (isinstance(error, OSError) and error.errno in _FULL) or _is_full_catalog(error):
        return OutOfSpace(
            f"the disk that holds table '{name}' is full; the table is as it was",
            ways_on=["free some space and try again"],
            table=name,
        )
    if isinstance(error, FileNotFoundError):
        return NotFound(
            f"a file of table '{name}' is not there any more: {said}",
            ways_on=["read a newer version: another program may have expired this one"],
            table=name,
        )
    if isinstance(error, _DENIED):
        return Refused(
            f"the Iceberg catalog does not let us at table '{name}': {said}",
            ways_on=["set ICEBERG_TOKEN, or ICEBERG_CREDENTIAL to 'id:secret'"],
            table=name,
        )
    module = type(error).__module__.partition(".")[0]
    if isinstance(error, (theirs.RESTError, OSError)) or module in {"sqlalchemy", "requests"}:
        return Unavailable(
            f"table '{name}' cannot be reached by its Iceberg catalog: {said}",
            ways_on=["check that the catalog answers, and that its files may be read and written"],
            table=name,
        )
    if isinstance(error, (pa.ArrowException, theirs.ResolveError, theirs.ValidationError)):
        return Corrupted(
            f"table '{name}' cannot be read: {said}",
            ways_on=["read an older version (see its history), or restore its files from a backup"],
            table=name,
        )
    return None
