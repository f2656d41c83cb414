"""The workers' leases: a row that a worker renews and a reconciler deletes.

A worker is dead when a reconciler has not seen its `renewed_at` change for LEASE_SECONDS
(maintenance/liveness.py). No code compares these times with a clock, which may be set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

from backend.db.records import SHORT_TASKS, TASKS
from backend.states import FAILURE, REVOKED, State, one_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from backend.db.session import Executor

# A worker renews every RENEW_SECONDS and is dead after LEASE_SECONDS without a renewal.
RENEW_SECONDS = 2.0
LEASE_SECONDS = 10.0

_RENEW = text(
    """
    INSERT INTO workers (name, renewed_at, expires_at, holds, long_tasks, queues)
    VALUES (:name, now(), now() + make_interval(secs => :seconds), :holds, :long_tasks, :queues)
    ON CONFLICT (name) DO UPDATE SET
        renewed_at = excluded.renewed_at, expires_at = excluded.expires_at, holds = excluded.holds,
        long_tasks = excluded.long_tasks, queues = excluded.queues
    """
)
_LOST = text(
    f"""
    SELECT held, coalesce((
        -- This attempt was revoked, and a client has retried the task since.
        SELECT status FROM task_attempts
        WHERE task_id = t.id AND attempt = CAST(split_part(held, '/', 2) AS int)
            AND status = '{REVOKED}'
    ), t.state) AS state
    FROM unnest(CAST(:holds AS text[])) AS held
    JOIN tasks t ON t.id = CAST(split_part(held, '/', 1) AS uuid)
    WHERE t.attempt > CAST(split_part(held, '/', 2) AS int)
        OR t.state IN {one_of([FAILURE, REVOKED])}
    """
)


def renew(
    connection: Executor,
    name: str,
    held: Callable[[], Sequence[str]],
    long_tasks: Sequence[str] = (),
    queues: Sequence[str] = (TASKS, SHORT_TASKS),
) -> dict[str, State]:
    """Renew a lease; return those of its attempts that have ended or have a newer attempt.

    By id/attempt: REVOKED if that attempt was revoked, else the state of its task. `long_tasks`:
    the names of tasks whose attempts take long in this worker. `queues`: the names of those that it
    consumes. Calls `held` inside the transaction, so that every earlier claim is listed.
    """
    connection.execute(text("SELECT 1"))  # fixes now(), and so `renewed_at`
    holds = held()
    lease = {"holds": list(holds), "long_tasks": list(long_tasks), "queues": list(queues)}
    connection.execute(_RENEW, {"name": name, "seconds": LEASE_SECONDS, **lease})
    lost = connection.execute(_LOST, {"holds": list(holds)})
    return {row.held: State(row.state) for row in lost}


def end(connection: Executor, name: str) -> None:
    """End a lease: the worker has stopped."""
    connection.execute(text("DELETE FROM workers WHERE name = :name"), {"name": name})


def leased(connection: Executor, name: str) -> bool:
    """Return whether a worker has a lease: its first renewal makes one, a reconciler deletes it."""
    found = text("SELECT EXISTS (SELECT FROM workers WHERE name = :name)")
    return bool(connection.execute(found, {"name": name}).scalar())


_CONNECTIONS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE application_name = left(:name, 63) AND datname = current_database()
        AND usename = current_user AND pid <> pg_backend_pid()
        -- An idle one holds no locks, and a pooler may be about to give it to another client.
        AND state <> 'idle'
"""
_BREAK = text(_CONNECTIONS)
_FENCE = text(
    f"""
    {_CONNECTIONS}
        AND NOT EXISTS (
            SELECT FROM workers WHERE name = :name
                AND renewed_at IS DISTINCT FROM CAST(:renewed_at AS timestamptz)
        )
    """
)


def break_connections(connection: Executor, name: str) -> None:
    """Break the connections of a process that was killed: its transactions may hold locks."""
    connection.execute(_BREAK, {"name": name})


