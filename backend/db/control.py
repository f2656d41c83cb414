"""Cancel, retry and expiry of tasks, many in one transaction.

A task whose row another transaction has locked is left unchanged.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import text

from backend.db import ledger, locked, outbox, queries
from backend.db.attempts import note_last
from backend.db.bounds import LOCK
from backend.db.fragments import array
from backend.db.models import IS_UNFINISHED
from backend.db.records import TaskRecord, outcome
from backend.db.session import IN_INDEX_ORDER
from backend.states import ENDED, RETRIABLE, RETRY, REVOKED, STARTED

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from backend.db.session import Executor
    from backend.states import State

# The errors of tasks that a client has cancelled, and of those that have expired.
CANCELLED = "Cancelled"
EXPIRED = "Expired"


class Change(NamedTuple):
    """What a request to change a task has led to.

    task: its row before; None if another transaction has locked it. state: its state afterwards.
    """

    task: TaskRecord | None
    state: State
    changed: bool = False


def cancel(connection: Executor, ids: Collection[str]) -> dict[str, Change]:
    """Revoke tasks that have not ended; return what was found, without ids that the ledger lacks.

    A worker that runs one of them notices it with the next renewal of its lease.
    """
    rows = locked.lock(connection, ids, skip_locked=True)
    unfinished = sorted(
        (row for row in rows.values() if row.state not in ENDED), key=lambda row: row.worker or ""
    )
    changed: set[str] = set()
    # `finish` ends started tasks of one worker only.
    for worker, group in groupby(unfinished, key=lambda row: row.worker):
        ends = [outcome(row.id, row.attempt, REVOKED, error=CANCELLED) for row in group]
        changed |= ledger.finish(connection, ends, worker, waiting=True)
    return _changes(connection, ids, rows, changed, REVOKED)


# An old task is unfinished again, so the scan of unfinished tasks must begin with it.
_LOWER_UNFINISHED_FROM = text(
    """
    UPDATE scan_bounds SET unfinished_from = oldest.created_at
    FROM (
        SELECT min(created_at) AS created_at FROM tasks WHERE id = ANY(CAST(:ids AS uuid[]))
    ) oldest
    WHERE oldest.created_at < unfinished_from
    """
)


def retry(connection: Executor, ids: Collection[str]) -> dict[str, Change]:
    """Give tasks that have failed or were revoked another attempt, due at once.

    It is an attempt beyond max_attempts if those are used up. Returns what was found, without ids
    that the ledger lacks.
    """
    rows = locked.lock(connection, ids, skip_locked=True)
    attempts = {row.id: row.attempt for row in rows.values() if row.state in RETRIABLE}
    changed: Collection[str] = ()
    if attempts:
        connection.execute(text(LOCK))
        note_last(connection, attempts)
        changed = ledger.reschedule(
            connection, attempts, None, waiting=True, free=False, requested=True
        )
        connection.execute(_LOWER_UNFINISHED_FROM, {"ids": array(changed)})
        outbox.notify_relays(connection)
    return _changes(connection, ids, rows, changed, RETRY)


_EXPIRED = text(
    f"""
    {IN_INDEX_ORDER}
    SELECT CAST(id AS text) AS id, attempt, reply_to FROM tasks
    WHERE {IS_UNFINISHED} AND expires_at <= now() AND state <> '{STARTED}'
    ORDER BY expires_at LIMIT :limit FOR UPDATE SKIP LOCKED
    """
)


def expire(connection: Executor, limit: int) -> list[TaskRecord]:
    """Revoke up to `limit` waiting tasks that have expired; return them: id, attempt, reply_to.

    A started attempt goes on: it was in time.
    """
    found = connection.execute(_EXPIRED, {"limit": limit}).all()
    rows = [TaskRecord(row.id, reply_to=row.reply_to, attempt=row.attempt) for row in found]
    ends = [outcome(row.id, row.attempt, REVOKED, error=EXPIRED) for row in rows]
    ended = ledger.finish(connection, ends, None, waiting=True) if ends else ()
    return [row for row in rows if row.id in ended]


def _changes(
    connection: Executor,
    ids: Collection[str],
    rows: Mapping[str, TaskRecord],
    changed: Collection[str],
    state: State,
) -> dict[str, Change]:
    found = {task_id: Change(rows[task_id], state, changed=True) for task_id in changed}
    others = [task_id for task_id in ids if task_id not in found]
    for task_id, record in zip(others, queries.states(connection, others), strict=True):
        if record is not None:
            found[task_id] = Change(rows.get(task_id), record.state)
    return found
