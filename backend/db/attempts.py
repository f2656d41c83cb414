"""The attempts of a task that did not succeed: each has a row.

The newest MAX_ROWS earlier attempts of a task are kept, and the last one if it failed.

What the current attempt did is in the row of its task, except the class of its error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import text

from backend.states import FAILURE, RETRY

if TYPE_CHECKING:
    from collections.abc import Iterable

    from backend.db.session import Executor

MAX_ROWS: Final = 100


def _has_started(task: str) -> str:
    """Return a condition: the current attempt of a row of `task` has a start of its own.

    One that has not started has the `started_at` of an earlier attempt, or none.
    """
    return f"""
        {task}.started_at IS NOT NULL AND NOT EXISTS (
            SELECT FROM task_attempts earlier
            WHERE earlier.task_id = {task}.id AND earlier.started_at = {task}.started_at
        )
    """


# For the statement that gives tasks their next attempt: `again` has the rows as they are now. The
# attempt before may have no start of its own although it has run: in a group or a batch, or its
# process was lost. It has run if it is counted or has raised an error.
NOTE_ATTEMPTS: Final = f"""
    noted AS (
        INSERT INTO task_attempts
            (task_id, attempt, status, worker, started_at, finished_at, error, error_type)
        SELECT id, attempt - 1, CASE WHEN :free THEN '{RETRY}' ELSE '{FAILURE}' END,
            coalesce(:worker, worker), CASE WHEN has_started THEN started_at ELSE now() END,
            clock_timestamp(), :error, :error_type
        FROM (SELECT *, {_has_started("again")} AS has_started FROM again) ended
        WHERE NOT :requested
            AND (has_started OR NOT :free OR CAST(:error_type AS text) IS NOT NULL)
        ON CONFLICT DO NOTHING
    ), forgotten AS (
        DELETE FROM task_attempts USING again
        WHERE task_id = again.id AND task_attempts.attempt < again.attempt - {MAX_ROWS}
    )
"""

_NOTE_LAST = text(
    f"""
    INSERT INTO task_attempts
        (task_id, attempt, status, worker, started_at, finished_at, error, error_type)
    SELECT id, attempt, state, worker, started_at, finished_at, error, :error_type FROM tasks
    WHERE id = ANY(CAST(:ids AS uuid[])) AND {_has_started("tasks")}
    ON CONFLICT DO NOTHING
    """
)


def note_last(connection: Executor, ids: Iterable[str], error_type: str | None = None) -> None:
    """Write the rows of the current attempts of tasks that have ended, if they had started.

    `error_type`: the class of their error, if it is known.
    """
    connection.execute(_NOTE_LAST, {"ids": list(ids), "error_type": error_type})
