"""The workbench room's table: notebooks that were run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from fourfold.catalog.database import Catalog, metadata
from fourfold.core import wire
from fourfold.core.ports.engine import Usage
from fourfold.core.times import Instant
from fourfold.core.workbench import CellFailure, NotebookRun, NotebookState

NOTEBOOK_RUN = sa.Table(
    "workbench_notebook_run",
    metadata,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("format", sa.Integer, nullable=False, default=1),
    sa.Column("name", sa.Text, nullable=False, index=True),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("source_digest", sa.String(80), nullable=False),
    sa.Column("notebook_digest", sa.String(80), nullable=False),
    sa.Column("html_digest", sa.String(80), nullable=False),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("started_at_us", sa.BigInteger, nullable=False, index=True),
    sa.Column("ended_at_us", sa.BigInteger, nullable=False),
    sa.Column("parameters", sa.Text, nullable=False),  # JSON
    sa.Column("environment", sa.String(80), nullable=False),
    sa.Column("flow_run", sa.String(80), nullable=False),
    sa.Column("usage", sa.Text, nullable=False),
    sa.Column("failure", sa.Text),
    # The key of the write where it was made in a step: an attempt that is made again finds its run.
    sa.Column("write_key", sa.Text, unique=True),
)


class NotebookRuns:
    """Reads and writes runs of notebooks."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def add(self, run: NotebookRun, *, write_key: str | None) -> None:
        row = {
            "id": run.id,
            "format": 1,
            "name": run.name,
            "path": run.path,
            "source_digest": run.source_digest,
            "notebook_digest": run.notebook_digest,
            "html_digest": run.html_digest,
            "state": run.state.value,
            "started_at_us": run.started_at,
            "ended_at_us": run.ended_at,
            "parameters": wire.encode(run.parameters).decode(),
            "environment": run.environment,
            "flow_run": run.flow_run,
            "usage": wire.encode(run.usage).decode(),
            "failure": None if run.failure is None else wire.encode(run.failure).decode(),
            "write_key": write_key,
        }
        with self._catalog.write() as connection:
            connection.execute(sa.insert(NOTEBOOK_RUN), row)

    def find(self, name: str | None, limit: int) -> tuple[NotebookRun, ...]:
        """Newest first."""
        query = sa.select(NOTEBOOK_RUN).limit(limit)
        query = query.order_by(NOTEBOOK_RUN.c.started_at_us.desc(), NOTEBOOK_RUN.c.id.desc())
        if name is not None:
            query = query.where(NOTEBOOK_RUN.c.name == name)
        with self._catalog.read() as connection:
            return tuple(_run(row) for row in connection.execute(query).mappings())

    def get(self, run_id: str) -> NotebookRun | None:
        return self._one(NOTEBOOK_RUN.c.id == run_id)

    def written_by(self, write_key: str) -> NotebookRun | None:
        """The run that this write of a step made in an earlier attempt."""
        return self._one(NOTEBOOK_RUN.c.write_key == write_key)

    def _one(self, which: sa.ColumnElement[bool]) -> NotebookRun | None:
        with self._catalog.read() as connection:
            row = connection.execute(sa.select(NOTEBOOK_RUN).where(which)).mappings().one_or_none()
        return None if row is None else _run(row)


def _run(row: Mapping[Any, Any]) -> NotebookRun:
    failure = row["failure"]
    return NotebookRun(
        id=row["id"],
        name=row["name"],
        path=row["path"],
        source_digest=row["source_digest"],
        notebook_digest=row["notebook_digest"],
        html_digest=row["html_digest"],
        state=NotebookState(row["state"]),
        started_at=Instant(row["started_at_us"]),
        ended_at=Instant(row["ended_at_us"]),
        parameters=wire.decode(row["parameters"], dict[str, Any], what="stored parameters"),
        environment=row["environment"],
        flow_run=row["flow_run"],
        usage=wire.decode(row["usage"], Usage, what="stored usage"),
        failure=None if failure is None else wire.decode(failure, CellFailure, what="stored failure"),
    )
