"""Bringing a database's tables up to date, once, however many processes open it together."""

from __future__ import annotations

import fcntl
import runpy
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from fourfold.core.errors import Refused

if TYPE_CHECKING:
    from fourfold.catalog.database import Catalog

HEAD = "0002"
"""The newest migration; a test compares it with the folder."""

_MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK = 0x464F5552  # "FOUR": the advisory lock on PostgreSQL


def upgrade(catalog: Catalog) -> None:
    """Bring the tables to `HEAD`. When they are there already this is one small query and no Alembic."""
    present = _sqlite_revision(catalog.path) if catalog.path is not None else _revision(catalog)
    if present == HEAD:
        return
    _refuse_newer(present)
    with alone(catalog) as connection:
        present = revision(connection)  # somebody may have been quicker
        if present == HEAD:
            return
        _refuse_newer(present)
        if not present:
            _refuse_strangers(connection)
        migrate(connection)


@cache
def table_names() -> frozenset[str]:
    """Every table that some migration makes; what else a database holds is not ours to copy or to drop."""
    migrations = sorted(_MIGRATIONS.glob("versions/v*.py"))
    return frozenset(name for path in migrations for name in runpy.run_path(str(path))["tables"].tables)


def _refuse_newer(present: str) -> None:
    if present > HEAD:
        raise Refused(
            f"this catalog was written by a newer Fourfold (its tables are at {present}, ours at {HEAD})",
            ways_on=["upgrade: pip install -U fourfold", "or open another project folder"],
            present=present,
            known=HEAD,
        )


def _refuse_strangers(connection: sa.Connection) -> None:
    """Refuse a database that has tables named as ours, and no word of our migrations."""
    if sa.inspect(connection).has_table("catalog_project"):
        raise Refused(
            "this database holds tables named as the catalog's, but not the record of which version they are",
            ways_on=["name an empty database, or another project folder", "or restore the whole of it"],
        )


def _sqlite_revision(path: Path) -> str:
    """The revision, read without the pool: `mode=rw` creates no file, and nothing is locked."""
    try:
        connection = sqlite3.connect(f"file:{path}?mode=rw", uri=True)
    except sqlite3.OperationalError:
        return ""
    try:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        return row[0] if row else ""
    except sqlite3.DatabaseError:
        return ""  # no such table, or a damaged file: the careful way says which
    finally:
        connection.close()


def _revision(catalog: Catalog) -> str:
    with catalog.read() as connection:
        return revision(connection)


def revision(connection: sa.Connection) -> str:
    """The newest migration that a database has seen; empty where it has seen none."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return ""
    return connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() or ""


@contextmanager
def alone(catalog: Catalog) -> Iterator[sa.Connection]:
    """A unit of work that no other opener of this catalog has at the same time."""
    if catalog.path is None:
        with catalog.remake() as connection:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
            yield connection
        return
    # Two processes that turn a fresh file into a WAL database collide whatever the busy timeout, so a
    # lock file stands before it. The lock goes with its holder, also when that is killed.
    with catalog.path.with_name(catalog.path.name + ".upgrade").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with catalog.remake() as connection:
            yield connection


def migrate(connection: sa.Connection, to: str = HEAD) -> None:
    """Run the migrations that are due in the caller's transaction: all of them, or none."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, to)
