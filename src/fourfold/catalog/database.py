"""The database under the catalog: SQLite in a file, or PostgreSQL, from one code base.

Rooms get a `Catalog` and use two units of work: `read()` for plain reads and `write()` for changes. On
SQLite a write begins IMMEDIATE, because a deferred transaction that turns from reading to writing fails
at once whatever the busy timeout says; readers never wait (WAL). On PostgreSQL both are READ COMMITTED.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from fourfold.catalog import faults
from fourfold.catalog.turns import Turns
from fourfold.core.errors import Corrupted, Refused, Unavailable

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)
"""Every room registers its tables here, in its own `tables.py`; foreign keys point down the floors."""

TURNS = "turns"
"""Where a connection keeps its `Turns`."""
BUSY_TIMEOUT_S = 30.0
"""How long a unit of work waits for another process's write, or for a free connection."""


class Catalog:
    """A pool of connections with two kinds of unit of work.

    `Catalog.open(url)` also brings the tables up to date; the constructor alone touches nothing.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.is_sqlite = url.startswith("sqlite")
        self.path = _sqlite_path(url) if self.is_sqlite else None
        """The database file; `None` on PostgreSQL."""
        if self.path is not None:
            faults.refuse_network_mount(self.path)
            self.path.parent.mkdir(parents=True, exist_ok=True)
        self._engine = sa.create_engine(
            url,
            pool_size=8,
            max_overflow=24,
            pool_timeout=BUSY_TIMEOUT_S,
            pool_pre_ping=not self.is_sqlite,
            connect_args={"timeout": BUSY_TIMEOUT_S} if self.is_sqlite else {},
        )
        sa.event.listen(self._engine, "handle_error", faults.translate)
        if self.is_sqlite:
            sa.event.listen(self._engine, "connect", self._prepare_sqlite)
            sa.event.listen(self._engine, "close", _close_turns)

    def __repr__(self) -> str:
        return f"<Catalog {self._engine.url.render_as_string(hide_password=True)}>"

    @classmethod
    def open(cls, url: str) -> Catalog:
        """Open the catalog at `url`, creating or migrating its tables where that is due.

        Costs one small query when the tables are up to date. Processes that open at once wait for the one
        that migrates. A database that a newer Fourfold has migrated is refused.
        """
        from fourfold.catalog import upgrade

        catalog = cls(url)
        try:
            upgrade.upgrade(catalog)
        except BaseException:
            catalog.close()
            raise
        return catalog

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A unit of work that only reads; on SQLite it sees one consistent state of the database."""
        with self._connect() as connection:
            if self.is_sqlite:
                connection.exec_driver_sql("BEGIN")
            yield connection
            connection.rollback()

    @contextmanager
    def write(self, *, durable: bool = False) -> Iterator[sa.Connection]:
        """A unit of work that commits when the block ends well and rolls back when it raises.

        `durable` waits until the commit survives a power cut (promotions, money, irreversible intentions);
        otherwise SQLite may lose the last commits in a power cut, never in a crash of the process.
        PostgreSQL's commits follow its own `synchronous_commit`, and `durable` sets it to `on`.
        """
        with self._connect() as connection:
            if not self.is_sqlite:
                if durable:
                    connection.exec_driver_sql("SET LOCAL synchronous_commit = on")
                yield connection
                connection.commit()
                return
            if durable:
                connection.exec_driver_sql("PRAGMA synchronous=FULL")
            try:
                self._begin_writing(connection)
                try:
                    yield connection
                    connection.commit()
                finally:
                    connection.rollback()  # nothing after a commit; else the level below could not change
            finally:
                if durable:
                    connection.exec_driver_sql("PRAGMA synchronous=NORMAL")

    @contextmanager
    def snapshot(self) -> Iterator[sa.Connection]:
        """A unit of work whose every query sees the database as it was at the first; for long reads.

        Writers go on meanwhile. On SQLite the write-ahead log grows until the block ends.
        """
        with self._connect() as connection:
            if self.is_sqlite:
                connection.exec_driver_sql("BEGIN")
                connection.exec_driver_sql("SELECT count(*) FROM sqlite_master")  # from here on, this state
            else:
                connection = connection.execution_options(
                    isolation_level="REPEATABLE READ", postgresql_readonly=True
                )
            yield connection
            connection.rollback()

    @contextmanager
    def remake(self) -> Iterator[sa.Connection]:
        """A durable write in which tables may be made anew: foreign keys are checked at its end only.

        While SQLite checks them, dropping a table that others point at deletes their rows or is refused.
        """
        with self._connect() as connection:
            if self.is_sqlite:
                connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
                connection.exec_driver_sql("PRAGMA synchronous=FULL")
            try:
                if self.is_sqlite:
                    self._begin_writing(connection)
                else:
                    connection.exec_driver_sql("SET LOCAL synchronous_commit = on")
                yield connection
                if self.is_sqlite and (
                    lost := connection.exec_driver_sql("PRAGMA foreign_key_check").first()
                ):
                    raise Corrupted(f"rows of {lost[0]} point at rows of {lost[2]} that are not there")
                connection.commit()
            finally:
                connection.rollback()
                if self.is_sqlite:
                    connection.exec_driver_sql("PRAGMA foreign_keys=ON")
                    connection.exec_driver_sql("PRAGMA synchronous=NORMAL")

    def scrub(self, tables: Sequence[str]) -> bool:
        """Leave no trace of rows that were removed: of all of a SQLite file, of these tables on PostgreSQL.

        False where others read an older state at this moment, so that SQLite's write-ahead log keeps it.
        PostgreSQL's own log and backups are its server's affair. Needs room for a second copy.
        """
        with self._connect() as connection:
            if not self.is_sqlite:
                outside = connection.execution_options(isolation_level="AUTOCOMMIT")
                for table in tables:
                    outside.exec_driver_sql(f"VACUUM FULL {table}")
                return True
            connection.exec_driver_sql("VACUUM")
            busy = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").scalar()
            connection.rollback()
            return not busy

    def create_all(self) -> None:
        """Create the tables of every room that was imported, without migrations (for tests)."""
        metadata.create_all(self._engine)

    def close(self) -> None:
        """Close all connections; a later unit of work would open new ones."""
        self._engine.dispose()

    @contextmanager
    def _connect(self) -> Iterator[sa.Connection]:
        try:
            connection = self._engine.connect()
        except sa.exc.TimeoutError as error:
            raise Unavailable(
                f"no database connection became free within {BUSY_TIMEOUT_S:.0f} s",
                ways_on=["fewer threads at once, or shorter units of work"],
            ) from error
        with connection:
            yield connection

    def _prepare_sqlite(self, connection: Any, record: Any) -> None:
        connection.isolation_level = None  # we begin transactions ourselves
        connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_S * 1000:.0f}")
        if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            connection.execute("PRAGMA journal_mode=WAL")  # kept in the file, so asked for once
        connection.execute("PRAGMA synchronous=NORMAL")
        # A checkpoint writes each changed page once, however often it changed: 16 MB between two of them.
        connection.execute("PRAGMA wal_autocheckpoint=4000")
        connection.execute("PRAGMA foreign_keys=ON")
        assert self.path is not None
        record.info[TURNS] = Turns(self.path)

    def _begin_writing(self, connection: sa.Connection) -> None:
        """Begin a transaction of SQLite that writes, when it is our turn."""
        driver: Any = connection.connection.driver_connection
        turns: Turns = connection.info[TURNS]
        driver.execute("PRAGMA busy_timeout=0")
        try:
            if not turns.begin(driver, timeout_s=BUSY_TIMEOUT_S) or not driver.in_transaction:
                connection.exec_driver_sql("BEGIN IMMEDIATE")  # once more, and if it fails, in our own words
            elif not connection.in_transaction():
                connection.begin()  # so that SQLAlchemy commits it; its own BEGIN does nothing here
        finally:
            driver.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_S * 1000:.0f}")


def _close_turns(_connection: object, record: Any) -> None:
    turns = record.info.pop(TURNS, None)
    if turns is not None:  # it is not there where opening the file failed
        turns.close()


def _sqlite_path(url: str) -> Path:
    database = sa.engine.make_url(url).database
    if not database or database == ":memory:" or database.startswith("file:"):
        raise Refused(
            f"the catalog cannot live at {url!r}: every process of a project opens the same file",
            ways_on=["name a file: sqlite:////home/me/project/.fourfold/catalog.db"],
        )
    return Path(database).absolute()