def fence(connection: Executor, name: str, renewed_at: datetime | None) -> None:
    """Break the connections of a worker that has not renewed its lease since `renewed_at`."""
    connection.execute(_FENCE, {"name": name, "renewed_at": renewed_at})


# A locked lease is left for the next pass: waiting for it would hold up others.
_END_DEAD = text(
    """
    DELETE FROM workers WHERE name = (
        SELECT name FROM workers WHERE name = :name AND renewed_at = :renewed_at
        FOR UPDATE SKIP LOCKED
    )
    """
)


def end_dead(connection: Executor, name: str, renewed_at: datetime | None) -> bool:
    """Delete a dead worker's lease; return False if it was renewed since `renewed_at`."""
    connection.execute(_END_DEAD, {"name": name, "renewed_at": renewed_at})
    return not leased(connection, name)


def renewals(connection: Executor) -> dict[str, datetime]:
    """Return when each worker has last renewed its lease."""
    rows = connection.execute(text("SELECT name, renewed_at FROM workers"))
    return {row[0]: row[1] for row in rows}


# What the log and /health/ready say about a queue without a worker.
UNCONSUMED = (
    "no worker consumes the queue %s: its tasks wait; start a worker with it in WORKER_QUEUES"
)
# What the log and /health/ready say about a queue with stray messages.
STRAY_MESSAGES = (
    "queue %s has messages of tasks that this database does not have; they are dropped. If another"
    " installation uses this broker, set QUEUE_PREFIX in one of them, or give it a virtual host (a"
    " database of Redis) of its own. After a restore or a reset, old messages cause this: wait"
    " until they are gone"
)
# How long after the last such message it is still reported.
STRAY_SECONDS = 600.0

# In two statements, so that of two children the second sees what the first has written.
_LOCK_STRAY = text(
    """
    SELECT coalesce(stray_at > now() - make_interval(secs => :seconds), false) FROM workers
    WHERE name = :name FOR UPDATE
    """
)
_NOTE_STRAY = text("UPDATE workers SET stray_at = now(), stray_queue = :queue WHERE name = :name")
_STRAY_QUEUES = text(
    """
    SELECT DISTINCT stray_queue FROM workers
    WHERE stray_at > now() - make_interval(secs => :seconds) ORDER BY stray_queue
    """
)


def note_stray(connection: Executor, name: str, queue: str) -> bool:
    """Record in a worker's row that it got stray messages: of tasks that the ledger lacks.

    Returns whether these were the first in STRAY_SECONDS.
    """
    before = connection.execute(_LOCK_STRAY, {"name": name, "seconds": STRAY_SECONDS}).scalar()
    connection.execute(_NOTE_STRAY, {"name": name, "queue": queue})
    return before is False  # None: there is no lease, so no row to change


def stray_queues(connection: Executor) -> list[str]:
    """Return the queues that had stray messages in the last STRAY_SECONDS."""
    return list(connection.execute(_STRAY_QUEUES, {"seconds": STRAY_SECONDS}).scalars())


def alive(connection: Executor) -> list[str]:
    """Return the names of the workers that have a lease."""
    return list(renewals(connection))


def consumed_queues(connection: Executor) -> frozenset[str]:
    """Return the names of the queues that a worker with a lease consumes."""
    found = text("SELECT DISTINCT unnest(coalesce(queues, CAST(:both AS text[]))) FROM workers")
    return frozenset(connection.execute(found, {"both": [TASKS, SHORT_TASKS]}).scalars())


def long_tasks(connection: Executor) -> frozenset[str] | None:
    """Return the names of tasks whose attempts take long in some worker.

    None while a worker of the version before runs, which cannot read bundles of ordinary tasks.
    """
    found = text(
        "SELECT bool_or(long_tasks IS NULL), array_agg(DISTINCT task)"
        " FROM workers LEFT JOIN LATERAL unnest(long_tasks) AS task ON true"
    )
    old, names = connection.execute(found).one()
    return None if old else frozenset(filter(None, names or ()))
