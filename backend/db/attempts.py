"""The attempts of a task that did not succeed: each has a row, at most KEPT for a task.

What the current attempt did is in the row of its task, except the class of its error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import text

from backend.states import FAILURE, RETRY

if TYPE_CHECKING:
    from collections.abc import Iterable

    from backend.db.session import Executor

KEPT: Final = 100

# For the statement that gives tasks their next attempt: `again` has the rows as they are now. An
# attempt that had not started has the `started_at` of an earlier one, or none. If it was counted
# all the same, it ran in a group or a batch, or its process was lost.
NOTE_ATTEMPTS: Final = f"""
    noted AS (
        INSERT INTO task_attempts
            (task_id, attempt, status, worker, started_at, finished_at, error, error_type)
        SELECT id, attempt - 1, CASE WHEN :free THEN '{RETRY}' ELSE '{FAILURE}' END,
            coalesce(:worker, worker), CASE WHEN fresh THEN started_at ELSE now() END,
            clock_timestamp(), :error, :error_type
        FROM (
            SELECT *, started_at IS NOT NULL AND NOT EXISTS (
                SELECT FROM task_attempts before
                WHERE before.task_id = again.id AND before.started_at = again.started_at
            ) AS fresh
            FROM again
        ) again
        WHERE NOT :ended AND (fresh OR NOT :free)
        ON CONFLICT DO NOTHING
    ), forgotten AS (
        DELETE FROM task_attempts USING again
        WHERE task_id = again.id AND task_attempts.attempt < again.attempt - {KEPT}
    )
"""

_NOTE_LAST = text(
    """
    INSERT INTO task_attempts
        (task_id, attempt, status, worker, started_at, finished_at, error, error_type)
    SELECT id, attempt, state, worker, started_at, finished_at, error, :error_type
    FROM tasks WHERE id = ANY(CAST(:ids AS uuid[])) AND started_at IS NOT NULL
    ON CONFLICT DO NOTHING
    """
)


def note_last(connection: Executor, ids: Iterable[str], error_type: str | None = None) -> None:
    """Write the rows of the current attempts of tasks that have ended.

    `error_type`: the class of their error, if it is known.
    """
    connection.execute(_NOTE_LAST, {"ids": list(ids), "error_type": error_type})
