"""What the catalog keeps of expectations: what is expected, what checks found, rows that were kept aside."""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa

from fourfold.catalog import audit, rows
from fourfold.catalog.database import Catalog, metadata
from fourfold.core import wire
from fourfold.core.context import Ref
from fourfold.core.expectations import Check, Expected, Rejection, Verdict
from fourfold.core.storage import Digest
from fourfold.core.times import Instant

expected_table = sa.Table(
    "storage_expected",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("expected", sa.LargeBinary, nullable=False),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("format", sa.Integer, nullable=False, server_default="1"),
)
check_table = sa.Table(
    "storage_check",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("version", sa.BigInteger, primary_key=True),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("found", sa.LargeBinary, nullable=False),
    sa.Column("format", sa.Integer, nullable=False, server_default="1"),
)
rejection_table = sa.Table(
    "storage_rejection",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("is_quarantined", sa.Integer, nullable=False),
    sa.Column("rejection", sa.LargeBinary, nullable=False),
    # The digest of the rows, so that they are kept as long as this row is.
    sa.Column("rows_digest", sa.Text, nullable=False),
    sa.Column("format", sa.Integer, nullable=False, server_default="1"),
    sa.Index(None, "name", "at_us"),
)
_EXPECTED = sa.select(expected_table.c.expected).where(expected_table.c.name == sa.bindparam("named"))
KEPT_REFUSALS = 20
"""Refused writes of a table whose rows stay; what was set aside stays until somebody discards it."""


class CheckRecords:
    """Rows about expectations; each call is one unit of work."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def expected(self, name: str) -> Expected | None:
        """What is expected of a table, if anything."""
        with self._catalog.read() as connection:
            found = connection.execute(_EXPECTED, {"named": name}).scalar()
        return None if found is None else wire.decode(found, Expected, what="kept expectations")

    def expect(self, at: Instant, name: str, expected: Expected, why: str) -> None:
        """Expect this from now on."""
        with self._catalog.write(durable=True) as connection:
            row = {"name": name, "expected": wire.encode(expected), "at_us": at}
            rows.put(connection, expected_table, row)
            facts = {"expectations": [str(each) for each in expected.expectations], "why": why}
            audit.record(connection, at, "table.expect", Ref("table", name), facts)

    def put_check(self, at: Instant, check: Check) -> None:
        """Keep what was found of a version; what was kept first stays."""
        row = {"name": check.table, "version": check.version, "at_us": at, "found": wire.encode(check)}
        with self._catalog.write() as connection:
            rows.insert_new(connection, check_table, [row])

    def checks(self, name: str, limit: int) -> tuple[Check, ...]:
        """What was found of a table's versions, newest first."""
        kept = check_table.c
        query = sa.select(kept.found).where(kept.name == name).order_by(kept.version.desc()).limit(limit)
        with self._catalog.read() as connection:
            return tuple(wire.decode(found, Check) for found in connection.execute(query).scalars())

    def check_of(self, name: str, version: int) -> Check | None:
        """What was found of one version, if it was checked as it was written."""
        kept = check_table.c
        query = sa.select(kept.found).where(kept.name == name, kept.version == version)
        with self._catalog.read() as connection:
            found = connection.execute(query).scalar()
        return None if found is None else wire.decode(found, Check)

    def put_rejection(self, rejection: Rejection, digest: Digest | None) -> None:
        """Keep word of rows that were not as expected, and the oldest refusals no longer."""
        kept = rejection_table.c
        row = {
            "id": rejection.id,
            "name": rejection.table,
            "at_us": rejection.at,
            "is_quarantined": int(rejection.is_quarantined),
            "rejection": wire.encode(rejection),
            "rows_digest": digest or "",
        }
        with self._catalog.write(durable=rejection.is_quarantined) as connection:
            rows.put(connection, rejection_table, row)
            refused = (kept.name == rejection.table, kept.is_quarantined == 0)
            newest = sa.select(kept.id).where(*refused).order_by(kept.at_us.desc(), kept.id.desc())
            old = list(connection.execute(newest.offset(KEPT_REFUSALS)).scalars())
            connection.execute(rejection_table.delete().where(kept.id.in_(old)))
            facts = {"rejection": rejection.id, "rows": rejection.rows, **_said(rejection.verdicts)}
            verb = "table.quarantine" if rejection.is_quarantined else "table.refuse"
            audit.record(connection, rejection.at, verb, Ref("table", rejection.table), facts)

    def note_version(self, rejection: Rejection) -> None:
        """Note which version holds the rows that were not set aside."""
        with self._catalog.write() as connection:
            connection.execute(
                rejection_table.update()
                .where(rejection_table.c.id == rejection.id)
                .values(rejection=wire.encode(rejection))
            )

    def rejections(self, name: str, limit: int) -> tuple[Rejection, ...]:
        """A table's rejections, newest first."""
        kept = rejection_table.c
        query = sa.select(kept.rejection).where(kept.name == name)
        query = query.order_by(kept.at_us.desc(), kept.id.desc()).limit(limit)
        with self._catalog.read() as connection:
            return tuple(wire.decode(found, Rejection) for found in connection.execute(query).scalars())

    def kept_rows(self, name: str) -> list[tuple[Rejection, Digest]]:
        """All of a table's rejections whose rows are kept, with the digest of these."""
        kept = rejection_table.c
        query = sa.select(kept.rejection, kept.rows_digest).where(kept.name == name, kept.rows_digest != "")
        with self._catalog.read() as connection:
            found = connection.execute(query.order_by(kept.id)).all()
        return [(wire.decode(row[0], Rejection), Digest(row[1])) for row in found]

    def replace_rows(self, rejection: Rejection, digest: Digest | None) -> None:
        """Keep other rows of a rejection than before, or none."""
        with self._catalog.write(durable=True) as connection:
            connection.execute(
                rejection_table.update()
                .where(rejection_table.c.id == rejection.id)
                .values(rejection=wire.encode(rejection), rows_digest=digest or "")
            )

    def cites(self, digest: Digest) -> bool:
        """Whether some rejection's rows have this digest."""
        query = sa.select(rejection_table.c.id).where(rejection_table.c.rows_digest == digest).limit(1)
        with self._catalog.read() as connection:
            return connection.execute(query).first() is not None

    def rejected(self, name: str, rejection: str) -> tuple[Rejection, Digest | None] | None:
        """One rejection, and the digest of its rows."""
        kept = rejection_table.c
        query = sa.select(kept.rejection, kept.rows_digest).where(kept.name == name, kept.id == rejection)
        with self._catalog.read() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else (wire.decode(row[0], Rejection), Digest(row[1]) if row[1] else None)

    def discard(self, at: Instant, name: str, rejection: str, why: str) -> None:
        """Keep the rows of a rejection no longer."""
        kept = rejection_table.c
        with self._catalog.write(durable=True) as connection:
            gone = connection.execute(
                rejection_table.delete().where(kept.name == name, kept.id == rejection)
            ).rowcount
            if gone:
                audit.record(
                    connection, at, "table.discard", Ref("table", name), {"rejection": rejection, "why": why}
                )

    def forget(self, name: str) -> None:
        """Keep nothing that is about a table's rows; what was expected of it goes with it."""
        with self._catalog.write() as connection:
            for each in (expected_table, check_table, rejection_table):
                connection.execute(each.delete().where(each.c.name == name))


def _said(verdicts: Iterable[Verdict]) -> dict[str, object]:
    return {"not_met": [verdict.reason for verdict in verdicts if not verdict.passed]}
