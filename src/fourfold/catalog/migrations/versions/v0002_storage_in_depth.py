"""Storage in depth: what the catalog keeps of branches, datasets, access and buffers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

SERIAL = sa.BigInteger().with_variant(sa.Integer, "sqlite")

tables = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# Versioned files

sa.Table(
    "files_name",
    tables,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("created_at_us", sa.BigInteger, nullable=False),
    sa.Column("newest", sa.BigInteger, nullable=False),
    sa.Column("dropped_at_us", sa.BigInteger),
    sa.Column("format", sa.Integer, nullable=False, server_default="1"),
)
sa.Table(
    "files_version",
    tables,
    sa.Column("name", sa.Text, sa.ForeignKey("files_name.name"), primary_key=True),
    sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("manifest", sa.Text, nullable=False),
    sa.Column("chunks_manifest", sa.Text),
    sa.Column("file_count", sa.BigInteger, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("added_bytes", sa.BigInteger, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("step", sa.Text, nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("write_key", sa.Text),
    sa.Column("format", sa.Integer, nullable=False, server_default="1"),
    sa.UniqueConstraint("name", "write_key"),
)
sa.Table(
    "storage_sha256",
    tables,
    sa.Column("digest", sa.Text, primary_key=True),
    sa.Column("sha256", sa.Text, nullable=False),
)

# These are 0001's; they are named here so that a foreign key can point at them.
node = sa.Table("catalog_node", tables, sa.Column("id", SERIAL, primary_key=True))
sa.Table("storage_table", tables, sa.Column("name", sa.Text, primary_key=True))

# From which version on a stored column is shown under which name.
sa.Table(
    "storage_column",
    tables,
    sa.Column("name", sa.Text, sa.ForeignKey("storage_table.name"), primary_key=True),
    sa.Column("stored", sa.Text, primary_key=True),
    sa.Column("since", sa.BigInteger, primary_key=True),
    sa.Column("shown", sa.Text, nullable=False),
    sa.Column("format", sa.Integer, nullable=False, server_default="1"),
)

sa.Table(
    "catalog_column_edge",
    tables,
    sa.Column("target_id", sa.BigInteger, sa.ForeignKey("catalog_node.id"), primary_key=True),
    sa.Column("column", sa.Text, primary_key=True),
    sa.Column("source_id", sa.BigInteger, sa.ForeignKey("catalog_node.id"), primary_key=True),
    sa.Column("source_column", sa.Text, primary_key=True),
    sa.Column("how", sa.Text, primary_key=True),
    sa.Column("is_masked", sa.Integer, primary_key=True),
    sa.Index(None, "source_id"),
)
sa.Table(
    "catalog_query",
    tables,
    sa.Column("target_id", sa.BigInteger, sa.ForeignKey("catalog_node.id"), primary_key=True),
    sa.Column("sql", sa.Text, nullable=False),
    sa.Column("unknown", sa.Text, nullable=False),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("format", sa.Integer, nullable=False, server_default="1"),
)

# What tables hold, and what is expected of them.
sa.Table(
    "storage_statistics",
    tables,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("version", sa.BigInteger, primary_key=True),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("summary", sa.LargeBinary, nullable=False),
    sa.Column("sketches", sa.LargeBinary),
    sa.Column("format", sa.Integer, nullable=False, server_default="1"),
)
sa.Table(
    "storage_expected",
    tables,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("expected", sa.LargeBinary, nullable=False),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("format", sa.Integer, nullable=False, server_default="1"),
)
sa.Table(
    "storage_check",
    tables,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("version", sa.BigInteger, primary_key=True),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("found", sa.LargeBinary, nullable=False),
    sa.Column("format", sa.Integer, nullable=False, server_default="1"),
)
sa.Table(
    "storage_rejection",
    tables,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("is_quarantined", sa.Integer, nullable=False),
    sa.Column("rejection", sa.LargeBinary, nullable=False),
    sa.Column("rows_digest", sa.Text, nullable=False),
    sa.Column("format", sa.Integer, nullable=False, server_default="1"),
    sa.Index(None, "name", "at_us"),
)
sa.Table(
    "storage_dataset",
    tables,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("created_at_us", sa.BigInteger, nullable=False),
    sa.Column("newest", sa.BigInteger, nullable=False),
    sa.Column("definition", sa.LargeBinary, nullable=False),
    sa.Column("format", sa.Integer, nullable=False, server_default="1"),
)
sa.Table(
    "storage_dataset_version",
    tables,
    sa.Column("name", sa.Text, sa.ForeignKey("storage_dataset.name"), primary_key=True),
    sa.Column("version", sa.BigInteger, primary_key=True),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("contents", sa.LargeBinary, nullable=False),
    sa.Column("write_key", sa.Text),
    sa.Column("format", sa.Integer, nullable=False, server_default="1"),
    sa.UniqueConstraint("name", "write_key"),
)

sa.Table(
    "flow_telling",
    tables,
    sa.Column("seq", SERIAL, primary_key=True),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("call_key", sa.Text, nullable=False),
    sa.Column("n", sa.Integer, nullable=False),
    sa.Column("what", sa.Text, nullable=False),
    sa.Column("told_at_us", sa.BigInteger),
    sa.Column("refused", sa.Text),
    sa.UniqueConstraint("run_id", "call_key", "n", "what"),
    sqlite_autoincrement=True,
)

sa.Table(
    "storage_grant",
    tables,
    sa.Column("pattern", sa.Text, primary_key=True),
    sa.Column("who", sa.Text, primary_key=True),
    sa.Column("access", sa.Integer, nullable=False),
    sa.Column("granted_by", sa.Text, nullable=False),
    sa.Column("at_us", sa.BigInteger, nullable=False),
)

sa.Table(
    "storage_forgotten",
    tables,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("keys", sa.Text, nullable=False),
    sa.Column("is_done", sa.Integer, nullable=False),
    sa.Column("told", sa.LargeBinary, nullable=False),
    sa.Column("format", sa.Integer, nullable=False, server_default="1"),
    sa.Index(None, "name", "at_us"),
)
sa.Table(
    "storage_secret",
    tables,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

sa.Table("compute_job", tables, sa.Column("key", sa.Text, primary_key=True))  # 0001's too

sa.Table(
    "compute_service",
    tables,
    sa.Column("name", sa.String(100), primary_key=True),
    sa.Column("format", sa.Integer, nullable=False),
    sa.Column("spec", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("keeper", sa.String(80), nullable=False),
    sa.Column("kept_until_us", sa.BigInteger, nullable=False),
)

# What jobs used over time.
sa.Table(
    "compute_use",
    tables,
    sa.Column("key", sa.Text, sa.ForeignKey("compute_job.key"), primary_key=True),
    sa.Column("format", sa.Integer, nullable=False),
    sa.Column("ended_at_us", sa.BigInteger, nullable=False, index=True),
    sa.Column("memory_mean_bytes", sa.BigInteger),
    sa.Column("disk_wait_s", sa.Float),
    sa.Column("network_bytes", sa.BigInteger),
    sa.Column("gpu_s", sa.Float),
    sa.Column("gpu_memory_peak_bytes", sa.BigInteger),
    sa.Column("points", sa.Text),
)

# How long units train to a fixed quality.
sa.Table("compute_unit", tables, sa.Column("fingerprint", sa.String(32), primary_key=True))  # 0001's too
sa.Table(
    "compute_quality",
    tables,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("format", sa.Integer, nullable=False),
    sa.Column(
        "fingerprint", sa.String(32), sa.ForeignKey("compute_unit.fingerprint"), nullable=False, index=True
    ),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("result", sa.Text, nullable=False),
)

BEFORE = frozenset({"catalog_node", "compute_job", "compute_unit", "storage_table"})
"""Tables that 0001 made."""


def upgrade() -> None:
    """Make what is new; what 0001 made stays as it is."""
    new = [table for table in tables.sorted_tables if table.name not in BEFORE]
    tables.create_all(op.get_bind(), tables=new, checkfirst=False)
