"""The ledger: every change of a task's state, each by one guarded statement.

A guard names the attempt and the states that it may leave; a statement that changes no row was
about an attempt that no longer counts, and its caller drops whatever it had in hand. Locks are
taken in the order tasks, outbox.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import text

from backend.db.bounds import rows_from
from backend.db.session import changed_rows, connection_name
from backend.states import ENDED, FAILURE, RETRY, REVOKED, STARTED, SUCCESS, one_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from backend.db.session import Executor


class Submission(NamedTuple):
    """A task to be accepted; `args` is JSON text."""

    id: str
    name: str
    args: str
    max_attempts: int
    reply_to: str | None


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


def submit(connection: Executor, submissions: Sequence[Submission]) -> None:
    """Write ledger row and outbox row of each submission; with the commit they are accepted.

    One statement, so that one round trip does it; the commit rings the relays' bell.
    """
    rows = json.dumps([new._asdict() for new in submissions])
    connection.execute(_SUBMIT, {"rows": rows})


# The same as models.IS_UNFINISHED, written so that only the index of the keys fits. With `state IN`
# the index of unfinished tasks fits too, and with statistics from before a burst PostgreSQL reads
# all of it to find one task.
_UNFINISHED = f"state NOT IN {one_of(ENDED)}"
# PENDING or RETRY.
_WAITING = f"{_UNFINISHED} AND state <> '{STARTED}'"

_CLAIM = text(
    f"""
    WITH claimed AS (
        UPDATE tasks SET state = '{STARTED}', worker = :worker, started_at = now(), progress = NULL
        WHERE id = :id AND attempt = :attempt AND {_WAITING}
        RETURNING id
    ), gone AS (
        DELETE FROM outbox USING claimed WHERE task_id = claimed.id
    )
    SELECT now() FROM claimed
    """
)


def claim(connection: Executor, task_id: str, attempt: int, worker: str) -> datetime | None:
    """Start an attempt; return when its transaction began, None where it is not to be started."""
    row = connection.execute(_CLAIM, {"id": task_id, "attempt": attempt, "worker": worker})
    began: datetime | None = row.scalar()
    return began


_ENTER = text(
    f"""
    INSERT INTO tasks (id, name, args, max_attempts, reply_to, state, worker, started_at)
    VALUES (
        :id, :name, CAST(:args AS json), :max_attempts, :reply_to, '{STARTED}', :worker, now()
    )
    ON CONFLICT (id) DO NOTHING
    RETURNING now()
    """
)


def enter(connection: Executor, new: Submission, worker: str) -> datetime | None:
    """Enter and start a task that another program has sent.

    Returns when the transaction began, None where its id is already known.
    """
    row = connection.execute(_ENTER, {**new._asdict(), "worker": worker})
    began: datetime | None = row.scalar()
    return began


# Of the given attempts, locks those that wait, in order of id. One lookup a task takes half as long
# as a join, which reads the whole table while that is small.
_LOCK_WAITING = f"""
    SELECT locked.id FROM (
        SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:attempts AS smallint[]))
            AS wanted (id, attempt)
        ORDER BY id
    ) wanted CROSS JOIN LATERAL (
        SELECT id FROM tasks
        WHERE id = wanted.id AND attempt = wanted.attempt AND {_WAITING}
        FOR UPDATE
    ) locked
