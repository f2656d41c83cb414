"""Store what a client asks for when it submits a task."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

COLUMNS = (
    (
        "tasks",
        "options",
        "json",
        "Options of the submission; eta and expires have columns; null: none",
    ),
    ("tasks", "eta", "timestamptz", "Asked for: when the first attempt may start"),
    ("tasks", "expires_at", "timestamptz", "Asked for: from then on no attempt starts"),
    ("outbox", "priority", "smallint", "0 to 9, the highest is published first; null: 4"),
)
ATTEMPT = {
    "task_id": "The task",
    "attempt": "Its number, from 1",
    "status": "FAILURE, REVOKED, or RETRY if it was handed back or put off",
    "worker": "The worker that ran it",
    "started_at": "When it was claimed",
    "finished_at": "When it ended",
    "error": "Why it ended",
    "error_type": "The class of the error",
}
UNFINISHED = "state IN ('PENDING', 'STARTED', 'RETRY')"


def upgrade() -> None:
    """Add columns and partial indexes, which tasks without options do not use.

    Processes of the version before ignore the options of tasks that they handle.
    """
    # Each in a transaction of its own: other processes lock these tables in another order. While
    # one waits for its lock, all others wait behind it.
    with op.get_context().autocommit_block():
        for table, column, kind, comment in COLUMNS:
            op.execute(
                "SET LOCAL lock_timeout = '5s';"
                f" ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {column} {kind};"
                f" COMMENT ON COLUMN {table}.{column} IS '{comment}'"
            )
    op.alter_column("tasks", "args", comment="The arguments, as given")
    _tables()
    _index(
        "tasks_other_ids",
        "tasks",
        ["created_at", "id"],
        "(get_byte(uuid_send(id), 6) >> 4) <> 7 OR id >= '03bb2cc3-d800-0000-0000-000000000000'",
    )
    _index("tasks_expiring", "tasks", ["expires_at"], f"{UNFINISHED} AND expires_at IS NOT NULL")
    _index(
        "outbox_priority_due",
        "outbox",
        ["priority", "due_at"],
        "published_at IS NULL AND priority IS NOT NULL",
    )
    _index(
        "outbox_priority_published",
        "outbox",
        ["priority", "published_at"],
        "published_at IS NOT NULL AND priority IS NOT NULL",
    )


def _tables() -> None:
    op.execute(
        "CREATE TABLE IF NOT EXISTS task_tags"
        " (tag text, task_id uuid, CONSTRAINT task_tags_pkey PRIMARY KEY (tag, task_id))"
    )
    op.execute("COMMENT ON COLUMN task_tags.tag IS 'As given'")
    op.execute("COMMENT ON COLUMN task_tags.task_id IS 'The task, whose options have the tag too'")
    op.execute(
        "CREATE TABLE IF NOT EXISTS task_attempts (task_id uuid, attempt smallint, status text NOT NULL,"
        " worker text, started_at timestamptz, finished_at timestamptz, error text, error_type text,"
        " CONSTRAINT task_attempts_pkey PRIMARY KEY (task_id, attempt))"
    )
    for column, comment in ATTEMPT.items():
        op.execute(f"COMMENT ON COLUMN task_attempts.{column} IS '{comment}'")


def downgrade() -> None:
    """Undo. Tasks lose their options, but keep their due times and numbers of attempts."""
    op.drop_table("task_tags")
    op.drop_table("task_attempts")
    op.drop_index("tasks_other_ids", "tasks")
    for table, column, _, _ in COLUMNS:
        op.drop_column(table, column)
    op.alter_column("tasks", "args", comment="The arguments, as validated")


def _index(name: str, table: str, columns: list[str], rows: str) -> None:
    """Build an index while everybody writes."""
    with op.get_context().autocommit_block():
        # What an interrupted migration has left is not valid.
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
        op.create_index(
            name, table, columns, postgresql_where=sa.text(rows), postgresql_concurrently=True
        )
