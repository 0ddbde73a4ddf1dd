"""The database under the catalog: SQLite in a file, or PostgreSQL, from one code base.

Rooms get a `Catalog` and use two units of work: `read()` for plain reads and `write()` for changes. On
SQLite a write begins IMMEDIATE, because a deferred transaction that turns from reading to writing fails
at once whatever the busy timeout says; readers never wait (WAL). On PostgreSQL both are READ COMMITTED.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

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

BUSY_TIMEOUT_S = 30.0


class Catalog:
    """A connection pool with two kinds of unit of work."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.is_sqlite = url.startswith("sqlite")
        if self.is_sqlite:
            self._engine = sa.create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S})
            sa.event.listen(self._engine, "connect", _prepare_sqlite)
        else:
            self._engine = sa.create_engine(url, pool_pre_ping=True)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A unit of work that only reads; it sees one consistent state of the database on SQLite."""
        with self._engine.connect() as connection:
            if self.is_sqlite:
                connection.exec_driver_sql("BEGIN")
            yield connection
            connection.rollback()

    @contextmanager
    def write(self, *, durable: bool = False) -> Iterator[sa.Connection]:
        """A unit of work that commits when the block ends well and rolls back when it raises.

        `durable` waits until the commit survives a power cut (promotions, money, irreversible intentions);
        otherwise SQLite may lose the last commits in a power cut, never in a crash of the process.
        """
        with self._engine.connect() as connection:
            if self.is_sqlite:
                connection.exec_driver_sql(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection
            connection.commit()

    def create_all(self) -> None:
        """Create the tables of every room that was imported."""
        metadata.create_all(self._engine)

    def close(self) -> None:
        self._engine.dispose()


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # we begin transactions ourselves
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "busy_timeout=30000"):
        connection.execute(f"PRAGMA {pragma}")