"""

# Locks without changing: the state before stays visible until the one commit of the whole batch.
_CLAIM_TOGETHER = text(
    f"""
    WITH claimed AS (
        {_LOCK_WAITING}
    ), gone AS (
        DELETE FROM outbox WHERE task_id = ANY(ARRAY(SELECT id FROM claimed))
    )
    SELECT array_agg(CAST(id AS text)), now() FROM claimed
    """
)


def _array(values: Iterable[str | int]) -> str:
    """Return an array of ids or numbers as PostgreSQL writes it.

    PostgreSQL and psycopg2 take several times as long for a list of parameters.
    """
    return f"{{{','.join(map(str, values))}}}"


def _as_arrays(attempts: Mapping[str, int]) -> dict[str, str]:
    return {"ids": _array(attempts), "attempts": _array(attempts.values())}


def claim_together(connection: Executor, attempts: Mapping[str, int]) -> tuple[set[str], datetime]:
    """Claim attempts (task id to attempt) that end in this very transaction.

    Returns the ids of those to be started, and when the transaction began; the others do not count.
    """
    ids, began = connection.execute(_CLAIM_TOGETHER, _as_arrays(attempts)).one()
    return set(ids or ()), began


# True only in the transaction whose now() is :began. False: the task has ended it and another has
# begun.
_SAME_TRANSACTION = "now() = coalesce(CAST(:began AS timestamptz), now())"


def same_transaction(connection: Executor, began: datetime | None) -> bool:
    """Return whether the transaction under way is the one that began then."""
    found = connection.execute(text(f"SELECT {_SAME_TRANSACTION}"), {"began": began})
    return bool(found.scalar())


# One lookup a task, as above. `claim_together` has locked the rows, so they stay where they are.
_SUCCEED_TOGETHER = text(
    f"""
    UPDATE tasks
    SET state = '{SUCCESS}', worker = :worker, result = CAST(ended.result AS json), error = NULL,
        started_at = now(), finished_at = clock_timestamp()
    FROM unnest(CAST(:ids AS uuid[]), CAST(:attempts AS smallint[]), CAST(:results AS text[]))
        AS ended (id, attempt, result)
    CROSS JOIN LATERAL (
        SELECT ctid AS place FROM tasks
        WHERE id = ended.id AND attempt = ended.attempt AND {_WAITING}
        OFFSET 0
    ) claimed
    WHERE tasks.ctid = claimed.place AND tasks.attempt = ended.attempt AND {_WAITING}
        AND {_SAME_TRANSACTION}
    """
)


def succeed_together(
    connection: Executor,
    attempts: Mapping[str, int],
    results: Mapping[str, str],
    worker: str,
    began: datetime,
) -> bool:
    """End claimed attempts with their values (JSON text).

    `began`: as `claim_together` gave it. False if one of them does not count, or the transaction
    is another.
    """
    changed = connection.execute(
        _SUCCEED_TOGETHER,
        {
            **_as_arrays({task_id: attempts[task_id] for task_id in results}),
            "results": list(results.values()),
            "worker": worker,
            "began": began,
        },
    )
    return changed_rows(changed) == len(results)


_PROGRESS = text(
    f"""
    UPDATE tasks SET progress = :progress
    WHERE id = :id AND attempt = :attempt AND state = '{STARTED}'
    """
)


def progress(connection: Executor, task_id: str, attempt: int, done: int, total: int) -> bool:
    """Note how far a started task is; False where the attempt no longer counts."""
    changed = connection.execute(
        _PROGRESS, {"id": task_id, "attempt": attempt, "progress": f"{done}/{total}"}
    )
    return changed_rows(changed) == 1


# What a task has set for its session must not reach the next task on the same connection. Through a
# pooler RESET ALL also undoes the name, by which the reconciler finds a dead worker's connections.
_SUCCEED = text(
    f"""
    RESET ROLE; RESET ALL;
    SELECT set_config('application_name', :name, false), set_config('datestyle', 'ISO', false);
    UPDATE tasks
    SET state = '{SUCCESS}', result = CAST(:result AS json), error = NULL, finished_at = now()
    WHERE id = :id AND attempt = :attempt AND state = '{STARTED}' AND {_SAME_TRANSACTION}
    """
)


def succeed(
    connection: Executor, task_id: str, attempt: int, result: str, began: datetime | None = None
) -> bool:
    """End a started task with its value (JSON text); also reset settings that the task has changed.

    `began`: when the transaction of the task's writes began, if it has written. False where the
    attempt no longer counts, or the transaction is another.
    """
    values = {"id": task_id, "attempt": attempt, "result": result, "began": began}
    values["name"] = connection_name()
    return changed_rows(connection.execute(_SUCCEED, values)) == 1


# An attempt may fail before its claim was committed: its process died in the one transaction of a
# short task, or Celery refused the message. It still counts as an attempt.
_FAIL = text(
    f"""
    WITH failed AS (
        UPDATE tasks
        SET state = CASE WHEN :retry AND attempt < max_attempts THEN '{RETRY}' ELSE '{FAILURE}' END,
            attempt = CASE WHEN :retry AND attempt < max_attempts
                      THEN attempt + 1 ELSE attempt END,
            finished_at = CASE WHEN :retry AND attempt < max_attempts THEN NULL ELSE now() END,
            error = :error
        WHERE id = :id AND attempt = :attempt AND {_UNFINISHED}
            AND CASE WHEN state = '{STARTED}' THEN worker = :worker ELSE NOT :claimed END
        RETURNING id, state, attempt
    ), next AS (
        INSERT INTO outbox (task_id, attempt, due_at)
        SELECT id, attempt, now() + make_interval(secs => :delay) FROM failed
        WHERE state = '{RETRY}'
        ON CONFLICT (task_id) DO UPDATE
        SET attempt = excluded.attempt, due_at = excluded.due_at, published_at = NULL,
            publishes = 0
    ), gone AS (
        DELETE FROM outbox USING failed WHERE task_id = failed.id AND failed.state = '{FAILURE}'
    )
    SELECT state FROM failed
    """
)


def fail(
    connection: Executor,
    task_id: str,
    attempt: int,
    error: str,
    worker: str,
    *,
    claimed: bool = False,
    retry: bool = True,
    delay: float = 0,
) -> str | None:
    """End an attempt of a worker with an error; one that another worker has started is left alone.

    `claimed`: the worker has committed a claim of it. If the task waits all the same, PostgreSQL
    has lost the claim in a failover, and the task is left to its next delivery.

    The task goes to RETRY, due again in `delay` seconds, while it has attempts left and `retry`
    allows; else to FAILURE. Returns the new state, None where the attempt no longer counts.
    """
    state: str | None = connection.execute(
        _FAIL,
        {
            "id": task_id,
            "attempt": attempt,
            "error": error,
            "worker": worker,
            "claimed": claimed,
            "retry": retry,
            "delay": delay,
        },
    ).scalar()
    return state


_REVOKE = text(
    f"""
    WITH revoked AS (
        UPDATE tasks SET state = '{REVOKED}', error = :error, finished_at = now()
        WHERE id = :id AND attempt = :attempt AND {_UNFINISHED}
        RETURNING id
    ), gone AS (
        DELETE FROM outbox USING revoked WHERE task_id = revoked.id
    )
    SELECT 1 FROM revoked
    """
)


def revoke(connection: Executor, task_id: str, attempt: int, error: str) -> bool:
    """End a task as revoked; False where the attempt no longer counts."""
    row = connection.execute(_REVOKE, {"id": task_id, "attempt": attempt, "error": error})
    return row.scalar() is not None


_REVOKE_WAITING = text(
    f"""
    WITH revoked AS (
        UPDATE tasks SET state = '{REVOKED}', error = :error, finished_at = now()
        WHERE id = :id AND {_WAITING}
        RETURNING id, attempt
    ), gone AS (
        DELETE FROM outbox USING revoked WHERE task_id = revoked.id
    )
    SELECT attempt FROM revoked
    """
)


def revoke_waiting(connection: Executor, task_id: str, error: str) -> int | None:
    """End a task that waits for an attempt as revoked; return which, None where it does not."""
    row = connection.execute(_REVOKE_WAITING, {"id": task_id, "error": error})
    attempt: int | None = row.scalar()
    return attempt


# max_attempts grows with attempt: a hand-back is nobody's fault and costs no attempt. Both are
# smallint: a task with the last number there is stays with its worker, and fails when that is gone.
LAST_ATTEMPT = 2**15 - 1
_HAND_BACK = text(
    f"""
    WITH handed AS (
        UPDATE tasks
        SET state = '{RETRY}', attempt = attempt + 1,
            max_attempts = least(max_attempts, {LAST_ATTEMPT - 1}) + 1
        WHERE id IN (
            SELECT id FROM tasks
            WHERE {rows_from("started_from")} AND worker = :worker
                AND attempt < {LAST_ATTEMPT}
            ORDER BY id FOR UPDATE
        )
        RETURNING id, attempt
    )
    INSERT INTO outbox (task_id, attempt) SELECT id, attempt FROM handed ORDER BY id
    """
)


def hand_back(connection: Executor, worker: str) -> int:
    """Give back all that a stopping worker has started and not ended; return how many."""
    return changed_rows(connection.execute(_HAND_BACK, {"worker": worker}))


_GIVE_BACK = text(
    f"""
    WITH given AS (
        UPDATE tasks
        SET state = '{RETRY}', attempt = attempt + 1, max_attempts = max_attempts + 1,
            error = :error
        WHERE id = :id AND attempt = :attempt AND state = '{STARTED}' AND worker = :worker
        RETURNING id, attempt
    )
    INSERT INTO outbox (task_id, attempt, due_at)
    SELECT id, attempt, now() + make_interval(secs => :delay) FROM given
    """
)


def give_back(
    connection: Executor, task_id: str, attempt: int, worker: str, *, error: str, delay: float
) -> bool:
    """Give back one started attempt that PostgreSQL's absence cut off; it costs no attempt.

    The next one is due in `delay` seconds. False where the attempt no longer counts.
    """
    changed = connection.execute(
        _GIVE_BACK,
        {"id": task_id, "attempt": attempt, "worker": worker, "error": error, "delay": delay},
    )
    return changed_rows(changed) == 1


_RUN_ALONE = text(
    f"""
    WITH lost AS (
        {_LOCK_WAITING}
    ), handed AS (
        UPDATE tasks
        SET state = '{RETRY}', attempt = attempt + 1, max_attempts = max_attempts + 1
        WHERE id IN (SELECT id FROM lost)
        RETURNING id, attempt
    )
    INSERT INTO outbox (task_id, attempt) SELECT id, attempt FROM handed ORDER BY id
    ON CONFLICT (task_id) DO UPDATE
    SET attempt = excluded.attempt, due_at = now(), published_at = NULL, publishes = 0
    """
)


def run_alone(connection: Executor, attempts: Mapping[str, int]) -> int:
    """Give tasks whose batch was lost another attempt, which runs alone; return how many.

    It costs them none: the loss was the fault of one of them, and nobody knows whose.
    """
    return changed_rows(connection.execute(_RUN_ALONE, _as_arrays(attempts)))
