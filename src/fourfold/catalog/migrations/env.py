"""What Alembic runs: the migrations, in the transaction that `catalog.upgrade` has begun.

Migrations are written by hand and import no room: what a table was then is written out here.
"""

from __future__ import annotations

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    transactional_ddl=False,  # the transaction is the caller's, and so is its commit
    render_as_batch=True,
)
context.run_migrations()
