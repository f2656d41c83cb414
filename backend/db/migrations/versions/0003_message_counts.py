"""How many messages there are, without counting them at each question."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# A row that another transaction has changed and not committed is passed over, so nobody waits:
# there are as many rows as there were transactions at once.
COUNT = """
CREATE FUNCTION count_messages() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    change bigint;
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        DELETE FROM message_counts;
        RETURN NULL;
    END IF;
    SELECT CASE WHEN TG_OP = 'INSERT' THEN count(*) ELSE -count(*) END INTO change FROM changed;
    IF change <> 0 THEN
        UPDATE message_counts SET messages = messages + change
        WHERE id = (SELECT id FROM message_counts LIMIT 1 FOR UPDATE SKIP LOCKED);
        IF NOT FOUND THEN
            INSERT INTO message_counts (messages) VALUES (change);
        END IF;
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
    """Count once, while nobody writes, and keep count from then on; older versions count on."""
    op.create_table(
        "message_counts",
        sa.Column(
            "id",
            sa.BigInteger(),
            sa.Identity(),
            nullable=False,
            comment="One of as many as there were transactions at once",
        ),
        sa.Column(
            "messages",
            sa.BigInteger(),
            nullable=False,
            comment="A part of the number of messages; the parts add up to it",
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.execute("LOCK TABLE messages IN SHARE ROW EXCLUSIVE MODE")
    op.execute("INSERT INTO message_counts (messages) SELECT count(*) FROM messages")
    op.execute(COUNT)
    for name, event in TRIGGERS.items():
        op.execute(f"CREATE TRIGGER {name} AFTER {event} EXECUTE FUNCTION count_messages()")


def downgrade() -> None:
    """Undo."""
    op.execute("DROP FUNCTION count_messages CASCADE")
    op.drop_table("message_counts")
