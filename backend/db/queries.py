"""Reads the ledger: a task's state, unfinished tasks, started attempts. Changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

from backend.db.bounds import rows_from
from backend.db.records import Started, TaskRecord
from backend.db.session import IN_INDEX_ORDER
from backend.states import (
    ACTIVE,
    ENDED,
    PENDING,
    RESERVED,
    RETRY,
    SCHEDULED,
    STARTED,
    State,
    one_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Connection

    from backend.db.session import Executor


# Up to this number, unfinished tasks are counted for each request; to count more takes too long.
COUNTED = 5_000
# If fewer tasks are due later, it is faster to read them all than to look up each task shown.
FEW = 100


# A claim need not be on disk at once (ledger.claim). If PostgreSQL crashed and forgot it, STARTED
# would become PENDING again for a client. So STARTED is reported only after a second, or several
# times the time in which PostgreSQL flushes every commit; or with progress, which is flushed.
REPORTED_STATE = f"""
    CASE
        WHEN state = '{STARTED}' AND progress IS NULL AND started_at <= now() AND started_at > now()
            - greatest('1 s', 4 * CAST(current_setting('wal_writer_delay') AS interval))
            THEN CASE WHEN attempt > 1 THEN '{RETRY}' ELSE '{PENDING}' END
        ELSE state
    END
"""
_STATES = text(
    f"""
    SELECT CAST(id AS text) AS id, {REPORTED_STATE} AS state, CAST(result AS text) AS result, error,
        progress
    FROM tasks WHERE id = ANY(CAST(:ids AS uuid[]))
    """
)


def states(connection: Executor, ids: Sequence[str]) -> list[TaskRecord | None]:
    """Return what is known of each task, None for an id that the ledger lacks.

    Reads id, state, result, error and progress.
    """
    rows = connection.execute(_STATES, {"ids": list(set(ids))})
    found = {
        row.id: TaskRecord(
            row.id,
            state=State(row.state),
            result=row.result,
            error=row.error,
            progress=row.progress,
        )
        for row in rows
    }
    return [found.get(task_id) for task_id in ids]


# Most tasks have no `eta`, so this is checked first. The inner CASE says whether another task is
# due later. If few are, it reads a list of them. Else it looks up each task by the primary key,
# since the list could be the whole outbox.
_LIST = text(
    f"""
    {IN_INDEX_ORDER}
    WITH listed AS MATERIALIZED (
        SELECT task_id FROM outbox
        WHERE published_at IS NULL AND due_at > now() AND due_at < 'infinity' LIMIT :few
    )
    SELECT CAST(id AS text), CASE
        WHEN state = '{STARTED}' THEN '{ACTIVE}'
        WHEN eta IS NOT NULL AND eta > now() AND state = '{PENDING}' THEN '{SCHEDULED}'
        WHEN CASE
            WHEN (SELECT count(*) FROM listed) < :few THEN id IN (SELECT task_id FROM listed)
            ELSE (
                SELECT published_at IS NULL AND due_at > now() AND due_at < 'infinity'
                FROM outbox WHERE task_id = tasks.id
            )
        END THEN '{SCHEDULED}'
        ELSE '{RESERVED}'
    END
    FROM tasks WHERE {rows_from("unfinished_from")}
    ORDER BY tasks.created_at, tasks.id LIMIT :limit
    """
)
# Page by page (bitmap scan), which takes half as long as the order of the index. The settings last
# as long as the transaction.
_COUNT = text(
    f"""
    SET LOCAL enable_indexscan = off; SET LOCAL enable_indexonlyscan = off;
    SELECT count(*) FROM (
        SELECT FROM tasks WHERE {rows_from("unfinished_from")} LIMIT :limit
    ) unfinished
    """
)


def unfinished(
    connection: Connection,
    limit: int,
    *,
    many: bool = False,
    counted: int = COUNTED,
    few: int = FEW,
) -> tuple[dict[str, str], int]:
    """Return the status of the oldest `limit` tasks not yet ended, and how many there are.

    The status is the ledger's view: ACTIVE, SCHEDULED (not yet due) or RESERVED. The number is at
    most `counted` + 1. `many`: the last count found more than `counted`, so they are not counted,
    and the number is `counted` + 1.
    """
    with connection.execute(_LIST, {"limit": limit, "few": few}) as found:
        # The driver's rows: SQLAlchemy's own would take half as long again.
        statuses: dict[str, str] = dict(found.cursor.fetchall())
    if len(statuses) < limit:
        return statuses, len(statuses)
    return statuses, counted + 1 if many else count_unfinished(connection, counted + 1)


def count_unfinished(connection: Executor, limit: int | None = None) -> int:
    """Return how many tasks have not ended, `limit` at most."""
    count: int = connection.execute(_COUNT, {"limit": limit}).scalar_one()
    return count


_KNOWN = text("SELECT CAST(id AS text) FROM tasks WHERE id = ANY(CAST(:ids AS uuid[]))")


def known(connection: Executor, ids: Sequence[str]) -> set[str]:
    """Return those of the ids that the ledger has, in any state."""
    return set(connection.execute(_KNOWN, {"ids": list(ids)}).scalars())


_WAITING = text(
    f"""
    SELECT CAST(tasks.id AS text) FROM tasks
    JOIN unnest(CAST(:ids AS uuid[]), CAST(:attempts AS smallint[])) AS wanted (id, attempt)
        ON tasks.id = wanted.id AND tasks.attempt = wanted.attempt
    WHERE state NOT IN {one_of([STARTED, *ENDED])}
        AND (expires_at > now() OR expires_at IS NULL)
    """
)


def waiting(connection: Executor, attempts: Mapping[str, int]) -> set[str]:
    """Return the ids of tasks that wait for these attempts, by task id, and have not expired."""
    values = {"ids": list(attempts), "attempts": list(attempts.values())}
    return set(connection.execute(_WAITING, values).scalars())


_STARTED = text(
    f"""
    SELECT CAST(t.id AS text) AS task_id, t.attempt, t.worker, w.renewed_at,
        coalesce(CAST(t.id AS text) || '/' || t.attempt = ANY (w.holds), false) AS held
    FROM tasks t LEFT JOIN workers w ON w.name = t.worker
    WHERE {rows_from("started_from")}
    ORDER BY t.id
    """
)


def started(connection: Executor) -> list[Started]:
    """Return every started attempt."""
    return [Started(**row) for row in connection.execute(_STARTED).mappings()]


_COMMITTED = text("SELECT pg_xact_status(CAST(:id AS xid8)) = 'committed'")


def committed(connection: Executor, transaction_id: str) -> bool:
    """Return whether a transaction was committed, by PostgreSQL's own id of it."""
    return bool(connection.execute(_COMMITTED, {"id": transaction_id}).scalar())
