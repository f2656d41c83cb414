"""Deletes the rows of tasks that ended long ago.

No index has the times at which tasks ended: it would cost on every task. So a pass reads the table,
some pages at a time, in the order in which they are stored. To read 2,000 tasks takes 2 ms in this
order, 6 ms in the order of our ids, and 22 ms if they are random, as those of other programs are.
A pass reads each page once, again only after BATCH_BYTES were reached in it. So deleted rows that
an open snapshot (pg_dump) keeps cost little.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import TextClause, text

from backend.states import ENDED, SUCCESS, one_of

if TYPE_CHECKING:
    from datetime import datetime

    from backend.db.session import Executor

# Pages of one batch: about 2,000 small tasks, which take 10 ms.
BATCH_PAGES = 64
# Bytes of arguments, results and errors that one batch deletes; its last task may exceed them. The
# time to delete a large value is proportional to its size.
BATCH_BYTES = 8 * 1024 * 1024
# From the end of a pass to the beginning of the next one.
PASS_INTERVAL = timedelta(hours=1)


class Progress(NamedTuple):
    """What a pass has found so far: how many tasks, and when the first of them ended.

    `page`: where it continues, None after the last page.
    """

    tasks: int = 0
    oldest: datetime | None = None
    page: int | None = 0


# `now` is the time of this process's clock. What is deleted is lost, so neither this clock nor
# PostgreSQL's may make tasks old by being set forward.
_OLD = f"""
    ctid >= CAST(:first AS tid) AND ctid < CAST(:behind AS tid) AND state IN {one_of(ENDED)}
    AND finished_at < least(now(), :now) - :age
"""
_PAGES = "pg_relation_size('tasks') / CAST(current_setting('block_size') AS bigint)"
# If BATCH_BYTES are reached, the next batch begins with the page of the first row that is left. A
# row that another session has locked stays until the next pass.
_DELETE = text(
    f"""
    WITH old AS (
        SELECT ctid, coalesce(pg_column_size(args), 0) + coalesce(pg_column_size(result), 0)
            + coalesce(pg_column_size(error), 0) AS size
        FROM tasks WHERE {_OLD} FOR UPDATE SKIP LOCKED
    ), measured AS MATERIALIZED (
        SELECT ctid AS place, sum(size) OVER (ROWS UNBOUNDED PRECEDING) - size AS before FROM old
    ), gone AS (
        DELETE FROM tasks
        WHERE ctid = ANY(ARRAY(SELECT place FROM measured WHERE before < {BATCH_BYTES}))
        RETURNING id, finished_at, options, attempt, state
    ), forgotten AS (
        DELETE FROM task_attempts
        WHERE task_id = ANY(ARRAY(SELECT id FROM gone WHERE attempt > 1 OR state <> '{SUCCESS}'))
    ), untagged AS (
        DELETE FROM task_tags USING (
            SELECT id, tag FROM gone CROSS JOIN json_array_elements_text(options -> 'tags') AS tag
        ) each
        WHERE task_tags.tag = each.tag AND task_id = each.id
    )
    SELECT (SELECT count(*) FROM gone), (SELECT min(finished_at) FROM gone), {_PAGES},
        (SELECT (CAST(CAST(min(place) AS text) AS point))[0]
            FROM measured WHERE before >= {BATCH_BYTES})
    """
)
_COUNT = text(f"SELECT count(*), min(finished_at), {_PAGES}, NULL FROM tasks WHERE {_OLD}")


def delete(connection: Executor, so_far: Progress, age: timedelta, now: datetime) -> Progress:
    """Delete the tasks of the next pages that ended longer than `age` ago; return the progress.

    `now`: the time of this process's clock.
    """
    return _read(_DELETE, connection, so_far, age, now)


def count(connection: Executor, so_far: Progress, age: timedelta, now: datetime) -> Progress:
    """Count the tasks that `delete` would delete; return the progress."""
    return _read(_COUNT, connection, so_far, age, now)


def _read(
    statement: TextClause, connection: Executor, so_far: Progress, age: timedelta, now: datetime
) -> Progress:
    first = so_far.page or 0
    behind = first + BATCH_PAGES
    values = {"first": f"({first},0)", "behind": f"({behind},0)", "age": age, "now": now}
    tasks, oldest, pages, left = connection.execute(statement, values).one()
    following = behind if left is None else int(left)
    return Progress(
        so_far.tasks + tasks,
        min((time for time in (so_far.oldest, oldest) if time is not None), default=None),
        following if following < pages else None,
    )


# The row's lock allows only one process at a time to continue the pass. If due_at is later than any
# that is written here, PostgreSQL's clock was set back.
_TAKE = text(
    """
    SELECT tasks, oldest, page FROM purge
    WHERE due_at <= now() OR due_at > now() + :latest FOR UPDATE SKIP LOCKED
    """
)
_STORE = text(
    """
    UPDATE purge SET tasks = :tasks, oldest = :oldest, page = :page,
        due_at = clock_timestamp() + :pause
    """
)


def resume(connection: Executor, age: timedelta, now: datetime, rest: float) -> Progress | None:
    """Delete a batch of the pass that all processes share; return the progress of the pass.

    `age` and `now`: as for `delete`. The next batch is due after `rest` times the time that this
    one has taken; after the last page, the next pass is due after PASS_INTERVAL. Returns None if
    none is due, or if another process is deleting.
    """
    began = time.monotonic()
    row = connection.execute(_TAKE, {"latest": 2 * PASS_INTERVAL}).one_or_none()
    if row is None:
        return None
    progress = stored = delete(connection, Progress(*row), age, now)
    pause = rest * timedelta(seconds=time.monotonic() - began)
    if progress.page is None:
        stored, pause = Progress(), PASS_INTERVAL
    connection.execute(_STORE, {**stored._asdict(), "pause": pause})
    return progress
