"""Scan bounds: the time at which each scan of a partial index starts.

While a snapshot is open (pg_dump), an index keeps the entries of rows that no longer belong to it,
and a scan from the beginning reads all of them. So each scan starts at a bound, which the same
statement reads. No row of a scan may be older than its bound:

- `advance` raises a bound to the oldest row, at most to a minute ago. Rows have the time at which
  their transaction began, so a transaction has a minute to commit;
- a transaction of a task or of an application may take longer. tasks_submit (migration 0013) gives
  its rows the time of the call, and holds an advisory lock that shows this time to `advance`;
- a statement that brings back an older row lowers the bound in the same transaction;
- when PostgreSQL's clock was set back, `reset` makes the scans start at the beginning.

`advance` and the statements that bring rows back lock the bounds in one statement and read the rows
in the next. Otherwise one change could overwrite another that it has not seen. `lower` and `reset`
only lower bounds, which is always safe, so they take no lock first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

from backend.db.models import IS_STARTED, IS_UNFINISHED

if TYPE_CHECKING:
    from datetime import datetime

    from backend.db.session import Executor

# By bound: the column that it limits, the table, and the condition of the partial index.
_SCANS = {
    "unfinished_from": ("created_at", "tasks", IS_UNFINISHED),
    "started_from": ("started_at", "tasks", IS_STARTED),
    "due_from": ("due_at", "outbox", "published_at IS NULL"),
    "published_from": ("published_at", "outbox", "published_at IS NOT NULL"),
}

# Goes before a statement that changes the bounds, in the same transaction.
LOCK = "SELECT FROM scan_bounds FOR UPDATE; "

# Goes after a CTE `back`, which has the due_at of rows that are to be published again.
LOWER_DUE_FROM = """
    UPDATE scan_bounds SET due_from = oldest.due_at
    FROM (SELECT min(due_at) AS due_at FROM back) oldest WHERE oldest.due_at < due_from
"""


def rows_from(bound: str) -> str:
    """Return the SQL condition of a scan that starts at its bound.

    It starts a minute ago at the latest, so that rows written right after PostgreSQL's clock was
    set back are seen before the bounds are reset. Without a row in scan_bounds it starts at the
    beginning.
    """
    found = f"coalesce((SELECT {bound} FROM scan_bounds), '-infinity')"
    return _rows(bound, f"least({found}, now() - interval '1 min')")


def _rows(bound: str, start: str) -> str:
    column, _, rows = _SCANS[bound]
    # The upper limit makes the planner use the index: it expects few rows of a range that it cannot
    # estimate. Without an upper limit it expects a third of the table, and reads all of it.
    return f"{rows} AND {column} >= {start} AND {column} < 'infinity'"


def _oldest(bound: str, start: str) -> str:
    column, table, _ = _SCANS[bound]
    return f"(SELECT min({column}) FROM {table} WHERE {_rows(bound, start)})"


def _raised(bound: str) -> str:
    start = f"least((SELECT {bound} FROM scan_bounds), now() - interval '1 min')"
    # The earlier of two times: the clock may have jumped since the caller has read it.
    latest = "least(:now, now()) - interval '1 min'"
    return f"least({_oldest(bound, start)}, {latest}) AS {bound}"


def _for_each(sql: str, between: str) -> str:
    return between.join(sql.format(bound=bound) for bound in _SCANS)


# Raises bounds by a minute or more only: each change leaves a dead version of the row, and every
# scan reads these.
_ADVANCE = text(
    f"""
    SET LOCAL statement_timeout = '60s'; {LOCK}
    UPDATE scan_bounds SET {_for_each("{bound} = oldest.{bound}", ", ")}
    FROM (SELECT {", ".join(map(_raised, _SCANS))}) oldest
    WHERE {_for_each("oldest.{bound} >= scan_bounds.{bound} + interval '1 min'", " OR ")}
        OR {_for_each("oldest.{bound} < scan_bounds.{bound}", " OR ")}
    """
)


# When a transaction under way has first called tasks_submit, to the minute.
_OLDEST_SUBMISSION = text(
    """
    SELECT to_timestamp(60 * min(CAST(objid AS bigint))) FROM pg_locks
    WHERE locktype = 'advisory' AND classid = 80600011 AND objsubid = 2
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    """
)


def advance(connection: Executor, now: datetime) -> None:
    """Raise the bounds to the oldest rows, at most to a minute before `now`.

    `now`: PostgreSQL's time. Its clock must not have jumped within the last minute.
    """
    # In a statement before the rows are read: a commit makes rows visible before it ends the lock.
    oldest = connection.execute(_OLDEST_SUBMISSION).scalar()
    connection.execute(_ADVANCE, {"now": min(now, oldest or now)})


# Without LOCK: this takes long while a snapshot is open, and relays wait for that lock. A bound
# that is too low does no harm.
_LOWER = text(
    f"""
    SET LOCAL statement_timeout = '60s';
    UPDATE scan_bounds
    SET {_for_each("{bound} = least(scan_bounds.{bound}, oldest.{bound})", ", ")}
    FROM (
        SELECT {", ".join(_oldest(bound, "'-infinity'") + f" AS {bound}" for bound in _SCANS)}
    ) oldest
    WHERE {_for_each("oldest.{bound} < scan_bounds.{bound}", " OR ")}
    """
)


def lower(connection: Executor) -> None:
    """Compare the bounds with every row, and lower those that are too high."""
    connection.execute(_LOWER)


_RESET = text(f"UPDATE scan_bounds SET {_for_each('{bound} = DEFAULT', ', ')}")


def reset(connection: Executor) -> None:
    """Make every scan start at the beginning."""
    connection.execute(_RESET)
