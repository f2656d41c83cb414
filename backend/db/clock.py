"""Corrects times when PostgreSQL's clock was set back: by hand, by NTP, or by a failover."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import text

from backend.db import bounds

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from backend.db.session import Executor


class Reading(NamedTuple):
    """The clock's time, and whether it has once shown a time more than 5 s later."""

    now: datetime
    set_back: bool


# At most once a second, however many reconcilers run: each change leaves a dead row version.
_READ = text(
    """
    UPDATE clock SET latest = clock_timestamp() WHERE latest < clock_timestamp() - interval '1 s';
    SELECT clock_timestamp(),
        EXISTS (SELECT FROM clock WHERE latest > clock_timestamp() + interval '5 s')
    """
)


def read(connection: Executor) -> Reading:
    """Read the clock and remember the latest time it has shown."""
    return Reading(*connection.execute(_READ).one())


# The row's lock allows only one of several reconcilers to move the rows, and only once.
_SET_BACK = text(
    """
    SELECT latest - clock_timestamp() FROM clock
    WHERE latest > clock_timestamp() + interval '5 s' FOR UPDATE SKIP LOCKED
    """
)
# Every row moves by the same time, so rows that share a message still have the same published_at. A
# locked row is being claimed, taken or put back. It is skipped, because waiting for it could be a
# deadlock. A row that is put back is due at once, with any due_at. An `eta` does not move.
_MOVE = text(
    """
    UPDATE outbox
    SET due_at = greatest(due_at - :by, free.eta), published_at = published_at - :by
    FROM (
        SELECT task_id, (
            SELECT eta FROM tasks
            WHERE id = task_id AND attempt = 1 AND options ->> 'countdown' IS NULL
        ) AS eta
        FROM outbox FOR UPDATE SKIP LOCKED
    ) free
    WHERE outbox.task_id = free.task_id
    """
)
_WAIT_FOR_WRITERS = text("LOCK TABLE outbox IN SHARE ROW EXCLUSIVE MODE")


def wait_for_writers(connection: Executor) -> None:
    """Wait for the end of every transaction that has written to the outbox.

    A transaction that began before the clock was set back writes the clock's old times. Call this
    in a separate transaction before `follow`. Raises StoreLocked, through store_errors, after 5 s.
    """
    connection.execute(_WAIT_FOR_WRITERS)


def follow(connection: Executor) -> timedelta | None:
    """Move the outbox's times back by as much as the clock was set back; return how much.

    Otherwise retries and lost messages would be late by that time. Returns None if another process
    does it or has done it.
    """
    by: timedelta | None = connection.execute(_SET_BACK).scalar()
    if by is None:
        return None
    connection.execute(text("SET LOCAL statement_timeout = '10min'"))  # a million rows take long
    connection.execute(_MOVE, {"by": by})
    bounds.reset(connection)
    connection.execute(text("UPDATE clock SET latest = clock_timestamp()"))
    return by
