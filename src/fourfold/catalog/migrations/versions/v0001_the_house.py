"""The house: the tables of every room as they were at the first release."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

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


# Catalog

sa.Table(
    "catalog_audit",
    tables,
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
    sqlite_autoincrement=True,
)
sa.Table(
    "catalog_node",
    tables,
    sa.Column("id", SERIAL, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.UniqueConstraint("kind", "name", "version"),
)
sa.Table(
    "catalog_principal",
    tables,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("created_at_us", sa.BigInteger, nullable=False),
)
sa.Table(
    "catalog_project",
    tables,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
)
sa.Table(
    "catalog_tag",
    tables,
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("tag", sa.Text, primary_key=True),
    sa.Column("target", sa.Text, nullable=False),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
)
sa.Table(
    "catalog_tag_move",
    tables,
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
sa.Table(
    "catalog_edge",
    tables,
    sa.Column("source_id", sa.BigInteger, sa.ForeignKey("catalog_node.id"), primary_key=True),
    sa.Column("target_id", sa.BigInteger, sa.ForeignKey("catalog_node.id"), primary_key=True),
    sa.Column("by_id", sa.BigInteger, sa.ForeignKey("catalog_node.id"), primary_key=True),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Index(None, "target_id"),
)
sa.Table(
    "catalog_grant",
    tables,
    sa.Column("principal", sa.Text, sa.ForeignKey("catalog_principal.name"), primary_key=True),
    sa.Column("role", sa.Integer, nullable=False),
    sa.Column("granted_by", sa.Text, nullable=False),
    sa.Column("at_us", sa.BigInteger, nullable=False),
)
sa.Table(
    "catalog_token",
    tables,
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

# Storage

sa.Table(
    "storage_table",
    tables,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("created_at_us", sa.BigInteger, nullable=False),
    sa.Column("dropped_at_us", sa.BigInteger),
    sa.Column("format", sa.Integer, nullable=False, server_default="1"),
)
sa.Table(
    "storage_version",
    tables,
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

# Compute

sa.Table(
    "compute_environment",
    tables,
    sa.Column("identity", sa.String(80), primary_key=True),
    sa.Column("format", sa.Integer, nullable=False),
    sa.Column("python", sa.String(40), nullable=False),
    sa.Column("platform", sa.String(80), nullable=False),
    sa.Column("package_count", sa.Integer, nullable=False),
    sa.Column("origin", sa.String(20), nullable=False),
    sa.Column("lock", sa.Text, nullable=False),
    sa.Column("first_seen_at_us", sa.BigInteger, nullable=False),
)
sa.Table(
    "compute_job",
    tables,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("format", sa.Integer, nullable=False),
    sa.Column("kind", sa.String(20), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("flow_run", sa.String(80), nullable=False, index=True),
    sa.Column("unit", sa.String(200), nullable=False),
    sa.Column("environment", sa.String(80), nullable=False),
    sa.Column("user_name", sa.String(200), nullable=False),
    sa.Column("started_at_us", sa.BigInteger, nullable=False),
    sa.Column("ended_at_us", sa.BigInteger, nullable=False, index=True),
    sa.Column("exit_kind", sa.String(20), nullable=False),
    sa.Column("exit_reason", sa.Text, nullable=False),
    sa.Column("exit_code", sa.Integer),
    sa.Column("wall_s", sa.Float, nullable=False),
    sa.Column("cpu_s", sa.Float),
    sa.Column("memory_peak_bytes", sa.BigInteger),
    sa.Column("memory_peak_is_exact", sa.Boolean, nullable=False),
    sa.Column("read_bytes", sa.BigInteger),
    sa.Column("written_bytes", sa.BigInteger),
    sa.Column("flops", sa.Float),
    sa.Column("held_cpu", sa.Float, nullable=False),
    sa.Column("held_memory_bytes", sa.BigInteger, nullable=False),
    sa.Column("held_gpu", sa.Float, nullable=False),
    sa.Column("utilisation", sa.Float),
    sa.Column("flops_utilisation", sa.Float),
    sa.Column("memory_utilisation", sa.Float),
    sa.Column("price_usd_per_hour", sa.Float, nullable=False),
    sa.Column("unit_share", sa.Float, nullable=False),
    sa.Column("cost_nanousd", sa.BigInteger, nullable=False),
    sa.Column("bound", sa.String(20), nullable=False),
    sa.Column("sentence", sa.Text, nullable=False),
)
sa.Table(
    "compute_unit",
    tables,
    sa.Column("fingerprint", sa.String(32), primary_key=True),
    sa.Column("format", sa.Integer, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("unit", sa.Text, nullable=False),
    sa.Column("first_seen_at_us", sa.BigInteger, nullable=False),
)
sa.Table(
    "compute_measurement",
    tables,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("format", sa.Integer, nullable=False),
    sa.Column("unit", sa.String(200), nullable=False),
    sa.Column(
        "fingerprint", sa.String(32), sa.ForeignKey("compute_unit.fingerprint"), nullable=False, index=True
    ),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("duration_s", sa.Float, nullable=False),
    sa.Column("is_quick", sa.Boolean, nullable=False),
    sa.Column("figures", sa.Text, nullable=False),
    sa.Column("versions", sa.Text, nullable=False),
    sa.Column("other_cores_busy", sa.Float, nullable=False),
    sa.Column("notes", sa.Text, nullable=False),
)

# Flows

sa.Table(
    "flow_cache",
    tables,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("format", sa.Integer, nullable=False),
    sa.Column("record", sa.LargeBinary, nullable=False),
)
sa.Table(
    "flow_deployment",
    tables,
    sa.Column("flow", sa.Text, primary_key=True),
    sa.Column("format", sa.Integer, nullable=False),
    sa.Column("record", sa.LargeBinary, nullable=False),
)
sa.Table(
    "flow_event",
    tables,
    sa.Column("seq", SERIAL, primary_key=True, autoincrement=True),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("what", sa.Text, nullable=False),
    sa.Column("call_key", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Index(None, "run_id", "seq"),
)
sa.Table(
    "flow_owner",
    tables,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("taken_at_us", sa.BigInteger, nullable=False),
)
sa.Table(
    "flow_run",
    tables,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("flow", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("created_at_us", sa.BigInteger, nullable=False),
    sa.Column("ended_at_us", sa.BigInteger),
    sa.Column("schedule", sa.Text, nullable=False),
    sa.Column("scheduled_for_us", sa.BigInteger),
    sa.Column("idempotency_key", sa.Text, unique=True),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("format", sa.Integer, nullable=False),
    sa.Column("record", sa.LargeBinary, nullable=False),
    sa.Index(None, "flow", "id"),
    sa.Index(None, "state", "id"),
)
sa.Table(
    "flow_attempt",
    tables,
    sa.Column("run_id", sa.Text, sa.ForeignKey("flow_run.id"), primary_key=True),
    sa.Column("call_key", sa.Text, primary_key=True),
    sa.Column("n", sa.Integer, primary_key=True),
    sa.Column("leased_at_us", sa.BigInteger, nullable=False),
    sa.Column("ended_at_us", sa.BigInteger),
    sa.Column("format", sa.Integer, nullable=False),
    sa.Column("record", sa.LargeBinary, nullable=False),
    sa.Index(
        "ix_flow_attempt_open",
        "run_id",
        sqlite_where=sa.text("ended_at_us IS NULL"),
        postgresql_where=sa.text("ended_at_us IS NULL"),
    ),
)
sa.Table(
    "flow_call",
    tables,
    sa.Column("run_id", sa.Text, sa.ForeignKey("flow_run.id"), primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("seq", sa.Integer, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("format", sa.Integer, nullable=False),
    sa.Column("record", sa.LargeBinary, nullable=False),
)

# Features

sa.Table(
    "feature_service",
    tables,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("version", sa.Text, primary_key=True),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("tags", sa.Text, nullable=False),
    sa.Column("definition", sa.Text, nullable=False),
    sa.Column("kinds", sa.Text, nullable=False),
    sa.Column("applied_at_us", sa.BigInteger, nullable=False),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("format", sa.Integer, nullable=False, server_default="1"),
    sa.UniqueConstraint("name", "position"),
)
sa.Table(
    "feature_training_set",
    tables,
    sa.Column("fingerprint", sa.Text, primary_key=True),
    sa.Column("service", sa.Text, nullable=False, index=True),
    sa.Column("record", sa.Text, nullable=False),
    sa.Column("blob", sa.Text, nullable=False),
    sa.Column("made_at_us", sa.BigInteger, nullable=False),
    sa.Column("format", sa.Integer, nullable=False, server_default="1"),
)
sa.Table(
    "feature_view",
    tables,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("version", sa.Text, primary_key=True),
    sa.Column("source", sa.Text, nullable=False, index=True),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("tags", sa.Text, nullable=False),
    sa.Column("definition", sa.Text, nullable=False),
    sa.Column("columns", sa.Text, nullable=False),
    sa.Column("kinds", sa.Text, nullable=False),
    sa.Column("applied_at_us", sa.BigInteger, nullable=False),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("format", sa.Integer, nullable=False, server_default="1"),
    sa.UniqueConstraint("name", "position"),
)

# Models

sa.Table(
    "model_experiment",
    tables,
    sa.Column("name", sa.String(250), primary_key=True),
    sa.Column("created_at_us", sa.BigInteger, nullable=False),
)
sa.Table(
    "model_name",
    tables,
    sa.Column("name", sa.String(100), primary_key=True),
    sa.Column("created_at_us", sa.BigInteger, nullable=False),
    sa.Column("last_number", sa.Integer, nullable=False),
)
sa.Table(
    "model_alias_event",
    tables,
    sa.Column("row", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("key", sa.String(400), unique=True),
    sa.Column("name", sa.String(100), sa.ForeignKey("model_name.name"), nullable=False),
    sa.Column("alias", sa.String(100), nullable=False),
    sa.Column("action", sa.String(16), nullable=False),
    sa.Column("number", sa.Integer),
    sa.Column("before", sa.Integer),
    sa.Column("by", sa.String(250), nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("gates", sa.Text, nullable=False),
    sa.Index(None, "name", "alias", "at_us"),
)
sa.Table(
    "model_alias_rules",
    tables,
    sa.Column("name", sa.String(100), sa.ForeignKey("model_name.name"), primary_key=True),
    sa.Column("alias", sa.String(100), primary_key=True),
    sa.Column("rules", sa.Text, nullable=False),
)
sa.Table(
    "model_run",
    tables,
    sa.Column("row", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String(40), nullable=False, unique=True),
    sa.Column("key", sa.String(400), unique=True),
    sa.Column("format", sa.Integer, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("name", sa.String(250), nullable=False),
    sa.Column("experiment", sa.String(250), sa.ForeignKey("model_experiment.name"), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("by", sa.String(250), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("started_at_us", sa.BigInteger, nullable=False),
    sa.Column("ended_at_us", sa.BigInteger),
    sa.Column("seen_at_us", sa.BigInteger, nullable=False),
    sa.Column("environment", sa.String(80), nullable=False),
    sa.Column("commit", sa.String(64), nullable=False),
    sa.Column("flow_run", sa.String(80), nullable=False),
    sa.Column("facts", sa.Text, nullable=False),
    sa.Index(None, "experiment", "started_at_us"),
    sa.Index(None, "started_at_us"),
    sa.Index(None, "status", "seen_at_us"),
)
sa.Table(
    "model_metric",
    tables,
    sa.Column("run", sa.Integer, sa.ForeignKey("model_run.row", ondelete="CASCADE"), primary_key=True),
    sa.Column("key", sa.String(250), primary_key=True),
    sa.Column("step", sa.BigInteger, primary_key=True),
    sa.Column("at_us", sa.BigInteger, primary_key=True),
    sa.Column("value", sa.Float),
    sqlite_with_rowid=False,
)
sa.Table(
    "model_metric_latest",
    tables,
    sa.Column("run", sa.Integer, sa.ForeignKey("model_run.row", ondelete="CASCADE"), primary_key=True),
    sa.Column("key", sa.String(250), primary_key=True),
    sa.Column("step", sa.BigInteger, nullable=False),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("value", sa.Float),
    sa.Index(None, "key", "value", "run"),
    sqlite_with_rowid=False,
)
sa.Table(
    "model_run_file",
    tables,
    sa.Column("run", sa.Integer, sa.ForeignKey("model_run.row", ondelete="CASCADE"), primary_key=True),
    sa.Column("path", sa.String(1024), primary_key=True),
    sa.Column("digest", sa.String(80), nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
sa.Table(
    "model_run_param",
    tables,
    sa.Column("run", sa.Integer, sa.ForeignKey("model_run.row", ondelete="CASCADE"), primary_key=True),
    sa.Column("key", sa.String(250), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("number", sa.Float),
    sa.Index(None, "key", "number"),
    sqlite_with_rowid=False,
)
sa.Table(
    "model_run_tag",
    tables,
    sa.Column("run", sa.Integer, sa.ForeignKey("model_run.row", ondelete="CASCADE"), primary_key=True),
    sa.Column("key", sa.String(250), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
    sa.Index(None, "key"),
    sqlite_with_rowid=False,
)
sa.Table(
    "model_version",
    tables,
    sa.Column("name", sa.String(100), sa.ForeignKey("model_name.name"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("format", sa.Integer, nullable=False),
    sa.Column("key", sa.String(400), unique=True),
    sa.Column("digest", sa.String(80), nullable=False),
    sa.Column("manifest", sa.String(80), nullable=False),
    sa.Column("run", sa.String(40), sa.ForeignKey("model_run.id"), nullable=False),
    sa.Column("created_at_us", sa.BigInteger, nullable=False),
    sa.Column("by", sa.String(250), nullable=False),
    sa.Column("facts", sa.Text, nullable=False),
    sa.UniqueConstraint("name", "run", "digest"),
    sa.Index(None, "digest"),
    sa.Index(None, "run"),
)
sa.Table(
    "model_alias",
    tables,
    sa.Column("name", sa.String(100), primary_key=True),
    sa.Column("alias", sa.String(100), primary_key=True),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.ForeignKeyConstraint(["name", "number"], ["model_version.name", "model_version.number"]),
)
sa.Table(
    "model_version_tag",
    tables,
    sa.Column("name", sa.String(100), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("key", sa.String(250), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
    sa.ForeignKeyConstraint(["name", "number"], ["model_version.name", "model_version.number"]),
)

# Hosting

sa.Table(
    "hosting_endpoint",
    tables,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("settings", sa.LargeBinary, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("created_at_us", sa.BigInteger, nullable=False),
    sa.Column("changed_at_us", sa.BigInteger, nullable=False),
    sa.Column("format", sa.Integer, nullable=False, server_default="1"),
)
sa.Table(
    "hosting_event",
    tables,
    sa.Column("sequence", SERIAL, primary_key=True),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("endpoint", sa.Text, nullable=False),
    sa.Column("deployment", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Index(None, "endpoint"),
)
sa.Table(
    "hosting_gateway",
    tables,
    sa.Column("slot", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("started_at_us", sa.BigInteger, nullable=False),
    sa.Column("seen_at_us", sa.BigInteger, nullable=False),
    sa.Column("format", sa.Integer, nullable=False, server_default="1"),
)
sa.Table(
    "hosting_deployment",
    tables,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("endpoint", sa.Text, sa.ForeignKey("hosting_endpoint.name"), nullable=False),
    sa.Column("model_name", sa.Text, nullable=False),
    sa.Column("model_number", sa.Integer, nullable=False),
    sa.Column("duty", sa.Text, nullable=False),
    sa.Column("features", sa.Text, nullable=False),
    sa.Column("is_wanted", sa.Boolean, nullable=False),
    sa.Column("phase", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("has_served", sa.Boolean, nullable=False),
    sa.Column("crash_count", sa.Integer, nullable=False),
    sa.Column("created_at_us", sa.BigInteger, nullable=False),
    sa.Column("changed_at_us", sa.BigInteger, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("format", sa.Integer, nullable=False, server_default="1"),
    sa.Index(None, "endpoint"),
)

# Workbench

sa.Table(
    "workbench_notebook_run",
    tables,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("format", sa.Integer, nullable=False),
    sa.Column("name", sa.Text, nullable=False, index=True),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("source_digest", sa.String(80), nullable=False),
    sa.Column("notebook_digest", sa.String(80), nullable=False),
    sa.Column("html_digest", sa.String(80), nullable=False),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("started_at_us", sa.BigInteger, nullable=False, index=True),
    sa.Column("ended_at_us", sa.BigInteger, nullable=False),
    sa.Column("parameters", sa.Text, nullable=False),
    sa.Column("environment", sa.String(80), nullable=False),
    sa.Column("flow_run", sa.String(80), nullable=False),
    sa.Column("usage", sa.Text, nullable=False),
    sa.Column("failure", sa.Text),
    sa.Column("write_key", sa.Text, unique=True),
)

GUARDS = {
    "sqlite": (
        """CREATE TRIGGER catalog_audit_no_update BEFORE UPDATE ON catalog_audit
        BEGIN SELECT RAISE(ABORT, 'the audit is only ever added to'); END""",
        """CREATE TRIGGER catalog_audit_no_delete BEFORE DELETE ON catalog_audit
        BEGIN SELECT RAISE(ABORT, 'the audit is only ever added to'); END""",
    ),
    "postgresql": (
        """CREATE OR REPLACE FUNCTION catalog_audit_guard() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'the audit is only ever added to'; END $$""",
        """CREATE TRIGGER catalog_audit_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON catalog_audit
        EXECUTE FUNCTION catalog_audit_guard()""",
    ),
}


def upgrade() -> None:
    connection = op.get_bind()
    tables.create_all(connection, checkfirst=False)
    for statement in GUARDS[connection.dialect.name]:
        op.execute(statement)
