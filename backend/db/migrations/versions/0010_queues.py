"""Store to which queue an attempt was published, and which tasks take long."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; rows without it were published by the version before, which has `bundled`."""
    op.alter_column(
        "outbox",
        "bundled",
        comment="Whether its queue is short_tasks; only the version before 0010 reads it",
    )
    op.add_column(
        "outbox",
        sa.Column(
            "queue",
            sa.Text(),
            comment="The queue that it was last published to; null: not yet, or by an older"
            " version",
        ),
    )
    op.add_column(
        "workers",
        sa.Column(
            "long_tasks",
            ARRAY(sa.Text()),
            comment="Tasks whose attempts take long; relays do not bundle them",
        ),
    )


def downgrade() -> None:
    """Undo."""
    op.drop_column("workers", "long_tasks")
    op.alter_column(
        "outbox",
        "bundled",
        comment="Whether it was last published in a bundle (short_tasks); null: not yet published",
    )
    op.drop_column("outbox", "queue")
