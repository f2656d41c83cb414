"""Idempotency keys."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a table that the version before does not look at."""
    op.create_table(
        "idempotency_keys",
        sa.Column("key", sa.Text(), nullable=False, comment="The client's key"),
        sa.Column(
            "fingerprint", sa.Text(), nullable=False, comment="A digest of what was asked for"
        ),
        sa.Column("answer", sa.Text(), nullable=False, comment="The body of the answer"),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When the key was first used",
        ),
        sa.PrimaryKeyConstraint("key"),
    )
    op.create_index("idempotency_keys_age", "idempotency_keys", ["created_at"])


def downgrade() -> None:
    """Undo."""
    op.drop_table("idempotency_keys")
