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


def forget_waiting(database: Database) -> None:
    """Delete the tasks that still wait after a load, and vacuum their table."""
    # Together, or the reconciler finds tasks without a row in the outbox, and publishes them.
    database.query("TRUNCATE outbox; DELETE FROM tasks WHERE state = 'PENDING'")
    database.query("VACUUM tasks")


def tidy(database: Database) -> None:
    """Vacuum, analyze and write a checkpoint now, so that no measurement is disturbed."""
    database.query("VACUUM ANALYZE")
    database.query("CHECKPOINT")
