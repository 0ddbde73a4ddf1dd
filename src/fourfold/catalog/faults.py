"""What can be wrong with a database, in our own words."""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path

import sqlalchemy as sa

from fourfold.core.errors import Conflict, Corrupted, FourfoldError, OutOfSpace, Refused, Unavailable

NETWORK_FILE_SYSTEMS = frozenset(
    ["nfs", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "afs", "9p", "ceph", "glusterfs", "lustre"]
)
OVER_FUSE = ("fuse.sshfs", "fuse.rclone", "fuse.s3fs", "fuse.gcsfuse", "fuse.glusterfs", "fuse.ceph")

LEAST_FREE_BYTES = 64 * 1024
"""SQLite makes its write-ahead log and the log's index of this size before it writes anything."""


def translate(context: sa.engine.ExceptionContext) -> None:
    """Raise our error for a driver's, chained to it; leave those that are the calling code's own."""
    if context.is_pre_ping:
        return  # a connection that was cut off while nobody used it: SQLAlchemy opens another
    error = context.original_exception
    file = context.engine.url.database if context.engine is not None else None
    if (ours := _not_kept(error) or _sqlite(error, file) or _postgres(error)) is not None:
        raise ours from error


def _not_kept(error: BaseException) -> FourfoldError | None:
    """Values that no column takes: a user gave them, so they are refused rather than a defect."""
    # SQLite's driver refuses what is beyond 64 bits; PostgreSQL finds it out of range.
    if isinstance(error, OverflowError) or getattr(error, "sqlstate", "") == "22003":
        return Refused("a whole number is larger than a database keeps", ways_on=["give one below 2**63"])
    if isinstance(error, UnicodeEncodeError):
        return Refused("a text holds half a character, which no database keeps", ways_on=["leave it out"])
    if type(error).__name__ == "DataError" and "NUL" in str(error):  # PostgreSQL alone; it has no state
        return Refused(
            "a text holds the character NUL, which PostgreSQL does not keep", ways_on=["leave it out"]
        )
    return None


def _sqlite(error: BaseException, file: str | None) -> FourfoldError | None:
    name: str = getattr(error, "sqlite_errorname", "") or ""
    # A full disk is also an I/O error, where the write-ahead log's index cannot grow, or a file that cannot
    # be opened, where the log itself cannot be made.
    is_doubtful = name.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN"))
    if name.startswith("SQLITE_FULL") or (is_doubtful and _has_no_space(file)):
        return OutOfSpace(
            "the disk that holds the catalog is full; the change was rolled back",
            ways_on=["free some space and try again"],
        )
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return Unavailable(
            "another process kept the catalog locked for too long; nothing was changed",
            ways_on=["try again", "a write that lasts many seconds holds all others up: see fourfold doctor"],
        )
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")) or "Could not decode to UTF-8" in str(error):
        return Corrupted(
            "the catalog file is damaged, or is no SQLite database",
            ways_on=["restore it from a backup; `sqlite3 catalog.db .recover` salvages what can be read"],
        )
    if name.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM", "SQLITE_IOERR")):
        return Unavailable(
            f"the catalog file cannot be used: {error}",
            ways_on=["check that its folder exists and may be written, and that the disk is well"],
        )
    return None


def _has_no_space(file: str | None) -> bool:
    """Whether nothing can be written beside the file. It is tried, because a quota leaves the disk free."""
    if file is None:
        return False
    try:
        with tempfile.TemporaryFile(dir=Path(file).parent) as probe:
            probe.write(bytes(LEAST_FREE_BYTES))
    except OSError as error:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return False


def _postgres(error: BaseException) -> FourfoldError | None:
    state: str = getattr(error, "sqlstate", "") or ""
    if state == "53100":
        return OutOfSpace(
            "PostgreSQL has no space left; the change was rolled back", ways_on=["free some space there"]
        )
    if state in {"40001", "40P01"}:
        return Conflict("another transaction changed the same rows first", ways_on=["try again"])
    if state[:2] in {"08", "53", "57"} or (not state and _is_operational(error)):
        return Unavailable(
            f"PostgreSQL does not answer: {str(error).strip() or state}",
            ways_on=["check the catalog's address, and that the server runs"],
        )
    return None


def _is_operational(error: BaseException) -> bool:
    """A lost or refused connection has no SQL state; its class tells."""
    kind = type(error)
    return kind.__module__.startswith("psycopg") and kind.__name__ == "OperationalError"


def refuse_network_mount(path: Path, mounts: str | None = None) -> None:
    """Refuse a SQLite file on a network file system: its locks do not hold there.

    `mounts` is the text of `/proc/mounts`; where there is none, nothing is refused.

    >>> refuse_network_mount(Path("/home/me/catalog.db"), "srv:/home /home nfs4 rw 0 0")
    Traceback (most recent call last):
    ...
    fourfold.core.errors.Refused: the catalog at /home/me/catalog.db lies on a network file system (nfs4)
      SQLite's locks do not hold there: move the project's folder to a local disk
      or share one database: catalog = "postgresql://..." in fourfold.toml
    """
    if mounts is None:
        try:
            mounts = Path("/proc/mounts").read_text()
        except OSError:
            return
    folder = path.parent.resolve()
    kind, deepest = "", -1
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        mount = Path(fields[1].replace("\\040", " "))
        if folder.is_relative_to(mount) and len(mount.parts) >= deepest:
            kind, deepest = fields[2], len(mount.parts)
    if kind in NETWORK_FILE_SYSTEMS or kind.startswith(OVER_FUSE):
        raise Refused(
            f"the catalog at {path} lies on a network file system ({kind})",
            ways_on=[
                "SQLite's locks do not hold there: move the project's folder to a local disk",
                'or share one database: catalog = "postgresql://..." in fourfold.toml',
            ],
            path=str(path),
            file_system=kind,
        )
