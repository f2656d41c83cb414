"""Large ledgers, made by SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.servers import Database

_TASKS = """
    INSERT INTO tasks (id, name, args, state, max_attempts, worker,
                       created_at, started_at, finished_at, result)
    SELECT CAST('01900000-0000-7000-8000-' || lpad(to_hex(i), 12, '0') AS uuid),
           'insert_message', json_build_object('content', 'Hello ' || i), 'SUCCESS',
           5, 'tasks-1@bench', time, time, time,
           json_build_object('id', i, 'content', 'Hello ' || i, 'created_at', time)
    FROM generate_series(1, %s) i, LATERAL (
        SELECT now() - make_interval(days => %s) - (%s - i) * interval '1 s' AS time
    ) t
    """
_MESSAGES = """
    INSERT INTO messages (task_id, content, created_at)
    SELECT id, args ->> 'content', created_at FROM tasks ORDER BY id
    """

# A task every 30 s, whose id has its time: a fifth failed or was revoked, a fifth is slow, a fifth
# has a tag.
_HISTORY = """
    INSERT INTO tasks (id, name, args, state, max_attempts, worker,
                       created_at, started_at, finished_at, result, error, options)
    SELECT CAST(lpad(to_hex(CAST(1000 * extract(epoch FROM time) AS bigint)), 12, '0')
                || '7000' || '8000' || lpad(to_hex(i), 12, '0') AS uuid),
           CASE WHEN mod(i, 5) = 1 THEN 'slow' ELSE 'insert_message' END,
           CAST('{"content":"Hello ' || i || '"}' AS json),
           CASE WHEN mod(i, 5) > 0 THEN 'SUCCESS' WHEN mod(i, 20) = 0 THEN 'REVOKED'
               ELSE 'FAILURE' END,
           5, 'tasks-1@bench', time, time, time,
           CASE WHEN mod(i, 5) > 0 THEN CAST('{"id":' || i || '}' AS json) END,
           CASE WHEN mod(i, 5) = 0 THEN 'refused' END,
           CASE WHEN mod(i, 5) = 2 THEN CAST('{"tags":["nightly"]}' AS json) END
    FROM generate_series(1, %s) i, LATERAL (
        SELECT date_trunc('second', now()) - (%s - i) * interval '30 s' AS time
    ) t;
    INSERT INTO task_tags (tag, task_id)
    SELECT tag, id FROM tasks CROSS JOIN json_array_elements_text(options -> 'tags') AS tag
    UNION ALL
    SELECT 'rare', id FROM tasks WHERE args ->> 'content' LIKE 'Hello %%00000';
    INSERT INTO task_attempts (task_id, attempt, status, worker, started_at, finished_at, error,
                               error_type)
    SELECT id, 1, state, worker, started_at, finished_at, error,
           CASE WHEN args ->> 'content' LIKE '%%00000' THEN 'RareError'
               ELSE 'ConnectionRefusedError' END
    FROM tasks WHERE state IN ('FAILURE', 'REVOKED')
    """


def task_id(number: int) -> str:
    """Return the id of the n-th task, from 1."""
    return f"01900000-0000-7000-8000-{number:012x}"


def fill(database: Database, rows: int, days: int = 0) -> None:
    """Insert `rows` ended message tasks into the ledger, with their messages.

    The last of them ended `days` days ago, each of the others a second before the next one.
    """
    database.query(_TASKS, rows, days, rows)
    database.query(_MESSAGES)
    tidy(database)


def fill_history(database: Database, rows: int) -> None:
    """Insert `rows` ended tasks of several states, names, tags and errors into the ledger."""
    database.query(_HISTORY, rows, rows)
    tidy(database)


def forget_waiting(database: Database) -> None:
    """Delete the tasks that still wait after a load, and vacuum their table."""
    # Together, or the reconciler finds tasks without a row in the outbox, and publishes them.
    database.query("TRUNCATE outbox; DELETE FROM tasks WHERE state = 'PENDING'")
    database.query("VACUUM tasks")


def tidy(database: Database) -> None:
    """Vacuum, analyze and write a checkpoint now, so that no measurement is disturbed."""
    database.query("VACUUM ANALYZE")
    database.query("CHECKPOINT")
