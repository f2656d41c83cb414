"""The ledger: every change of a task's state.

Four functions, each for several tasks: `submit`, `claim`, `finish` and `reschedule`. The last three
name the attempt. They do not change a task that has another attempt or another state by then, and
return the tasks that they changed. For the others, the caller must drop its work.

The order of locks: rows of tasks by id, then rows of the outbox. `claim` locks in that order
itself. For `finish` and `reschedule` of several tasks the caller has locked them, as in locked.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic_core import to_json
from sqlalchemy import TextClause, text

from backend.db.attempts import NOTE_ATTEMPTS
from backend.db.fragments import (
    CLAIMED,
    MAX_ATTEMPTS_OF,
    NOT_ENDED,
    PRIORITY_OF,
    ROW_BY_ROW,
    SAME_TRANSACTION,
    array,
    arrays,
    claim_rows,
    lock_waiting,
)
from backend.db.records import LAST_ATTEMPT
from backend.db.session import connection_name
from backend.options import STORED_AS_JSON
from backend.states import RETRIABLE, RETRY, REVOKED, STARTED, one_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from backend.db.records import Claim, TaskRecord
    from backend.db.session import Executor
    from backend.options import Options


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

# A task without options has none of the last five columns; it is due at once.
_SUBMIT_WITH_OPTIONS = text(
    """
    WITH given AS (
        SELECT * FROM json_to_recordset(CAST(:rows AS json)) AS given (
            id uuid, name text, args text, max_attempts smallint, reply_to text,
            options json, priority smallint, eta timestamptz, countdown float, expires float
        )
    ), new AS (
        SELECT *, coalesce(eta, now() + make_interval(secs => countdown)) AS due_at FROM given
    ), task AS (
        INSERT INTO tasks (
            id, name, args, max_attempts, reply_to, options, eta, expires_at
        )
        SELECT id, name, CAST(args AS json), max_attempts, reply_to, options, due_at,
            greatest(due_at, now()) + make_interval(secs => expires)
        FROM new ORDER BY id
    ), tagged AS (
        INSERT INTO task_tags (tag, task_id)
        SELECT tag, id FROM new CROSS JOIN json_array_elements_text(options -> 'tags') AS tag
        ORDER BY tag, id
    ), waiting AS (
        INSERT INTO outbox (task_id, due_at, priority)
        SELECT id, greatest(due_at, now()), priority FROM new ORDER BY id
    )
    SELECT pg_notify('outbox', '')
    """
)


def submit(connection: Executor, tasks: Sequence[TaskRecord]) -> None:
    """Write ledger row and outbox row of each task in one round trip; the commit accepts the tasks.

    It also wakes the relays. Raises IntegrityError for an id that the ledger has.
    """
    statement = _SUBMIT
    rows: list[dict[str, Any]] = [
        {
            "id": task.id,
            "name": task.name,
            "args": task.args,
            "max_attempts": task.max_attempts,
            "reply_to": task.reply_to,
        }
        for task in tasks
    ]
    for row, task in zip(rows, tasks, strict=True):
        if task.options:
            statement = _SUBMIT_WITH_OPTIONS
            row.update(_columns(task.options))
    # ASCII: a database that is not UTF8 refuses an escape that it cannot store, SQL_ASCII too.
    connection.execute(statement, {"rows": to_json(rows, ensure_ascii=True).decode()})


def _columns(options: Options) -> dict[str, Any]:
    """Return the columns of a task's options, without those that it has not asked for."""
    given = options.given()
    kept = {name: value for name, value in given.items() if name in STORED_AS_JSON}
    return given | ({"options": kept} if kept else {})


def _claim(*, flush: bool, skip_locked: bool) -> TextClause:
    statement = f"""
    WITH {lock_waiting("SKIP LOCKED" if skip_locked else "")}, started AS (
        UPDATE tasks SET state = '{STARTED}', worker = :worker, started_at = now(), progress = NULL,
            max_attempts = {MAX_ATTEMPTS_OF}
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
    in_time: bool = False,
) -> Claim:
    """Start waiting attempts (task id to attempt) for a worker; return those that it got.

    `declared`: the max_attempts that their task declares, for rows that have none yet. Without
    `flush` the commit returns before it is on disk. If PostgreSQL crashes and forgets it, the tasks
    still wait, in the outbox too; queries.states allows for it. `skip_locked`: without locked rows.
    `in_time`: they have begun, so those that have expired since are started too.
    """
    statement = _CLAIM[flush, skip_locked]
    return claim_rows(statement, connection, attempts, worker, declared=declared, in_time=in_time)


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
                    WHEN tasks.state <> '{STARTED}' AND {row}state <> '{REVOKED}' THEN now()
                    ELSE tasks.started_at
                END,
                finished_at = clock_timestamp()
            {source}
            WHERE tasks.id = {row}id AND tasks.attempt = {row}attempt AND {NOT_ENDED}
                AND {_COUNTS} AND {SAME_TRANSACTION}
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
            finished_at = NULL, progress = NULL, max_attempts = CASE
                WHEN :free AND max_attempts > 0 THEN least(max_attempts, {LAST_ATTEMPT - 1}) + 1
                ELSE max_attempts
            END, expires_at = CASE WHEN :requested THEN NULL ELSE expires_at END
        FROM unnest(CAST(:ids AS uuid[]), CAST(:attempts AS smallint[])) AS ended (id, attempt)
        WHERE tasks.id = ended.id AND tasks.attempt = ended.attempt
            AND tasks.attempt < {LAST_ATTEMPT} AND {_COUNTS}
            AND CASE WHEN :requested THEN tasks.state IN {one_of(RETRIABLE)} ELSE {NOT_ENDED} END
        RETURNING tasks.id, tasks.attempt, {PRIORITY_OF} AS priority, tasks.worker, started_at
    ), {NOTE_ATTEMPTS}, entry AS (
        INSERT INTO outbox (task_id, attempt, priority, due_at)
        SELECT id, attempt, priority, now() + make_interval(secs => :delay) FROM again ORDER BY id
        ON CONFLICT (task_id) DO UPDATE
        SET attempt = excluded.attempt, due_at = excluded.due_at, published_at = NULL,
            publishes = 0, limit_key = NULL
    )
    SELECT CAST(id AS text) FROM again
    """
)


def reschedule(  # noqa: PLR0913 - which attempts, why they end, and what follows
    connection: Executor,
    attempts: Mapping[str, int],
    worker: str | None,
    *,
    waiting: bool,
    free: bool,
    requested: bool = False,
    error: str | None = None,
    error_type: str | None = None,
    delay: float = 0,
) -> frozenset[str]:
    """Give tasks their next attempt, due in `delay` seconds; return the ids of those that got it.

    `worker` and `waiting`: as for `finish`. `free`: the attempt that ends here is not counted, so
    max_attempts grows by one too. `requested`: a client asks for it, so only tasks that are FAILURE
    or REVOKED get one. `error`: why it ended, and `error_type` its class; None keeps the error
    before.
    """
    which = {"worker": worker, "waiting": waiting, "free": free, "requested": requested}
    why = {"error": error, "error_type": error_type}
    values = {**arrays(attempts), **which, **why, "delay": delay}
    return frozenset(connection.execute(_RESCHEDULE, values).scalars())
