"""What the catalog keeps of tables' figures: a summary of each version, the sketches of the newest."""

from __future__ import annotations

import sqlalchemy as sa

from fourfold.catalog import rows
from fourfold.catalog.database import Catalog, metadata
from fourfold.core import wire
from fourfold.core.statistics import TableStatistics
from fourfold.core.times import Instant

statistics_table = sa.Table(
    "storage_statistics",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("version", sa.BigInteger, primary_key=True),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("summary", sa.LargeBinary, nullable=False),
    sa.Column("sketches", sa.LargeBinary),
    sa.Column("format", sa.Integer, nullable=False, server_default="1"),
)
KEPT_SKETCHES = 3
"""Versions whose sketches stay: the next append goes on from the newest. A summary is some 1 kB for each
column, a sketch some 6 kB."""


class StatisticsRecords:
    """Figures by table and version; each call is one unit of work."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def summary(self, name: str, version: int) -> TableStatistics | None:
        """The figures of a version, if they were counted."""
        found = self._column(name, version, statistics_table.c.summary)
        return None if found is None else wire.decode(found, TableStatistics, what="kept statistics")

    def sketches(self, name: str, version: int) -> bytes | None:
        """The sketches of a version, if they are kept."""
        return self._column(name, version, statistics_table.c.sketches)

    def put(self, at: Instant, told: TableStatistics, sketches: bytes) -> TableStatistics:
        """Keep a version's figures; what was kept first stays, and is the answer."""
        kept = statistics_table.c
        with self._catalog.write() as connection:
            row = {
                "name": told.table,
                "version": told.version,
                "at_us": at,
                "digest": told.digest,
                "summary": wire.encode(told),
                "sketches": sketches,
            }
            if rows.insert_new(connection, statistics_table, [row]):
                newest = sa.select(sa.func.max(kept.version)).where(kept.name == told.table)
                connection.execute(
                    statistics_table.update()
                    .where(kept.name == told.table, kept.sketches.is_not(None))
                    .where(kept.version <= newest.scalar_subquery() - KEPT_SKETCHES)
                    .values(sketches=None)
                )
                return told
        return self.summary(told.table, told.version) or told

    def count(self, name: str) -> int:
        """Of how many versions of a table and its branches figures are kept."""
        query = sa.select(sa.func.count()).select_from(statistics_table).where(_of(name))
        with self._catalog.read() as connection:
            return int(connection.execute(query).scalar_one())

    def forget(self, name: str) -> int:
        """Remove all figures of a table and its branches, because they hold values of rows; how many."""
        with self._catalog.write() as connection:
            return connection.execute(statistics_table.delete().where(_of(name))).rowcount

    def _column(self, name: str, version: int, column: sa.Column[bytes]) -> bytes | None:
        kept = statistics_table.c
        with self._catalog.read() as connection:
            query = sa.select(column).where(kept.name == name, kept.version == version)
            return connection.execute(query).scalar()


def _of(name: str) -> sa.ColumnElement[bool]:
    kept = statistics_table.c
    return (kept.name == name) | kept.name.startswith(f"{name}@", autoescape=True)
