"""Note in a worker's row that it got messages of tasks that the ledger does not have."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add two columns that the version before does not look at."""
    op.add_column(
        "workers",
        sa.Column(
            "stray_at",
            sa.DateTime(timezone=True),
            comment="When it last got a message of a task that is not in the table of tasks",
        ),
    )
    op.add_column(
        "workers",
        sa.Column("stray_queue", sa.Text(), comment="The queue that it came from"),
    )


def downgrade() -> None:
    """Undo."""
    op.drop_column("workers", "stray_queue")
    op.drop_column("workers", "stray_at")
