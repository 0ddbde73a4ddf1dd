"""The row buffer in an SQLite file of its own: every addition is on the disk before it is acknowledged."""

from __future__ import annotations

import errno
import os
import sqlite3
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fourfold.core.errors import Corrupted, FourfoldError, OutOfSpace, Refused, TooMuch, Unavailable
from fourfold.core.ports.buffer import NEVER, Addition, Entry, Receipt, Waiting
from fourfold.core.ports.tables import Mark
from fourfold.core.times import Instant

BUSY_TIMEOUT_S = 30.0
"""How long an addition waits for another process's."""
LEAST_FREE_BYTES = 64 * 1024
"""SQLite makes its write-ahead log's index of this size before it writes anything."""
FORMAT = 1

_TABLES = f"""
BEGIN;
CREATE TABLE buffered_table (
    name TEXT PRIMARY KEY, newest INTEGER NOT NULL, rows INTEGER NOT NULL, bytes INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE buffered_entry (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, number INTEGER NOT NULL, rows INTEGER NOT NULL,
    key TEXT NOT NULL, at_us INTEGER NOT NULL, by TEXT NOT NULL, step TEXT NOT NULL,
    data BLOB NOT NULL, UNIQUE (name, number)
);
CREATE TABLE buffered_key (
    name TEXT, key TEXT, number INTEGER NOT NULL, rows INTEGER NOT NULL, at_us INTEGER NOT NULL,
    PRIMARY KEY (name, key)
) WITHOUT ROWID;
PRAGMA user_version = {FORMAT};
COMMIT;
"""
_ENTRIES = "SELECT number, rows, data, key, at_us, by, step FROM buffered_entry "
_WAITING = """
SELECT name, rows, bytes, newest,
    (SELECT e.at_us FROM buffered_entry e WHERE e.name = t.name ORDER BY e.number LIMIT 1)
FROM buffered_table t ORDER BY name
"""


