"""Store the ids of a key's tasks, so that a repeated request's answer is written from them."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

# Table, column, comment before, comment now.
COMMENTS = [
    (
        "tasks",
        "state",
        "Where the task is; see the state machine in models.py",
        "Where the task is; CONTRIBUTING.md draws the states",
    ),
    (
        "tasks",
        "attempt",
        "The attempt that counts; a message for another is dropped",
        "The current attempt; a message for another attempt is dropped",
    ),
    (
        "tasks",
        "reply_to",
        "The queue of the API process that wants to hear of the outcome",
        "The queue that gets a reply when the task has ended",
    ),
    (
        "tasks",
        "error",
        "Why the last attempt failed, in plain words",
        "Why the last attempt failed; clients read it",
    ),
    (
        "outbox",
        "publishes",
        "How often it was published; spaces the next try",
        "How often it was published; the pause before the next time grows with it",
    ),
    (
        "idempotency_keys",
        "answer",
        "The body of the answer",
        "The body of the answer; only the version before 0009 reads it",
    ),
]


def upgrade() -> None:
    """Add a column that the version before does not look at; its rows have none.

    The default is for the version after this one, which writes no answer.
    """
    # First, since they may wait for a VACUUM: the keys must not be locked in that time.
    for table, column, _, comment in COMMENTS:
        op.alter_column(table, column, comment=comment)
    op.add_column(
        "idempotency_keys",
        sa.Column(
            "ids",
            ARRAY(sa.Uuid()),
            comment="The tasks, in order; null in rows of the version before",
        ),
    )
    op.alter_column("idempotency_keys", "answer", server_default="")


def downgrade() -> None:
    """Undo."""
    for table, column, comment, _ in COMMENTS:
        op.alter_column(table, column, comment=comment)
    op.alter_column("idempotency_keys", "answer", server_default=None)
    op.drop_column("idempotency_keys", "ids")
