"""Store the ids of a key's tasks, so that a repeated request's answer is written from them."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a column that the version before does not look at; its rows have none."""
    op.add_column(
        "idempotency_keys",
        sa.Column(
            "ids",
            ARRAY(sa.Uuid()),
            comment="The tasks, in order; null in rows of the version before",
        ),
    )
    op.alter_column(
        "idempotency_keys",
        "answer",
        comment="The body of the answer; only the version before 0009 reads it",
        existing_comment="The body of the answer",
    )
    op.alter_column(
        "tasks",
        "state",
        comment="Where the task is; CONTRIBUTING.md draws the states",
        existing_comment="Where the task is; see the state machine in models.py",
    )


def downgrade() -> None:
    """Undo."""
    op.alter_column(
        "tasks", "state", comment="Where the task is; see the state machine in models.py"
    )
    op.alter_column("idempotency_keys", "answer", comment="The body of the answer")
    op.drop_column("idempotency_keys", "ids")
