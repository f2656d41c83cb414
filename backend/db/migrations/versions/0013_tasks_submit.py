"""Submit a task from any transaction, by a function of SQL."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

# The advisory lock shows reconcilers, until the transaction ends, that rows of this minute may
# still come (backend/db/bounds.py). So the times are not those at which the transaction began.
# max_attempts 0 is replaced by what the task declares when its first attempt starts.
# The id is a UUID of version 7: a random one whose first 48 bits are replaced by the milliseconds,
# and whose version is changed from 4 to 7 by two bits.
SUBMIT = """
CREATE FUNCTION {schema}.tasks_submit(name text, arguments json, id uuid DEFAULT NULL)
RETURNS uuid LANGUAGE plpgsql SET search_path = {schema}, pg_temp AS $function$
DECLARE
    accepted CONSTANT timestamptz := clock_timestamp();
    milliseconds CONSTANT bigint := floor(extract(epoch FROM accepted) * 1000);
    new_id CONSTANT uuid := coalesce(id, CAST(encode(
        set_bit(set_bit(overlay(
            uuid_send(gen_random_uuid()) PLACING substring(int8send(milliseconds) FROM 3) FROM 1
        ), 52, 1), 53, 1),
        'hex') AS uuid));
BEGIN
    IF (name ~ '^[a-z][a-z0-9_]{{0,99}}$') IS NOT TRUE THEN
        RAISE invalid_parameter_value USING MESSAGE =
            'a name of a task has up to 100 lower case letters, digits and underscores, and begins'
            ' with a letter; got ' || quote_nullable(left(name, 100));
    ELSIF arguments IS NULL THEN
        RAISE invalid_parameter_value USING MESSAGE =
            'the arguments of a task are JSON such as {{}}; got NULL';
    ELSIF octet_length(CAST(arguments AS text)) > 1048576 THEN
        RAISE invalid_parameter_value USING MESSAGE = 'the arguments of the task are over 1 MiB';
    END IF;
    PERFORM pg_advisory_xact_lock_shared(80600011, CAST(milliseconds / 60000 AS int));
    INSERT INTO tasks (id, name, args, max_attempts, created_at)
    VALUES (new_id, name, arguments, 0, accepted);
    INSERT INTO outbox (task_id, due_at) VALUES (new_id, accepted);
    PERFORM pg_notify('outbox', '');
    RETURN new_id;
END
$function$
"""
COMMENT = "Submits a task in the transaction of the caller; returns its id. TASKS.md describes it"


def upgrade() -> None:
    """Add a function. Processes of the version before give its tasks one attempt."""
    op.alter_column(
        "tasks",
        "max_attempts",
        comment="The attempt after which an error is final; 0: as declared, not yet known",
    )
    schema = op.get_bind().scalar(
        sa.text(
            "SELECT CAST(CAST(relnamespace AS regnamespace) AS text) FROM pg_class"
            " WHERE oid = CAST('tasks' AS regclass)"
        )
    )
    op.execute(SUBMIT.format(schema=schema))
    op.execute(f"COMMENT ON FUNCTION {schema}.tasks_submit IS '{COMMENT}'")


def downgrade() -> None:
    """Undo. Tasks that have not started keep max_attempts 0, which means one attempt."""
    op.execute("DROP FUNCTION tasks_submit")
    op.alter_column("tasks", "max_attempts", comment="The attempt after which an error is final")
