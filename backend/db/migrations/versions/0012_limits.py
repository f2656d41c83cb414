"""Store by which limit a task runs or waits."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

LIMIT_KEY = "What its limit (max_running) counts; null: it has none, or has not been compared yet"


def upgrade() -> None:
    """Add columns and partial indexes, which tasks without a limit do not use."""
    for table in ("tasks", "outbox"):
        # The indexes below commit this, so an interrupted migration may have added it.
        op.execute(f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS limit_key text")
        op.execute(f"COMMENT ON COLUMN {table}.limit_key IS '{LIMIT_KEY}'")
    _index("tasks_limited", "tasks", ["limit_key"], "state = 'STARTED' AND limit_key IS NOT NULL")
    _index("outbox_limited", "outbox", ["limit_key", "due_at", "task_id"], "limit_key IS NOT NULL")


def downgrade() -> None:
    """Undo. Tasks that wait for their limit become due."""
    op.execute(
        "UPDATE outbox SET due_at = now() WHERE limit_key IS NOT NULL AND due_at = 'infinity'"
    )
    for table in ("tasks", "outbox"):
        op.drop_column(table, "limit_key")


def _index(name: str, table: str, columns: list[str], rows: str) -> None:
    """Build an index while everybody writes."""
    with op.get_context().autocommit_block():
        # What an interrupted migration has left is not valid.
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
        op.create_index(
            name, table, columns, postgresql_where=sa.text(rows), postgresql_concurrently=True
        )
