"""Remember where the purge of ended tasks is."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a table that the version before does not look at."""
    op.create_table(
        "purge",
        sa.Column(
            "only_row",
            sa.Boolean(),
            server_default=sa.text("true"),
            nullable=False,
            comment="True: there is one row",
        ),
        sa.Column(
            "due_at",
            sa.DateTime(timezone=True),
            server_default="-infinity",
            nullable=False,
            comment="Not to be continued before",
        ),
        sa.Column(
            "page",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="The page of tasks where the pass continues",
        ),
        sa.Column(
            "tasks",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="How many tasks the pass has deleted",
        ),
        sa.Column(
            "oldest",
            sa.DateTime(timezone=True),
            comment="When the first of them ended; null: none was deleted",
        ),
        sa.PrimaryKeyConstraint("only_row"),
        sa.CheckConstraint("only_row", name="purge_only_row"),
    )
    op.execute("INSERT INTO purge DEFAULT VALUES")


def downgrade() -> None:
    """Undo."""
    op.drop_table("purge")
