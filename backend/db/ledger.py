"""The ledger: every change of a task's state.

Four functions, each for several tasks: `submit`, `claim`, `finish` and `reschedule`. The last three
name the attempt. They do not change a task that has another attempt or another state by then, and
return the tasks that they changed. For the others, the caller must drop its work.

The order of locks: rows of tasks by id, then rows of the outbox. `claim` locks in that order
itself. For `finish` and `reschedule` of several tasks the caller has locked them, as in locked.py.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sqlalchemy import TextClause, text

from backend.db.fragments import (
    CLAIMED,
    NOT_ENDED,
    ROW_BY_ROW,
    array,
    arrays,
    claim_rows,
    lock_waiting,
)
from backend.db.records import LAST_ATTEMPT
from backend.db.session import changed_rows, connection_name
from backend.states import RETRY, STARTED, SUCCESS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from backend.db.records import Claim, TaskRecord
    from backend.db.session import Executor


# One parameter for all of them: psycopg2 takes five times as long to write five arrays.
_SUBMIT = text(
    """
    WITH new AS (
        SELECT * FROM json_to_recordset(CAST(:rows AS json))
            AS new (id uuid, name text, args text, max_attempts smallint, reply_to text)
    ), task AS (
        INSERT INTO tasks (id, name, args, max_attempts, reply_to)
        SELECT id, name, CAST(args AS json), max_attempts, reply_to FROM new ORDER BY id
    ), waiting AS (
        INSERT INTO outbox (task_id) SELECT id FROM new ORDER BY id
    )
    SELECT pg_notify('outbox', '')
    """
)


def submit(connection: Executor, tasks: Sequence[TaskRecord]) -> None:
    """Write ledger row and outbox row of each task; the commit accepts them.

    Writes id, name, args, max_attempts and reply_to. One statement, so that one round trip does
    it; the commit wakes the relays. Raises IntegrityError for an id that the ledger has.
    """
    rows = [
        {
            "id": task.id,
            "name": task.name,
            "args": task.args,
            "max_attempts": task.max_attempts,
            "reply_to": task.reply_to,
        }
        for task in tasks
    ]
    connection.execute(_SUBMIT, {"rows": json.dumps(rows)})


# A task that tasks_submit has stored (migration 0013) has max_attempts 0 until its first claim or
# error, because PostgreSQL does not know what it declares. Attempts before that are not counted.
_MAX_ATTEMPTS = (
    f"CASE max_attempts WHEN 0 THEN least(:declared + attempt - 1, {LAST_ATTEMPT})"
    " ELSE max_attempts END"
)


def _claim(*, flush: bool, skip_locked: bool) -> TextClause:
    statement = f"""
    WITH {lock_waiting("SKIP LOCKED" if skip_locked else "")}, started AS (
        UPDATE tasks SET state = '{STARTED}', worker = :worker, started_at = now(), progress = NULL,
            max_attempts = {_MAX_ATTEMPTS}
        WHERE id = ANY(ARRAY(SELECT id FROM claimed))
    ), gone AS (
        DELETE FROM outbox WHERE task_id = ANY(ARRAY(SELECT id FROM claimed))
    )
    {CLAIMED}
    """
    return text(statement if flush else f"SET LOCAL synchronous_commit = off; {statement}")


_BOTH = (True, False)
_CLAIM = {(flush, skip): _claim(flush=flush, skip_locked=skip) for flush in _BOTH for skip in _BOTH}


def claim(
    connection: Executor,
    attempts: Mapping[str, int],
    worker: str,
    *,
    declared: int = 1,
    flush: bool = True,
    skip_locked: bool = False,
) -> Claim:
    """Start waiting attempts (task id to attempt) for a worker; return those that it got.

    `declared`: the max_attempts that their task declares, for rows that have none yet. Without
    `flush` the commit returns before it is on disk. If PostgreSQL crashes and forgets it, the tasks
    still wait, in the outbox too; queries.states allows for it. `skip_locked`: without locked rows.
    """
    return claim_rows(_CLAIM[flush, skip_locked], connection, attempts, worker, declared=declared)


_SET_MAX_ATTEMPTS = text(
    f"""
    UPDATE tasks SET max_attempts = {_MAX_ATTEMPTS}
    WHERE id = :id AND attempt = :attempt AND {NOT_ENDED} RETURNING max_attempts
    """
)


def set_max_attempts(connection: Executor, task_id: str, attempt: int, declared: int) -> int:
    """Store the max_attempts of a task whose row has none yet; return it.

    Returns 0 if the attempt is not the current one.
    """
    values = {"id": task_id, "attempt": attempt, "declared": declared}
    return connection.execute(_SET_MAX_ATTEMPTS, values).scalar() or 0


# True in the transaction whose now() is :began, and if :began is null. False: the task has ended
# its transaction and another has begun.
_SAME_TRANSACTION = "now() = coalesce(CAST(:began AS timestamptz), now())"


def same_transaction(connection: Executor, began: datetime | None) -> bool:
    """Return whether the transaction under way is the one that began then."""
    found = connection.execute(text(f"SELECT {_SAME_TRANSACTION}"), {"began": began})
    return bool(found.scalar())


# Whether the task is in a state in which the caller may end this attempt.
_COUNTS = f"CASE WHEN tasks.state = '{STARTED}' THEN tasks.worker = :worker ELSE :waiting END"


def _finish(source: str, row: str, plan: str = "") -> TextClause:
    """Return the statement that ends tasks; `row` is the prefix of each value's name.

    `plan`: planner settings for it. They come after RESET ALL, which also ends SET LOCAL. After
    RESET ALL the next task on the connection has none of this task's settings. Application_name is
    set again: by it the reconciler finds a dead worker's connections, through a pooler too.
    """
    return text(
        f"""
        RESET ROLE; RESET ALL;
        SELECT set_config('application_name', :name, false), set_config('datestyle', 'ISO', false);
        {plan}
        WITH finished AS (
            UPDATE tasks
            SET state = {row}state, result = CAST({row}result AS json), error = {row}error,
                worker = coalesce(:worker, tasks.worker),
                started_at = CASE
                    WHEN tasks.state <> '{STARTED}' AND {row}state = '{SUCCESS}' THEN now()
                    ELSE tasks.started_at
                END,
                finished_at = clock_timestamp()
            {source}
            WHERE tasks.id = {row}id AND tasks.attempt = {row}attempt AND {NOT_ENDED}
                AND {_COUNTS} AND {_SAME_TRANSACTION}
            RETURNING tasks.id
        ), gone AS (
            DELETE FROM outbox WHERE task_id = ANY(ARRAY(SELECT id FROM finished))
        )
        SELECT CAST(id AS text) FROM finished
        """
    )


# For one task: the planner knows that it is one row. A list of one takes twice as long.
_FINISH_ONE = _finish("", ":")
_FINISH = _finish(
    """
    FROM unnest(
        CAST(:ids AS uuid[]), CAST(:attempts AS smallint[]), CAST(:states AS text[]),
        CAST(:results AS text[]), CAST(:errors AS text[])
    ) AS ended (id, attempt, state, result, error)
    """,
    "ended.",
    ROW_BY_ROW,
)


def finish(
    connection: Executor,
    outcomes: Sequence[TaskRecord],
    worker: str | None,
    *,
    waiting: bool,
    began: datetime | None = None,
) -> frozenset[str]:
    """End tasks; return the ids of those that it has ended.

    `outcomes`: id, attempt and state; the result of SUCCESS, the error of FAILURE and REVOKED.
    `worker`: a started attempt has to be this worker's. `waiting`: whether an attempt that has not
    started may end too. `began`: when the transaction of the tasks' writes began, if they have
    written; in another transaction nothing is ended. Also resets all settings of session and
    transaction, because a task may have changed them.
    """
    common = {"worker": worker, "waiting": waiting, "began": began, "name": connection_name()}
    if len(outcomes) == 1:
        end = outcomes[0]
        values: dict[str, object] = {
            "id": end.id,
            "attempt": end.attempt,
            "state": end.state,
            "result": end.result,
            "error": end.error,
        }
    else:
        values = {
            "ids": array(end.id for end in outcomes),
            "attempts": array(end.attempt for end in outcomes),
            "states": array(end.state for end in outcomes),
            "results": [end.result for end in outcomes],
            "errors": [end.error for end in outcomes],
        }
    found = connection.execute(_FINISH_ONE if len(outcomes) == 1 else _FINISH, {**values, **common})
    return frozenset(found.scalars())


# A task in attempt LAST_ATTEMPT is not rescheduled: it fails when its worker is lost.
_RESCHEDULE = text(
    f"""
    {ROW_BY_ROW}
    WITH again AS (
        UPDATE tasks
        SET state = '{RETRY}', attempt = tasks.attempt + 1, error = coalesce(:error, error),
            max_attempts = CASE
                WHEN :free AND max_attempts > 0 THEN least(max_attempts, {LAST_ATTEMPT - 1}) + 1
                ELSE max_attempts
            END
        FROM unnest(CAST(:ids AS uuid[]), CAST(:attempts AS smallint[])) AS ended (id, attempt)
        WHERE tasks.id = ended.id AND tasks.attempt = ended.attempt
            AND tasks.attempt < {LAST_ATTEMPT} AND {NOT_ENDED} AND {_COUNTS}
        RETURNING tasks.id, tasks.attempt
    ), entry AS (
        INSERT INTO outbox (task_id, attempt, due_at)
        SELECT id, attempt, now() + make_interval(secs => :delay) FROM again ORDER BY id
        ON CONFLICT (task_id) DO UPDATE
        SET attempt = excluded.attempt, due_at = excluded.due_at, published_at = NULL,
            publishes = 0, limit_key = NULL
    )
    SELECT CAST(id AS text) FROM again
    """
)


def reschedule(
    connection: Executor,
    attempts: Mapping[str, int],
    worker: str | None,
    *,
    waiting: bool,
    free: bool,
    error: str | None = None,
    delay: float = 0,
) -> frozenset[str]:
    """Give tasks their next attempt, due in `delay` seconds; return the ids of those that got it.

    `worker` and `waiting`: as for `finish`. `free`: the attempt that ends here is not counted, so
    max_attempts grows by one too. `error`: why it ended; None keeps the error before.
    """
    values = {
        **arrays(attempts),
        "worker": worker,
        "waiting": waiting,
        "free": free,
        "error": error,
        "delay": delay,
    }
    return frozenset(connection.execute(_RESCHEDULE, values).scalars())


_PROGRESS = text(
    f"""
    UPDATE tasks SET progress = :progress
    WHERE id = :id AND attempt = :attempt AND state = '{STARTED}'
    """
)


def progress(connection: Executor, task_id: str, attempt: int, done: int, total: int) -> bool:
    """Store how far a started task is; return False if the attempt is not the current one."""
    values = {"id": task_id, "attempt": attempt, "progress": f"{done}/{total}"}
    return changed_rows(connection.execute(_PROGRESS, values)) == 1
