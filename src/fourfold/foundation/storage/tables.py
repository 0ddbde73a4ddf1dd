"""What the catalog knows of tables: their versions, and which write made each.

The table store's own log is the truth. These rows answer quickly and in SQL, and add what a log cannot
know (who, which step); a row that a crash kept from being written is filled in on the next look.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa

from fourfold.catalog import audit, rows, tags
from fourfold.catalog.database import Catalog, metadata
from fourfold.core.catalog import LOCAL
from fourfold.core.context import Ref
from fourfold.core.ports.tables import Commit
from fourfold.core.storage import TableVersion
from fourfold.core.times import Instant

table = sa.Table(
    "storage_table",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("created_at_us", sa.BigInteger, nullable=False),
    sa.Column("dropped_at_us", sa.BigInteger),
    sa.Column("format", sa.Integer, nullable=False, server_default="1"),
)
version_table = sa.Table(
    "storage_version",
    metadata,
    sa.Column("name", sa.Text, sa.ForeignKey("storage_table.name"), primary_key=True),
    sa.Column("version", sa.BigInteger, primary_key=True),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Column("rows_added", sa.BigInteger, nullable=False),
    sa.Column("operation", sa.Text, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("step", sa.Text, nullable=False),
    sa.Column("write_key", sa.Text),
    sa.Column("format", sa.Integer, nullable=False, server_default="1"),
    sa.UniqueConstraint("name", "write_key"),
)
KIND = "table"
"""The kind under which tags, lineage and the audit know tables."""


@dataclass(frozen=True, slots=True)
class Known:
    """A table's newest version in the catalog, and when the table was dropped."""

    newest: int
    dropped_at: Instant | None


class TableRecords:
    """Rows about tables; each call is one unit of work."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def known(self, name: str) -> Known | None:
        """What the catalog knows of a name; `None` where it never heard of it."""
        newest = sa.select(sa.func.max(version_table.c.version)).where(version_table.c.name == table.c.name)
        query = sa.select(table.c.dropped_at_us, newest.scalar_subquery()).where(table.c.name == name)
        with self._catalog.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            return None
        dropped = None if row[0] is None else Instant(row[0])
        return Known(-1 if row[1] is None else row[1], dropped)

    def add(self, name: str, commits: Iterable[Commit]) -> None:
        """Record commits of a table, oldest first, each with its audit entry; known ones are left alone."""
        with self._catalog.write() as connection:
            for commit in sorted(commits, key=lambda commit: commit.version):
                rows.insert_new(connection, table, [{"name": name, "created_at_us": commit.at}])
                fresh = rows.insert_new(connection, version_table, [_row(name, commit)])
                if fresh:
                    facts = {"rows_added": commit.rows_added} | ({"step": commit.step} if commit.step else {})
                    audit.record(
                        connection,
                        commit.at,
                        f"table.{commit.operation}",
                        Ref(KIND, name, str(commit.version)),
                        facts,
                        by=commit.by or LOCAL,
                    )

    def version(self, name: str, version: int) -> TableVersion | None:
        """One version's row."""
        return self._one(version_table.c.name == name, version_table.c.version == version)

    def version_at(self, name: str, at: Instant) -> TableVersion | None:
        """The newest version that was there at an instant."""
        return self._one(version_table.c.name == name, version_table.c.at_us <= at)

    def oldest(self, name: str) -> TableVersion | None:
        """The first version on record."""
        query = _select().where(version_table.c.name == name).order_by(version_table.c.version).limit(1)
        with self._catalog.read() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else _version(row)

    def versions(self, name: str, limit: int) -> tuple[TableVersion, ...]:
        """A table's versions, newest first."""
        query = _select().where(version_table.c.name == name)
        with self._catalog.read() as connection:
            found = connection.execute(query.order_by(version_table.c.version.desc()).limit(limit))
            return tuple(_version(row) for row in found)

    def tags(self, name: str) -> dict[str, int]:
        """Tag to version."""
        with self._catalog.read() as connection:
            return {tag: int(target) for tag, target in tags.targets(connection, KIND, name).items()}

    def put_tag(self, at: Instant, name: str, tag: str, version: int, why: str) -> None:
        """Make a tag point at a version."""
        with self._catalog.write(durable=True) as connection:
            tags.put(connection, at, KIND, name, tag, str(version), why=why)
            facts = {"tag": tag, "why": why}
            audit.record(connection, at, "table.tag", Ref(KIND, name, str(version)), facts)

    def drop(self, at: Instant, name: str, why: str) -> None:
        """Retire a name for good."""
        with self._catalog.write(durable=True) as connection:
            rows.insert_new(connection, table, [{"name": name, "created_at_us": at}])
            connection.execute(table.update().where(table.c.name == name).values(dropped_at_us=at))
            audit.record(connection, at, "table.drop", Ref(KIND, name), {"why": why})

    @staticmethod
    def cited(connection: sa.Connection) -> dict[str, int]:
        """Each table that was not dropped, with the newest of its versions that this state knows."""
        query = (
            sa.select(version_table.c.name, sa.func.max(version_table.c.version))
            .join(table, table.c.name == version_table.c.name)
            .where(table.c.dropped_at_us.is_(None))
            .group_by(version_table.c.name)
            .order_by(version_table.c.name)
        )
        return {row.name: row[1] for row in connection.execute(query)}

    def dropped(self) -> frozenset[str]:
        """Names that were retired."""
        with self._catalog.read() as connection:
            query = sa.select(table.c.name).where(table.c.dropped_at_us.is_not(None))
            return frozenset(connection.execute(query).scalars())

    def _one(self, *conditions: sa.ColumnElement[bool]) -> TableVersion | None:
        query = _select().where(*conditions).order_by(version_table.c.version.desc()).limit(1)
        with self._catalog.read() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else _version(row)


def _select() -> sa.Select[tuple[object, ...]]:
    return sa.select(version_table)


def _row(name: str, commit: Commit) -> dict[str, object]:
    return {
        "name": name,
        "version": commit.version,
        "at_us": commit.at,
        "rows": commit.rows,
        "rows_added": commit.rows_added,
        "operation": commit.operation,
        "by": commit.by,
        "step": commit.step,
        "write_key": commit.key or None,
    }


def _version(row: sa.Row[tuple[object, ...]]) -> TableVersion:
    return TableVersion(
        name=row.name,
        version=row.version,
        at=Instant(row.at_us),
        rows=row.rows,
        rows_added=row.rows_added,
        operation=row.operation,
        by=row.by,
        step=row.step,
    )
