"""Where scans start, the latest time seen, and a count of messages that survives TRUNCATE."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

BOUNDS = {
    "unfinished_from": "No tasks.created_at of a task that has not ended is older",
    "started_from": "No tasks.started_at of a started task is older",
    "due_from": "No outbox.due_at of a row that is to be published is older",
    "published_from": "No outbox.published_at is older",
}

COUNT = """
CREATE OR REPLACE FUNCTION count_messages() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        {forget};
    ELSIF TG_OP = 'INSERT' THEN
        INSERT INTO message_counts (messages) SELECT count(*) FROM changed;
    ELSE
        INSERT INTO message_counts (messages) SELECT -count(*) FROM changed;
    END IF;
    RETURN NULL;
END
$$
"""


def upgrade() -> None:
    """Add tables that the version before does not look at."""
    op.create_table(
        "scan_bounds",
        _only_row(),
        *(_time(name, comment) for name, comment in BOUNDS.items()),
        sa.PrimaryKeyConstraint("only_row"),
        sa.CheckConstraint("only_row", name="scan_bounds_only_row"),
    )
    op.create_table(
        "clock",
        _only_row(),
        _time("latest", "The latest time seen; a clock that shows less was set back"),
        sa.PrimaryKeyConstraint("only_row"),
        sa.CheckConstraint("only_row", name="clock_only_row"),
    )
    op.execute("INSERT INTO scan_bounds DEFAULT VALUES")
    op.execute("INSERT INTO clock DEFAULT VALUES")
    # A DELETE leaves the row that a transaction under way is about to insert, as the reconciler's
    # does that adds up the counts. TRUNCATE waits for its end and leaves nothing.
    op.execute(COUNT.format(forget="TRUNCATE message_counts"))


def downgrade() -> None:
    """Undo."""
    op.execute(COUNT.format(forget="DELETE FROM message_counts"))
    op.drop_table("clock")
    op.drop_table("scan_bounds")


def _only_row() -> sa.Column[bool]:
    return sa.Column(
        "only_row",
        sa.Boolean(),
        server_default=sa.text("true"),
        nullable=False,
        comment="True: there is one row",
    )


def _time(name: str, comment: str) -> sa.Column[object]:
    return sa.Column(
        name,
        sa.DateTime(timezone=True),
        server_default="-infinity",
        nullable=False,
        comment=comment,
    )
