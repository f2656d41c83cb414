"""Limits: how many tasks declared with `max_running` are STARTED at once.

A limit counts by key: the task's name, with a hash of its argument `per` if it has one. What
exceeds the limit waits in the outbox as a parked row, whose due_at is 'infinity'. An attempt that
its own process ends makes the next parked row of its key due, in the same transaction; for other
ends a reconciler does it.

Whoever counts has locked the key, so that two claims do not both take the last place, and none is
parked while the last running attempt ends. The key is locked first, then tasks, then the outbox.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import text

from backend.db import ledger
from backend.db.fragments import array
from backend.states import STARTED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from backend.db.records import Claim
    from backend.db.session import Executor


class Limit(NamedTuple):
    """At most `most` tasks with this key run at once."""

    key: str
    most: int


# Two keys with the same hash only wait for each other.
_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))")
_TRY_LOCK = text(
    """
    SELECT key FROM unnest(CAST(:keys AS text[])) AS key
    WHERE pg_try_advisory_xact_lock(hashtextextended(key, 0))
    """
)
_RUNNING = text(
    f"""
    SELECT count(*) FROM tasks
    WHERE state = '{STARTED}' AND limit_key = :key AND id <> CAST(:id AS uuid)
    """
)
_SET_KEY = text("UPDATE tasks SET limit_key = :key WHERE id = CAST(:id AS uuid)")


def claim(
    connection: Executor,
    task_id: str,
    attempt: int,
    worker: str,
    limit: Limit,
    *,
    declared: int = 1,
) -> Claim | None:
    """Do what `ledger.claim` does; return None if the limit is reached, and park the attempt."""
    connection.execute(_LOCK, {"key": limit.key})
    running = connection.execute(_RUNNING, {"key": limit.key, "id": task_id}).scalar_one()
    if running >= limit.most:
        park(connection, {task_id: (attempt, limit.key)})
        return None
    found = ledger.claim(connection, {task_id: attempt}, worker, declared=declared)
    if found.ids:
        connection.execute(_SET_KEY, {"key": limit.key, "id": task_id})
    return found


@contextmanager
def ending(connection: Executor, limit: Limit | None) -> Iterator[None]:
    """End an attempt inside the block; then the next parked one of its limit becomes due."""
    if limit is None:
        yield
        return
    connection.execute(_LOCK, {"key": limit.key})
    yield
    _release(connection, [limit])


_PARK = text(
    """
    UPDATE outbox SET due_at = 'infinity', published_at = NULL, limit_key = parked.key
    FROM unnest(CAST(:ids AS uuid[]), CAST(:attempts AS smallint[]), CAST(:keys AS text[]))
        AS parked (task_id, attempt, key)
    WHERE outbox.task_id = parked.task_id AND outbox.attempt = parked.attempt
    """
)


def park(connection: Executor, attempts: Mapping[str, tuple[int, str]]) -> None:
    """Let waiting attempts, as (attempt, key) by task id, wait for their limit."""
    values = {
        "ids": array(attempts),
        "attempts": array(attempt for attempt, _ in attempts.values()),
        "keys": [key for _, key in attempts.values()],
    }
    connection.execute(_PARK, values)


# In order of id: ours are in order of time. A released row counts as running until its attempt is
# claimed. due_at is not now(): the transaction may be a task's and hours old, and the relays' scan
# begins at a later time than its now() (bounds.py).
_RELEASE = text(
    f"""
    WITH wanted AS (
        SELECT * FROM unnest(CAST(:keys AS text[]), CAST(:most AS int[])) AS wanted (key, most)
    ), free AS (
        SELECT key, most - (
            SELECT count(*) FROM tasks WHERE state = '{STARTED}' AND limit_key = key
        ) - (
            SELECT count(*) FROM outbox WHERE limit_key = key AND due_at < 'infinity'
        ) AS places
        FROM wanted
    ), next AS (
        SELECT parked.task_id FROM free CROSS JOIN LATERAL (
            SELECT task_id FROM outbox WHERE limit_key = free.key AND due_at = 'infinity'
            ORDER BY task_id LIMIT greatest(free.places, 0) FOR UPDATE SKIP LOCKED
        ) parked
    ), released AS (
        UPDATE outbox SET due_at = clock_timestamp()
        WHERE task_id = ANY(ARRAY(SELECT task_id FROM next))
        RETURNING task_id
    )
    SELECT pg_notify('outbox', '') FROM (SELECT FROM released LIMIT 1) any_released
    """
)


def release(connection: Executor, limits: Iterable[Limit]) -> None:
    """Make parked rows due, as many as their limits allow, and wake the relays.

    It waits for no lock, and leaves out keys that are locked. The end of a running attempt makes
    their next rows due, or a reconciler does.
    """
    wanted = {limit.key: limit for limit in limits}
    locked = connection.execute(_TRY_LOCK, {"keys": list(wanted)}).scalars()
    _release(connection, [wanted[key] for key in locked])


def _release(connection: Executor, limits: list[Limit]) -> None:
    values = {
        "keys": [limit.key for limit in limits],
        "most": array(limit.most for limit in limits),
    }
    connection.execute(_RELEASE, values)


# Reads one row of the index for each key, however many rows have it.
_PARKED_KEYS = text(
    """
    WITH RECURSIVE keys (key) AS (
        SELECT CAST(:after AS text)
        UNION ALL
        SELECT (
            SELECT limit_key FROM outbox WHERE limit_key > keys.key AND due_at = 'infinity'
            ORDER BY limit_key LIMIT 1
        ) FROM keys WHERE keys.key IS NOT NULL
    )
    SELECT key FROM keys WHERE key > :after LIMIT :limit
    """
)


def parked_keys(connection: Executor, after: str, limit: int) -> list[str]:
    """Return up to `limit` keys of parked rows, in order, that come after `after`."""
    return list(connection.execute(_PARKED_KEYS, {"after": after, "limit": limit}).scalars())
