"""Find started tasks by the time of their start, so that a scan can skip old entries."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Replace an index; the version before can use the new one too."""
    _replace("tasks_started", by="tasks_started_at", on="started_at")
    op.execute(f"COMMENT ON COLUMN workers.expires_at IS '{FOR_PEOPLE}'")


def downgrade() -> None:
    """Undo."""
    op.execute("COMMENT ON COLUMN workers.expires_at IS 'When the worker counts as dead'")
    _replace("tasks_started_at", by="tasks_started", on="worker")


FOR_PEOPLE = "When it should have been renewed; for people, no code compares it with a clock"


def _replace(old: str, *, by: str, on: str) -> None:
    """Build an index while everybody writes, and drop the other one."""
    with op.get_context().autocommit_block():
        # What an interrupted migration has left is not valid.
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {by}")
        op.create_index(
            by,
            "tasks",
            [on],
            postgresql_where=sa.text("state = 'STARTED'"),
            postgresql_concurrently=True,
        )
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {old}")
