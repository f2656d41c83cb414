"""Which queue a task was published to: each queue is compared with its own tasks."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a column that the version before neither reads nor writes."""
    op.add_column(
        "outbox",
        sa.Column(
            "bundled",
            sa.Boolean(),
            comment="Whether it was last published in a bundle (short_tasks); null: not yet"
            " published",
        ),
    )


def downgrade() -> None:
    """Undo."""
    op.drop_column("outbox", "bundled")
