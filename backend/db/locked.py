"""Locks of tasks, and changes that lock the task first: an error, a revoke, a worker that stops."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

from backend.db.attempts import note_last
from backend.db.bounds import rows_from
from backend.db.fragments import (
    CLAIMED,
    MAX_ATTEMPTS_OF,
    NOT_ENDED,
    array,
    claim_rows,
    lock_waiting,
)
from backend.db.ledger import finish, reschedule
from backend.db.records import TaskRecord, outcome
from backend.states import FAILURE, RETRY, REVOKED, STARTED, State

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from backend.db.records import Claim
    from backend.db.session import Executor

_LOCKED = """
    SELECT CAST(id AS text) AS id, attempt, max_attempts, state, worker, reply_to, error
    FROM tasks
"""
_BY_ID = f"{_LOCKED} WHERE id = ANY(CAST(:ids AS uuid[])) ORDER BY tasks.id FOR UPDATE"
_LOCK = text(_BY_ID)
_LOCK_FREE = text(f"{_BY_ID} SKIP LOCKED")
_LOCK_STARTED_BY = text(
    f"{_LOCKED} WHERE {rows_from('started_from')} AND worker = :worker ORDER BY tasks.id FOR UPDATE"
)


def lock(
    connection: Executor, ids: Iterable[str], *, skip_locked: bool = False
) -> dict[str, TaskRecord]:
    """Lock the rows of tasks, in order of id; return those that exist, by id.

    Reads id, attempt, max_attempts, state, worker, reply_to and error. `skip_locked`: leave out
    rows that another transaction has locked.
    """
    rows = connection.execute(_LOCK_FREE if skip_locked else _LOCK, {"ids": array(ids)})
    return {
        row.id: TaskRecord(
            row.id,
            max_attempts=row.max_attempts,
            reply_to=row.reply_to,
            attempt=row.attempt,
            state=State(row.state),
            worker=row.worker,
            error=row.error,
        )
        for row in rows
    }


_HOLD = text(f"WITH {lock_waiting()} {CLAIMED}")
# A lone attempt may run long. Its row of the outbox is locked too, or `republish` would send it
# again, and the batch that gets it would wait. For each task of a batch this costs too much.
_HOLD_ONE = text(
    f"""
    WITH {lock_waiting()}, entries AS (
        SELECT FROM outbox WHERE task_id = ANY(ARRAY(SELECT id FROM claimed)) FOR UPDATE
    )
    {CLAIMED} WHERE (SELECT count(*) FROM entries) IS NOT NULL
    """
)
# A process that is frozen cannot end its transaction, so PostgreSQL does, and unlocks the rows.
_HOLD_BRIEFLY = text(
    f"""
    SET LOCAL idle_in_transaction_session_timeout = '1s';
    WITH {lock_waiting("SKIP LOCKED")} {CLAIMED}
    """
)


def hold(
    connection: Executor, attempts: Mapping[str, int], worker: str, *, briefly: bool = False
) -> Claim:
    """Lock waiting attempts (task id to attempt) without a change; return those that it got.

    Until the transaction ends, no other one can start or end them. `finish` may end them in it.
    `briefly`: leave out those that another transaction has locked. If this one does nothing for
    1 s, PostgreSQL ends it and the connection.
    """
    statement = _HOLD_ONE if len(attempts) == 1 else _HOLD
    return claim_rows(_HOLD_BRIEFLY if briefly else statement, connection, attempts, worker)


def lock_started_by(connection: Executor, worker: str) -> dict[str, int]:
    """Lock the tasks that a worker has started and not ended; return each task's attempt."""
    rows = connection.execute(_LOCK_STARTED_BY, {"worker": worker})
    return {row.id: row.attempt for row in rows}


_SET_MAX_ATTEMPTS = text(
    f"""
    UPDATE tasks SET max_attempts = {MAX_ATTEMPTS_OF}
    WHERE id = :id AND attempt = :attempt AND {NOT_ENDED} RETURNING max_attempts
    """
)


def _set_max_attempts(connection: Executor, task_id: str, attempt: int, declared: int) -> int:
    """Store the max_attempts of a task whose row has none yet; return it.

    Returns 0 if the attempt is not the current one.
    """
    values = {"id": task_id, "attempt": attempt, "declared": declared}
    return connection.execute(_SET_MAX_ATTEMPTS, values).scalar() or 0


def fail(  # noqa: PLR0913 - the attempt, its error, and the four conditions of a next attempt
    connection: Executor,
    task_id: str,
    attempt: int,
    error: str,
    worker: str | None,
    *,
    declared: int = 1,
    waiting: bool = True,
    retry: bool = True,
    delay: float = 0,
    error_type: str | None = None,
) -> State | None:
    """End an attempt with an error: RETRY if attempts are left and `retry` is true, else FAILURE.

    `declared`: as for `claim`. `worker` and `waiting`: as for `finish`. The next attempt is due in
    `delay` seconds. `error_type`: the class of the error. Returns the new state, None if the
    attempt is not the current one.
    """
    row = lock(connection, [task_id]).get(task_id)
    max_attempts = 0
    if row is not None and retry:
        max_attempts = row.max_attempts or _set_max_attempts(connection, task_id, attempt, declared)
    if attempt < max_attempts:
        again = reschedule(
            connection,
            {task_id: attempt},
            worker,
            waiting=waiting,
            free=False,
            error=error,
            error_type=error_type,
            delay=delay,
        )
        return RETRY if again else None
    end = outcome(task_id, attempt, FAILURE, error=error)
    if not finish(connection, [end], worker, waiting=waiting):
        return None
    note_last(connection, [task_id], error_type)
    return FAILURE


_DUE_SINCE = text(
    """
    SELECT EXISTS (
        SELECT FROM outbox
        WHERE task_id = :id AND due_at > clock_timestamp() - make_interval(secs => :age)
    )
    """
)


def revoke(
    connection: Executor, task_id: str, error: str, attempt: int | None = None, age: float = 0
) -> TaskRecord | None:
    """Revoke a task, unless it has ended or has a later attempt.

    Without `attempt`, revoke it only if it waits. `age`: how many seconds ago the revoke came.
    Another worker may have recorded the same revoke, and a client may have retried the task since:
    then nothing changes. Returns the task, with the revoked attempt, or None.
    """
    row = lock(connection, [task_id]).get(task_id)
    if row is None or (attempt is None and row.state == STARTED):
        return None
    if attempt is None and (row.state, row.error) == (RETRY, error):
        values = {"id": task_id, "age": age}
        if connection.execute(_DUE_SINCE, values).scalar():
            return None
    end = outcome(task_id, attempt or row.attempt, REVOKED, error=error)
    revoked = finish(connection, [end], row.worker, waiting=True)
    return row._replace(attempt=end.attempt) if revoked else None
