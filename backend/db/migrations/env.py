"""Alembic's entry: runs on the connection that backend/db/migrate.py hands over."""

from alembic import context

from backend.db import single_rows  # noqa: F401 - it adds tables to the metadata
from backend.db.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    compare_server_default=True,
    on_version_apply=context.config.attributes.get("on_version_apply"),
    # A migration may end its transaction (CREATE INDEX CONCURRENTLY), but only its own.
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
