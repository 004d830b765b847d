"""Alembic's environment: the tables of `core.schema`, on a connection that the ledger gives."""

from __future__ import annotations

from alembic import context

from core.schema import Base

connection = context.config.attributes.get("connection")
if connection is None:
    # `alembic revision --autogenerate` by hand: the ledger of the settings
    from core.ledger import Ledger
    from core.settings import load

    connection = Ledger(load().ledger_url).engine.connect()

context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite changes a table only by copying it
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
