"""The catalog's own tables: lineage, tags, roles, tokens, the audit, the project's facts."""

from __future__ import annotations

import sqlalchemy as sa

from fourfold.catalog.database import metadata

SERIAL = sa.BigInteger().with_variant(sa.Integer, "sqlite")
"""A counting key: SQLite counts only in columns declared INTEGER."""

project = sa.Table(
    "catalog_project",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
)

# Things and the edges between them. A thing is stored once, so that an edge is three numbers.
node = sa.Table(
    "catalog_node",
    metadata,
    sa.Column("id", SERIAL, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.UniqueConstraint("kind", "name", "version"),
)
edge = sa.Table(
    "catalog_edge",
    metadata,
    sa.Column("source_id", sa.BigInteger, sa.ForeignKey("catalog_node.id"), primary_key=True),
    sa.Column("target_id", sa.BigInteger, sa.ForeignKey("catalog_node.id"), primary_key=True),
    # The node ("", "", "") stands for nobody: a part of a primary key is never null.
    sa.Column("by_id", sa.BigInteger, sa.ForeignKey("catalog_node.id"), primary_key=True),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Index(None, "target_id"),
)
# Columns: what a query let act on what. An empty column stands for all rows, and on both sides for "unknown".
column_edge = sa.Table(
    "catalog_column_edge",
    metadata,
    sa.Column("target_id", sa.BigInteger, sa.ForeignKey("catalog_node.id"), primary_key=True),
    sa.Column("column", sa.Text, primary_key=True),
    sa.Column("source_id", sa.BigInteger, sa.ForeignKey("catalog_node.id"), primary_key=True),
    sa.Column("source_column", sa.Text, primary_key=True),
    sa.Column("how", sa.Text, primary_key=True),
    sa.Column("is_masked", sa.Integer, primary_key=True),
    sa.Index(None, "source_id"),
)
query = sa.Table(
    "catalog_query",
    metadata,
    sa.Column("target_id", sa.BigInteger, sa.ForeignKey("catalog_node.id"), primary_key=True),
    sa.Column("sql", sa.Text, nullable=False),
    sa.Column("unknown", sa.Text, nullable=False),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("format", sa.Integer, nullable=False, server_default="1"),
)

# A tag names a version of a thing; where it pointed before stays in its moves.
tag = sa.Table(
    "catalog_tag",
    metadata,
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("tag", sa.Text, primary_key=True),
    sa.Column("target", sa.Text, nullable=False),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
)
tag_move = sa.Table(
    "catalog_tag_move",
    metadata,
    sa.Column("sequence", SERIAL, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("tag", sa.Text, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("target", sa.Text, nullable=False),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sa.Index(None, "kind", "name", "tag"),
)

# Who may do what.
principal = sa.Table(
    "catalog_principal",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("created_at_us", sa.BigInteger, nullable=False),
)
grant = sa.Table(
    "catalog_grant",
    metadata,
    sa.Column("principal", sa.Text, sa.ForeignKey("catalog_principal.name"), primary_key=True),
    sa.Column("role", sa.Integer, nullable=False),
    sa.Column("granted_by", sa.Text, nullable=False),
    sa.Column("at_us", sa.BigInteger, nullable=False),
)
token = sa.Table(
    "catalog_token",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("principal", sa.Text, sa.ForeignKey("catalog_principal.name"), nullable=False),
    sa.Column("secret_sha256", sa.Text, nullable=False),
    sa.Column("scope", sa.Integer, nullable=False),
    sa.Column("purpose", sa.Text, nullable=False),
    sa.Column("created_at_us", sa.BigInteger, nullable=False),
    sa.Column("expires_at_us", sa.BigInteger),
    sa.Column("revoked_at_us", sa.BigInteger),
    sa.Index(None, "principal"),
)

# Who did what. Rows are only ever added; the triggers below hold everybody to it.
audit = sa.Table(
    "catalog_audit",
    metadata,
    sa.Column("sequence", SERIAL, primary_key=True),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("principal", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("facts", sa.LargeBinary, nullable=False),
    sa.Column("format", sa.Integer, nullable=False, server_default="1"),
    sa.Index(None, "kind", "name"),
    sa.Index(None, "principal"),
    sqlite_autoincrement=True,  # a sequence number is never given twice
)

_NEVER = "the audit is only ever added to"
AUDIT_GUARDS = {
    "sqlite": tuple(
        f"CREATE TRIGGER catalog_audit_no_{verb.lower()} BEFORE {verb} ON catalog_audit "
        f"BEGIN SELECT RAISE(ABORT, '{_NEVER}'); END"
        for verb in ("UPDATE", "DELETE")
    ),
    "postgresql": (
        f"""CREATE OR REPLACE FUNCTION catalog_audit_guard() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION '{_NEVER}'; END $$""",
        """CREATE TRIGGER catalog_audit_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON catalog_audit
        EXECUTE FUNCTION catalog_audit_guard()""",
    ),
}
for _dialect, _statements in AUDIT_GUARDS.items():
    for _statement in _statements:
        _guard = sa.DDL(_statement).execute_if(dialect=_dialect)  # type: ignore[no-untyped-call]
        sa.event.listen(audit, "after_create", _guard)
