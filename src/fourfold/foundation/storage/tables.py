"""What the catalog knows of tables: their versions, and which write made each.

The table store's own log is the truth. These rows answer quickly and in SQL, and add what a log cannot
know (who, which step); a row that a crash kept from being written is filled in on the next look.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from fourfold.catalog import audit, columns, lineage, rows, tags
from fourfold.catalog.database import Catalog, metadata
from fourfold.core.catalog import LOCAL
from fourfold.core.context import Ref
from fourfold.core.decide.renaming import Names
from fourfold.core.errors import Conflict
from fourfold.core.lineage import Edge, MadeByQuery
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
# From which version on a stored column is shown under which name; see `core.decide.renaming`.
column_table = sa.Table(
    "storage_column",
    metadata,
    sa.Column("name", sa.Text, sa.ForeignKey("storage_table.name"), primary_key=True),
    sa.Column("stored", sa.Text, primary_key=True),
    sa.Column("since", sa.BigInteger, primary_key=True),
    sa.Column("shown", sa.Text, nullable=False),
    sa.Column("format", sa.Integer, nullable=False, server_default="1"),
)
KIND = "table"
"""The kind under which tags, lineage and the audit know tables."""
NEWEST = 2**62
"""A version that is never reached."""
NO_FACTS: Mapping[int, Mapping[str, object]] = {}


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
        with self._catalog.read() as connection:
            row = connection.execute(_KNOWN, {"named": name}).one_or_none()
        if row is None:
            return None
        dropped = None if row[0] is None else Instant(row[0])
        return Known(-1 if row[1] is None else row[1], dropped)

    def add(
        self, name: str, commits: Iterable[Commit], *, facts: Mapping[int, Mapping[str, object]] = NO_FACTS
    ) -> None:
        """Record commits of a table, oldest first, each with its audit entry; known ones are left alone.

        `facts` are what the audit is to say of a version beside what its commit tells.
        """
        with self._catalog.write() as connection:
            for commit in sorted(commits, key=lambda commit: commit.version):
                rows.insert_new(connection, table, [{"name": name, "created_at_us": commit.at}])
                fresh = rows.insert_new(connection, version_table, [_row(name, commit)])
                if fresh:
                    told: dict[str, object] = {"rows_added": commit.rows_added}
                    if commit.step:
                        told["step"] = commit.step
                    audit.record(
                        connection,
                        commit.at,
                        f"table.{commit.operation}",
                        Ref(KIND, name, str(commit.version)),
                        {**told, **facts.get(commit.version, {})},
                        by=commit.by or LOCAL,
                    )

    def recount(self, name: str, commits: Iterable[Commit]) -> None:
        """Have recorded versions tell the counts that their commits tell now."""
        kept = version_table.c
        with self._catalog.write() as connection:
            query = sa.select(kept.version, kept.rows, kept.rows_added).where(kept.name == name)
            known = {row.version: (row.rows, row.rows_added) for row in connection.execute(query)}
            for commit in commits:
                if known.get(commit.version) not in (None, (commit.rows, commit.rows_added)):
                    connection.execute(
                        version_table.update()
                        .where(kept.name == name, kept.version == commit.version)
                        .values(rows=commit.rows, rows_added=commit.rows_added)
                    )

    def version(self, name: str, version: int) -> TableVersion | None:
        """One version's row."""
        return self._one(version_table.c.name == name, version_table.c.version == version)

    def made_by(self, name: str, key: str) -> int | None:
        """The version that a write key made, if the catalog knows of one."""
        made = self._one(version_table.c.name == name, version_table.c.write_key == key)
        return None if made is None else made.version

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

    def put_query(self, at: Instant, made: MadeByQuery) -> None:
        """Record which query made a version, and which columns it let act on which."""
        with self._catalog.write() as connection:
            columns.record(connection, at, made)

    def put_tag(self, at: Instant, name: str, tag: str, version: int, why: str) -> None:
        """Make a tag point at a version."""
        with self._catalog.write(durable=True) as connection:
            tags.put(connection, at, KIND, name, tag, str(version), why=why)
            facts = {"tag": tag, "why": why}
            audit.record(connection, at, "table.tag", Ref(KIND, name, str(version)), facts)

    def drop(self, at: Instant, name: str, why: str) -> None:
        """Retire a name for good, and those of its branches."""
        with self._catalog.write(durable=True) as connection:
            rows.insert_new(connection, table, [{"name": name, "created_at_us": at}])
            gone = (table.c.name == name) | table.c.name.startswith(f"{name}@", autoescape=True)
            here = table.c.dropped_at_us.is_(None)
            connection.execute(table.update().where(gone & here).values(dropped_at_us=at))
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

    def record(self, at: Instant, name: str, action: str, facts: Mapping[str, object]) -> None:
        """Note in the audit what was done to a table that is no version."""
        with self._catalog.write() as connection:
            audit.record(connection, at, action, Ref(KIND, name), facts)

    def connect(self, at: Instant, source: Ref, target: Ref) -> None:
        """Note in lineage that a version was made from another."""
        with self._catalog.write() as connection:
            lineage.record(connection, [Edge(source, target, None, at)])

    def pinned(self, name: str) -> dict[int, str]:
        """Versions that something beside tables was made from, each with one such thing."""
        with self._catalog.read() as connection:
            found = lineage.cited(connection, KIND, name)
        return {int(version): str(ref) for version, ref in found.items() if version.isdecimal()}

    def names(self, name: str, version: int) -> Names:
        """Under which names a version's columns are shown."""
        with self._catalog.read() as connection:
            return _names(connection, name, version)

    def show(
        self, at: Instant, name: str, since: int, shown: Mapping[str, str], columns: Sequence[str] = ()
    ) -> None:
        """Show stored columns under these names from a version on, which has these `columns`."""
        with self._catalog.write() as connection:
            rows.insert_new(connection, table, [{"name": name, "created_at_us": at}])
            # One after the other, so that two renames at once cannot both give the same name.
            connection.execute(sa.select(table.c.name).where(table.c.name == name).with_for_update())
            for stored, each in sorted(shown.items()):
                value = {"name": name, "stored": stored, "since": since, "shown": each}
                rows.put(connection, column_table, value)
            names = _names(connection, name, NEWEST)
            if len({names.shown(column).lower() for column in columns}) < len(columns):
                raise Conflict(
                    f"somebody else just gave a column of table '{name}' the same name",
                    ways_on=[f"see what it has now: fourfold table show {name}"],
                    table=name,
                )

    def ever_shown(self, name: str, column: str) -> set[str]:
        """The stored columns that a table or a branch of it ever showed under a name that was given."""
        kept = column_table.c
        here = (kept.name == name) | kept.name.startswith(f"{name}@", autoescape=True)
        query = sa.select(kept.stored).where(here, kept.shown == column)
        with self._catalog.read() as connection:
            return set(connection.execute(query).scalars())

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