class SqliteBuffer:
    """A buffer in a file. The file is made by the first addition; until then nothing waits.

    One connection writes and one reads, each used by one thread at a time; after a fork the child opens
    its own.
    """

    def __init__(self, path: Path, *, most_bytes: int) -> None:
        self._path = Path(path)
        self._most_bytes = most_bytes
        self._opened: _Opened | None = None
        self._inherited: _Opened | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<SqliteBuffer {self._path}>"

    def add(self, additions: Sequence[Addition]) -> tuple[Receipt, ...]:
        with self._writing() as connection:
            (total,) = connection.execute("SELECT coalesce(sum(bytes), 0) FROM buffered_table").fetchone()
            adding = sum(len(addition.data) for addition in additions)
            if total + adding > self._most_bytes and not _all_known(connection, additions):
                raise TooMuch(
                    f"{total} bytes of rows wait in the buffer, and {adding} more would pass its bound of "
                    f"{self._most_bytes}; nothing was added",
                    ways_on=["flush the tables: fourfold table flush", "or raise buffer.most_bytes"],
                    waiting_bytes=total,
                    most_bytes=self._most_bytes,
                )
            return tuple([_add(connection, addition) for addition in additions])

    def after(self, name: str, number: int = -1) -> tuple[Entry, ...]:
        with self._reading() as connection:
            if connection is None:
                return ()
            found = connection.execute(
                _ENTRIES + "WHERE name = ? AND number > ? ORDER BY number", (name, number)
            )
            return tuple(_entry(row) for row in found)

    def waiting(self) -> tuple[Waiting, ...]:
        with self._reading() as connection:
            return () if connection is None else tuple(Waiting(*row) for row in connection.execute(_WAITING))

    def forget(self, name: str, *, upto: int, keys_before: Instant = NEVER) -> int:
        with self._changing() as connection:
            if connection is None:
                return 0
            gone = "FROM buffered_entry WHERE name = ? AND number <= ?"
            rows, size = connection.execute(
                f"SELECT coalesce(sum(rows), 0), coalesce(sum(length(data)), 0) {gone}", (name, upto)
            ).fetchone()
            connection.execute(f"DELETE {gone}", (name, upto))
            connection.execute(
                "UPDATE buffered_table SET rows = rows - ?, bytes = bytes - ? WHERE name = ?",
                (rows, size, name),
            )
            connection.execute(
                "DELETE FROM buffered_key WHERE name = ? AND at_us < ? AND number <= ?",
                (name, keys_before, upto),
            )
            return int(rows)

    def scrub(self) -> bool:
        if not self._is_there():
            return True
        with self._translated():
            opened = self._open()
            with opened.write_lock, opened.read_lock:
                opened.writer.execute("VACUUM")
                (busy, _, _) = opened.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                return not busy

    @contextmanager
    def still(self) -> Iterator[None]:
        with self._writing():  # SQLite has one writer at a time, and readers go on
            yield

    def close(self) -> None:
        with self._lock:
            if self._opened is not None and self._opened.process == os.getpid():
                self._opened.close()
            self._opened = None

    # Connections

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that ends on the disk."""
        with self._translated():
            opened = self._open()
            with opened.write_lock:
                connection = opened.writer
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield connection
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection | None]:
        """A transaction on what is there; `None` where nothing was ever added."""
        if self._is_there():
            with self._writing() as connection:
                yield connection
        else:
            yield None

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        if not self._is_there():
            yield None
            return
        with self._translated():
            opened = self._open()
            with opened.read_lock:
                yield opened.reader

    def _is_there(self) -> bool:
        return self._opened is not None or self._path.exists()

    def _open(self) -> _Opened:
        opened = self._opened
        if opened is not None and opened.process == os.getpid():
            return opened
        with self._lock:
            if self._opened is None or self._opened.process != os.getpid():
                self._inherited = self._opened  # never closed here: that would disturb the parent's
                self._opened = _Opened(self._path)
            return self._opened

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise _ours(error, self._path) from error
        except OSError as error:
            raise Unavailable(f"the buffer {self._path} cannot be used: {error.strerror}") from error


class _Opened:
    """What this process has open of the file."""

    def __init__(self, path: Path) -> None:
        self.process = os.getpid()
        self.write_lock = threading.Lock()
        self.read_lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self.writer = _connect(path)
        try:
            _make_tables(self.writer, path)
            self.reader = _connect(path)
        except BaseException:
            self.writer.close()
            raise

    def close(self) -> None:
        with self.read_lock:
            self.reader.close()
        with self.write_lock:
            self.writer.close()


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA synchronous=FULL")  # a commit has reached the disk when it returns
    connection.execute("PRAGMA journal_size_limit=16777216")
    return connection


def _make_tables(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables once, whoever comes first; a file of a later format is refused."""
    if _format(connection) == 0:
        # Turning a fresh file into a WAL database collides with others' doing so, whatever the timeout.
        with _alone(path):
            if _format(connection) == 0:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.executescript(_TABLES)
    if (found := _format(connection)) > FORMAT:
        raise Refused(
            f"the buffer {path} was written by a newer Fourfold (format {found}, ours is {FORMAT})",
            ways_on=["upgrade: pip install -U fourfold"],
        )


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """A lock file goes with its holder, also when that is killed."""
    import fcntl

    with path.with_name(path.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
        for folder in (path.parent, path.parent.parent):  # the file's own name, and its folder's
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _format(connection: sqlite3.Connection) -> int:
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    return int(found)


def _all_known(connection: sqlite3.Connection, additions: Sequence[Addition]) -> bool:
    """Whether all of them are repeats, which need no room."""
    return all(a.mark.key and _known(connection, a) is not None for a in additions)


def _known(connection: sqlite3.Connection, addition: Addition) -> tuple[int, int] | None:
    found: tuple[int, int] | None = connection.execute(
        "SELECT number, rows FROM buffered_key WHERE name = ? AND key = ?", (addition.name, addition.mark.key)
    ).fetchone()
    return found


def _add(connection: sqlite3.Connection, addition: Addition) -> Receipt:
    name, mark, size = addition.name, addition.mark, len(addition.data)
    if mark.key and (first := _known(connection, addition)) is not None:
        row = connection.execute("SELECT rows, bytes FROM buffered_table WHERE name = ?", (name,)).fetchone()
        return Receipt(*first, *row)
    number, rows, waiting = connection.execute(
        "INSERT INTO buffered_table VALUES (?, ? + 1, ?, ?) ON CONFLICT DO UPDATE SET "
        "newest = max(newest, excluded.newest - 1) + 1, rows = rows + excluded.rows, "
        "bytes = bytes + excluded.bytes RETURNING newest, rows, bytes",
        (name, addition.above, addition.rows, size),
    ).fetchone()
    connection.execute(
        "INSERT INTO buffered_entry (name, number, rows, key, at_us, by, step, data) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (name, number, addition.rows, mark.key, mark.at, mark.by, mark.step, addition.data),
    )
    if mark.key:
        connection.execute(
            "INSERT INTO buffered_key VALUES (?, ?, ?, ?, ?)",
            (name, mark.key, number, addition.rows, mark.at),
        )
    return Receipt(number, addition.rows, rows, waiting)


def _entry(row: tuple[int, int, bytes, str, int, str, str]) -> Entry:
    number, rows, data, key, at, by, step = row
    return Entry(number, rows, data, Mark(key=key, at=Instant(at), by=by, step=step))


def _ours(error: sqlite3.Error, path: Path) -> FourfoldError:
    name: str = getattr(error, "sqlite_errorname", "") or ""
    # A full disk is also an I/O error, where the write-ahead log's index cannot grow, or a file that cannot
    # be opened, where the log itself cannot be made.
    is_doubtful = name.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN"))
    if name.startswith("SQLITE_FULL") or (is_doubtful and _has_no_space(path)):
        return OutOfSpace(
            f"the disk that holds the buffer {path} is full; nothing was added",
            ways_on=["free some space and try again"],
        )
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return Unavailable(
            f"another process kept the buffer {path} locked for too long; nothing was changed",
            ways_on=["try again"],
        )
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return Corrupted(
            f"the buffer {path} is damaged, or is no SQLite database",
            ways_on=[
                "rows that were not flushed are in it: `sqlite3 FILE .recover` salvages what can be read"
            ],
        )
    return Unavailable(
        f"the buffer {path} cannot be used: {error}", ways_on=["check that its folder may be written"]
    )


def _has_no_space(path: Path) -> bool:
    """Whether nothing can be written beside the file. It is tried, because a quota leaves the disk free."""
    try:
        with tempfile.TemporaryFile(dir=path.parent) as probe:
            probe.write(bytes(LEAST_FREE_BYTES))
    except OSError as error:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return False
