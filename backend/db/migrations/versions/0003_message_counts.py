"""How many messages there are, without counting them at each question."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# One row for each change; the reconciler adds them up. A single row would get many dead versions
# during a long transaction, and every insert would read them.
COUNT = """
CREATE FUNCTION count_messages() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        DELETE FROM message_counts;
    ELSIF TG_OP = 'INSERT' THEN
        INSERT INTO message_counts (messages) SELECT count(*) FROM changed;
    ELSE
        INSERT INTO message_counts (messages) SELECT -count(*) FROM changed;
    END IF;
    RETURN NULL;
END
$$
"""
TRIGGERS = {
    "count_inserted": "INSERT ON messages REFERENCING NEW TABLE AS changed",
    "count_deleted": "DELETE ON messages REFERENCING OLD TABLE AS changed",
    "count_truncated": "TRUNCATE ON messages",
}


def upgrade() -> None:
    """Count once, under a lock; from then on triggers count, for older versions too."""
    op.create_table(
        "message_counts",
        sa.Column(
            "id",
            sa.BigInteger(),
            sa.Identity(),
            nullable=False,
            comment="Ascending in order of the changes",
        ),
        sa.Column(
            "messages",
            sa.BigInteger(),
            nullable=False,
            comment="How many were added or taken away; all rows add up to the number",
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    # Others wait while we wait for this lock: so only 2 s. `tasks-api migrate` tries again.
    op.execute("SET LOCAL lock_timeout = '2s'")
    op.execute("LOCK TABLE messages IN SHARE ROW EXCLUSIVE MODE")
    op.execute("INSERT INTO message_counts (messages) SELECT count(*) FROM messages")
    op.execute(COUNT)
    for name, event in TRIGGERS.items():
        op.execute(f"CREATE TRIGGER {name} AFTER {event} EXECUTE FUNCTION count_messages()")


def downgrade() -> None:
    """Undo."""
    op.execute("DROP FUNCTION count_messages CASCADE")
    op.drop_table("message_counts")
