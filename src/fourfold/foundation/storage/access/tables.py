"""Grants on tables as rows, each change with its audit entry."""

from __future__ import annotations

import sqlalchemy as sa

from fourfold.catalog import audit, rows
from fourfold.catalog.access import grants as project_grants
from fourfold.catalog.database import Catalog, metadata
from fourfold.core.access import Access, TableGrant
from fourfold.core.catalog import principal
from fourfold.core.context import Ref
from fourfold.core.routes import Role
from fourfold.core.times import Instant

grant_table = sa.Table(
    "storage_grant",
    metadata,
    sa.Column("pattern", sa.Text, primary_key=True),
    sa.Column("who", sa.Text, primary_key=True),
    sa.Column("access", sa.Integer, nullable=False),
    sa.Column("granted_by", sa.Text, nullable=False),
    sa.Column("at_us", sa.BigInteger, nullable=False),
)


class GrantRecords:
    """Rows about grants; each call is one unit of work."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def all(self) -> tuple[TableGrant, ...]:
        """Every grant, by pattern and by whom."""
        query = sa.select(grant_table).order_by(grant_table.c.pattern, grant_table.c.who)
        with self._catalog.read() as connection:
            return tuple(
                TableGrant(row.pattern, row.who, Access(row.access), row.granted_by, Instant(row.at_us))
                for row in connection.execute(query)
            )

    def role_of(self, name: str) -> Role | None:
        """A principal's role in the project."""
        with self._catalog.read() as connection:
            return next((each.role for each in project_grants(connection) if each.principal == name), None)

    def put(self, at: Instant, pattern: str, who: str, access: Access) -> TableGrant:
        """Give somebody access in place of what they had."""
        given = TableGrant(pattern, who, access, principal(), at)
        with self._catalog.write(durable=True) as connection:
            rows.put(
                connection,
                grant_table,
                {
                    "pattern": pattern,
                    "who": who,
                    "access": int(access),
                    "granted_by": given.granted_by,
                    "at_us": at,
                },
            )
            audit.record(connection, at, "table.grant", Ref("table", pattern), _facts(given))
        return given

    def remove(self, at: Instant, grant: TableGrant) -> None:
        """Take a grant back."""
        here = (grant_table.c.pattern == grant.pattern) & (grant_table.c.who == grant.who)
        with self._catalog.write(durable=True) as connection:
            connection.execute(sa.delete(grant_table).where(here))
            audit.record(connection, at, "table.revoke", Ref("table", grant.pattern), _facts(grant))

    def denied(self, at: Instant, table: str, wanted: Access) -> None:
        """Note that somebody was refused."""
        with self._catalog.write() as connection:
            audit.record(connection, at, "table.denied", Ref("table", table), {"wanted": wanted.name})


def _facts(grant: TableGrant) -> dict[str, object]:
    return {"who": grant.who, "access": grant.access.name}
