"""Store which queues a worker consumes."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; workers of the version before leave it null."""
    op.add_column(
        "workers",
        sa.Column(
            "queues",
            ARRAY(sa.Text()),
            comment="The queues that it consumes, without QUEUE_PREFIX; null: tasks and"
            " short_tasks",
        ),
    )


def downgrade() -> None:
    """Undo."""
    op.drop_column("workers", "queues")