# Asked at every insert and every read: building a statement costs more than running it.
_KNOWN = sa.select(
    table.c.dropped_at_us,
    sa.select(sa.func.max(version_table.c.version))
    .where(version_table.c.name == table.c.name)
    .scalar_subquery(),
).where(table.c.name == sa.bindparam("named"))
_NAMES = (
    sa.select(column_table.c.stored, column_table.c.shown)
    .where(
        column_table.c.name == sa.bindparam("named"),
        column_table.c.since <= sa.bindparam("upto", type_=sa.BigInteger),
    )
    .order_by(column_table.c.since)
)


def _select() -> sa.Select[tuple[object, ...]]:
    before = version_table.alias("before")
    is_before = (before.c.name == version_table.c.name) & (before.c.version == version_table.c.version - 1)
    rows_before = sa.select(before.c.rows).where(is_before).scalar_subquery()
    return sa.select(version_table, rows_before.label("rows_before"))


def _names(connection: sa.Connection, name: str, version: int) -> Names:
    found = connection.execute(_NAMES, {"named": name, "upto": version})
    pairs = {row.stored: row.shown for row in found}
    return Names({stored: shown for stored, shown in pairs.items() if stored != shown})


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
        rows_removed=0 if row.rows_before is None else row.rows_before + row.rows_added - row.rows,
    )
