"""The outbox: rows are taken for publishing, put back, counted and published again."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from sqlalchemy import TextClause, text

from backend.db.bounds import LOCK, LOWER_DUE_FROM, rows_from
from backend.db.fragments import array
from backend.db.records import SHORT_TASKS, TASKS, OutboxEntry
from backend.db.session import IN_INDEX_ORDER

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from backend.db.session import Executor

# Bytes of arguments that are taken at once; the last task may exceed them. A relay holds several
# copies in memory.
TAKE_BYTES = 2 * 1024 * 1024
# The size of a compressed value is known only after reading it. JSON is rarely compressed by a
# larger factor.
COMPRESSION = 32

# Its columns are the fields of OutboxEntry, in order. A row without a task, which a restored table
# may have, is only marked as published. The commit is not flushed: if PostgreSQL crashes and
# forgets it, the messages are published twice.
_TAKE = text(
    f"""
    {IN_INDEX_ORDER}
    SET LOCAL synchronous_commit = off;
    WITH due AS (
        SELECT task_id, attempt, due_at, publishes, limit_key FROM outbox
        WHERE {rows_from("due_from")} AND due_at <= now()
        ORDER BY due_at LIMIT :limit FOR UPDATE SKIP LOCKED
    ), content AS (
        SELECT due.*, t.name, t.args, t.reply_to,
            least(coalesce(pg_column_size(t.args), 0), {TAKE_BYTES})
                * CASE WHEN pg_column_compression(t.args) IS NULL THEN 1 ELSE {COMPRESSION} END
                AS size
        FROM due LEFT JOIN tasks t ON t.id = due.task_id
    ), measured AS (
        SELECT *, sum(size) OVER (ORDER BY due_at, task_id ROWS UNBOUNDED PRECEDING) - size
            AS before
        FROM content WHERE name IS NOT NULL
    ), orphaned AS (
        UPDATE outbox SET published_at = now(), publishes = least(publishes + 1, 1000)
        WHERE task_id = ANY(ARRAY(SELECT task_id FROM content WHERE name IS NULL))
    )
    SELECT CAST(task_id AS text) AS task_id, attempt, name, CAST(args AS text) AS args, reply_to,
        publishes, limit_key
    FROM measured WHERE before < :bytes ORDER BY due_at, task_id
    """
)


def take(connection: Executor, limit: int) -> list[OutboxEntry]:
    """Lock and return up to `limit` due rows, oldest first; no other relay gets them.

    Takes fewer if their arguments are large: it stops after TAKE_BYTES. `mark_published` must
    follow in the same transaction.
    """
    rows = connection.execute(_TAKE, {"limit": limit, "bytes": TAKE_BYTES})
    return [OutboxEntry(*row) for row in rows]


# Rows that share a message have the same published_at, to the microsecond, and no other row of
# the same statement has it. So the messages that the broker should have can be counted. `bundled`
# is for reconcilers of the previous version.
_MARK_PUBLISHED = text(
    f"""
    SET LOCAL enable_seqscan = off;
    UPDATE outbox
    SET published_at = now() + taken.message * interval '1 microsecond', queue = taken.queue,
        bundled = taken.queue = '{SHORT_TASKS}', publishes = least(publishes + 1, 1000)
    FROM unnest(CAST(:ids AS uuid[]), CAST(:messages AS int[]), CAST(:queues AS text[]))
        AS taken (task_id, message, queue)
    WHERE outbox.task_id = taken.task_id;
    COMMIT
    """
)


def mark_published(connection: Executor, messages: Iterable[tuple[str, Sequence[str]]]) -> None:
    """Mark taken rows as published, and commit.

    `messages`: for each message, its queue and the ids of its tasks.

    If this relay dies between the commit and the publishing, `republish` finds the messages missing
    from the broker's queues.
    """
    ids: list[str] = []
    numbers: list[int] = []
    queues: list[str] = []
    for number, (queue, task_ids) in enumerate(messages):
        ids += task_ids
        numbers += [number] * len(task_ids)
        queues += [queue] * len(task_ids)
    connection.execute(
        _MARK_PUBLISHED, {"ids": array(ids), "messages": array(numbers), "queues": array(queues)}
    )


def _publish_again(chosen: str) -> TextClause:
    """Return the statement that makes rows due at once, and counts them.

    `chosen`: a query of their ids. The UPDATE compares with an array of them, because a join may
    read all rows that were deleted since an old snapshot. The rows have been due before, so least()
    keeps them due if PostgreSQL's clock was set back.
    """
    return text(
        f"""
        {IN_INDEX_ORDER}
        {LOCK}
        WITH back AS (
            UPDATE outbox SET published_at = NULL, due_at = least(due_at, now())
            WHERE task_id = ANY(ARRAY({chosen} FOR UPDATE SKIP LOCKED))
            RETURNING due_at
        ), lowered AS (
            {LOWER_DUE_FROM}
        )
        SELECT count(*) FROM back
        """
    )


_PUT_BACK = _publish_again("SELECT task_id FROM outbox WHERE task_id = ANY(CAST(:ids AS uuid[]))")


def put_back(connection: Executor, task_ids: Sequence[str]) -> None:
    """Make rows due at once whose messages could not be published."""
    connection.execute(_PUT_BACK, {"ids": list(task_ids)})


# The queue of a published row. The previous version writes only `bundled`.
_QUEUE = f"""
    CASE WHEN bundled THEN '{SHORT_TASKS}' WHEN queue <> '{SHORT_TASKS}' THEN queue
        ELSE '{TASKS}' END
