"""PostgreSQL's clock, which may be set back: by hand, by NTP, by a failover to another machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import text

from backend.db import bounds

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from backend.db.session import Executor


class Reading(NamedTuple):
    """What the clock says, and whether it said at least 5 s more before."""

    now: datetime
    set_back: bool


# At most once a second, however many reconcilers run: each change leaves a dead version.
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


# Under the row's lock, so that of several reconcilers one moves the rows, and moves them once.
_SET_BACK = text(
    """
    SELECT latest - clock_timestamp() FROM clock
    WHERE latest > clock_timestamp() + interval '5 s' FOR UPDATE SKIP LOCKED
    """
)
# Every row by the same time: those that share a message go on sharing their published_at. A row
# that is locked is just being claimed, taken or put back, and is left: to wait for it could be a
# deadlock. What is put back becomes due immediately, with any due_at.
_MOVE = text(
    """
    UPDATE outbox SET due_at = due_at - :by, published_at = published_at - :by
    FROM (SELECT task_id FROM outbox FOR UPDATE SKIP LOCKED) free
    WHERE outbox.task_id = free.task_id
    """
)
_WAIT_FOR_WRITERS = text("LOCK TABLE outbox IN SHARE ROW EXCLUSIVE MODE")


def wait_for_writers(connection: Executor) -> None:
    """Wait for the end of every transaction that has written to the outbox.

    One that began before the clock was set back writes times of before. To be called in a
    transaction of its own before `follow`. Raises StoreLocked, through store_errors, after 5 s.
    """
    connection.execute(_WAIT_FOR_WRITERS)


def follow(connection: Executor) -> timedelta | None:
    """Move the outbox's times back by as much as the clock was set back; return how much.

    Without it retries, and what the broker lost, would wait for that much longer. Returns None if
    another process does it or has done it.
    """
    by: timedelta | None = connection.execute(_SET_BACK).scalar()
    if by is None:
        return None
    connection.execute(text("SET LOCAL statement_timeout = '10min'"))  # a million rows take long
    connection.execute(_MOVE, {"by": by})
    bounds.reset(connection)
    connection.execute(text("UPDATE clock SET latest = clock_timestamp()"))
    return by
