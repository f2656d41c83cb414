"""Count waiting tasks that had no outbox row."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a table that the version before does not look at."""
    op.create_table(
        "repairs",
        sa.Column(
            "only_row",
            sa.Boolean(),
            server_default=sa.text("true"),
            nullable=False,
            comment="True: there is one row",
        ),
        sa.Column(
            "tasks",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="How many waiting tasks had no outbox row",
        ),
        sa.Column(
            "latest",
            sa.DateTime(timezone=True),
            server_default="-infinity",
            nullable=False,
            comment="When a task was last repaired",
        ),
        sa.PrimaryKeyConstraint("only_row"),
        sa.CheckConstraint("only_row", name="repairs_only_row"),
    )
    op.execute("INSERT INTO repairs DEFAULT VALUES")


def downgrade() -> None:
    """Undo."""
    op.drop_table("repairs")