"""
# Messages are told apart by transaction too (xmin), because two relays may take rows at the same
# time.
_PUBLISHED = text(
    f"""
    SELECT queue, count(*) AS messages FROM (
        SELECT {_QUEUE} AS queue FROM outbox WHERE {rows_from("published_from")}
        GROUP BY 1, published_at, xmin
    ) messages
    GROUP BY queue
    """
)


def published(connection: Executor) -> Counter[str]:
    """Return by queue how many published messages hold a task that no worker has claimed."""
    return Counter({row.queue: row.messages for row in connection.execute(_PUBLISHED)})


_WAITING = text(
    f"""
    SELECT count(*) FROM (
        SELECT FROM outbox WHERE {rows_from("published_from")}
        UNION ALL
        SELECT FROM outbox
        WHERE {rows_from("due_from")} AND due_at <= now()
        UNION ALL
        SELECT FROM outbox WHERE limit_key IS NOT NULL AND due_at = 'infinity'
        LIMIT :limit
    ) waiting
    """
)
_CLAIMED = text(
    "SELECT n_tup_del FROM pg_stat_user_tables WHERE relid = CAST('outbox' AS regclass)"
)


def backlog(connection: Executor, limit: int) -> tuple[int, int]:
    """Return how many tasks wait, `limit` at most, and how many have been claimed so far.

    The second is a statistic of PostgreSQL, some seconds old: use it only for a rate.
    """
    waiting: int = connection.execute(_WAITING, {"limit": limit}).scalar_one()
    claimed: int = connection.execute(_CLAIMED).scalar() or 0
    return waiting, claimed


# Published at least 10 s, 20 s, … 320 s ago; the time doubles with each publishing.
_LONG_PUBLISHED = "published_at < now() - interval '10 s' * power(2, least(publishes - 1, 5))"

# A queue delivers in order, so the messages that it no longer has are most likely the oldest.
_OLDEST = text(
    f"""
    {IN_INDEX_ORDER}
    SELECT DISTINCT published_at FROM outbox
    WHERE {rows_from("published_from")} AND {_QUEUE} = :queue
    ORDER BY published_at LIMIT :limit
    """
)


def oldest_published(connection: Executor, queue: str, limit: int) -> list[datetime]:
    """Return the times at which the oldest unclaimed messages of a queue were published."""
    return list(connection.execute(_OLDEST, {"queue": queue, "limit": limit}).scalars())


_REPUBLISH = _publish_again(
    f"""
    SELECT task_id FROM outbox
    WHERE published_at IS NOT NULL AND published_at = ANY(CAST(:times AS timestamptz[]))
        AND {_LONG_PUBLISHED} AND {_QUEUE} = :queue
    """
)


def republish(connection: Executor, queue: str, times: Sequence[datetime]) -> int:
    """Make due the tasks of a queue whose message was published at one of `times`.

    Leaves out those that were published too recently. Returns how many tasks these are.
    """
    count: int = connection.execute(_REPUBLISH, {"queue": queue, "times": list(times)}).scalar_one()
    return count


# Messages of other programs are part of a queue's length, so they can hide that ours are missing.
# But a queue delivers in order: if a task that was accepted after a row was published has started,
# its message was behind the row's message. So the row's message is lost, or a busy worker has it.
# The ten minutes are a margin: with several relays the order is not exact. An external task proves
# nothing, since it is accepted and started at the same time; nor does a task from before
# PostgreSQL's clock was set back, nor a task of another queue. This holds only while
# all our messages in a queue have the same priority.
_REPUBLISH_OVERTAKEN = _publish_again(
    f"""
    SELECT task_id FROM outbox
    WHERE {rows_from("published_from")}
        AND published_at < (
            SELECT max(created_at) - interval '10 min' FROM tasks
            WHERE {rows_from("started_from")}
                AND started_at > created_at AND created_at <= now() AND name = ANY(:names)
        )
        AND {_LONG_PUBLISHED} AND {_QUEUE} = :queue
    ORDER BY published_at LIMIT :limit
    """
)


def republish_overtaken(connection: Executor, queue: str, names: Sequence[str], limit: int) -> int:
    """Find up to `limit` tasks of a queue that a much newer one has overtaken; make them due.

    `names`: the names of the queue's tasks. Not for short tasks, which are not STARTED in general.
    Returns how many they are.
    """
    values = {"queue": queue, "names": list(names), "limit": limit}
    count: int = connection.execute(_REPUBLISH_OVERTAKEN, values).scalar_one()
    return count


_HAS_OVERDUE = text(
    f"""
    SELECT EXISTS (
        SELECT FROM outbox WHERE {rows_from("due_from")} AND due_at < now() - interval '5 s'
    )
    """
)


def has_overdue(connection: Executor) -> bool:
    """Return whether a task has been due for long and no relay has taken it."""
    return bool(connection.execute(_HAS_OVERDUE).scalar())


def notify_relays(connection: Executor) -> None:
    """Wake the relays when the transaction commits."""
    connection.execute(text("SELECT pg_notify('outbox', '')"))
