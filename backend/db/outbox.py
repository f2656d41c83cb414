"""The outbox: rows are taken for publishing, put back, counted and published again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import TextClause, text

from backend.db.bounds import LOCK, LOWER_DUE_FROM, rows_from
from backend.db.records import OutboxEntry
from backend.db.session import IN_INDEX_ORDER

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from backend.db.session import Executor

# The limits of a bundle: tasks, and bytes of arguments without those of its first task.
BUNDLE = 100
BUNDLE_BYTES = 256 * 1024


# Bytes of arguments that are taken at once; the last task may exceed them. A relay holds several
# copies in memory.
TAKE_BYTES = 2 * 1024 * 1024
# The size of a compressed value is known only after reading it. JSON is rarely compressed by a
# larger factor.
COMPRESSION = 32

_PLACES = "PARTITION BY bundled ORDER BY due_at, task_id ROWS UNBOUNDED PRECEDING"
# Rows that share a message have the same published_at, to the microsecond, and no other row that
# was taken with them has it. So the messages that the broker should have can be counted. Tasks with
# their own message are numbered from 100,000 on, above any bundle's number.
_TAKE = text(
    f"""
    {IN_INDEX_ORDER}
    WITH due AS (
        SELECT task_id, attempt, due_at FROM outbox
        WHERE {rows_from("due_from")} AND due_at <= now()
        ORDER BY due_at LIMIT :limit FOR UPDATE SKIP LOCKED
    ), content AS (
        SELECT due.*, t.name, t.args, t.reply_to,
            due.attempt = 1 AND coalesce(t.name = ANY(CAST(:bundled AS text[])), false) AS bundled,
            least(coalesce(pg_column_size(t.args), 0), {TAKE_BYTES})
                * CASE WHEN pg_column_compression(t.args) IS NULL THEN 1 ELSE {COMPRESSION} END
                AS size
        FROM due LEFT JOIN tasks t ON t.id = due.task_id
    ), measured AS (
        SELECT *, sum(size) OVER ({_PLACES}) - size AS before FROM content
    ), numbered AS (
        SELECT task_id, attempt, due_at, name, args, reply_to, bundled,
            CASE WHEN bundled
                THEN (row_number() OVER places - 1) / {BUNDLE}
                    + sum(octet_length(args)) OVER places / {BUNDLE_BYTES}
                ELSE 100000 + row_number() OVER places
            END AS number
        FROM (
            SELECT task_id, attempt, due_at, name, CAST(args AS text) AS args, reply_to, bundled
            FROM measured WHERE before < :bytes
        ) fitting
        WINDOW places AS ({_PLACES})
    ), taken AS (
        UPDATE outbox
        SET published_at = now() + number * interval '1 microsecond', bundled = numbered.bundled,
            publishes = least(publishes + 1, 1000)
        FROM numbered WHERE outbox.task_id = numbered.task_id
    )
    SELECT CAST(task_id AS text) AS task_id, attempt, name, args, reply_to,
        CASE WHEN bundled THEN number END AS bundle
    FROM numbered WHERE name IS NOT NULL ORDER BY due_at, numbered.task_id
    """
)


def take(connection: Executor, limit: int, bundled: Collection[str] = ()) -> list[OutboxEntry]:
    """Take up to `limit` due rows for publishing, oldest first; no other relay gets them.

    Takes fewer if their arguments are large: bundled and unbundled rows each stop after TAKE_BYTES.

    First attempts of the tasks named in `bundled` are put into bundles. The commit marks all
    taken rows as published. If this relay dies before it has published them, `republish` finds
    them missing from the broker's queue.
    """
    rows = connection.execute(
        _TAKE, {"limit": limit, "bytes": TAKE_BYTES, "bundled": list(bundled)}
    )
    return [
        OutboxEntry(row.task_id, row.attempt, row.name, row.args, row.reply_to, row.bundle)
        for row in rows
    ]


def _publish_again(chosen: str, before: str = "") -> TextClause:
    """Return the statement that makes rows due at once, and counts them.

    `chosen`: a query of their ids, which may read from `before`. It uses an array, because a join
    may read all rows that were deleted since an old snapshot. The rows have been due before, so
    least() keeps them due if PostgreSQL's clock was set back.
    """
    return text(
        f"""
        {IN_INDEX_ORDER}
        {LOCK}
        WITH {before} back AS (
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
    """Make rows due at once that could not be published."""
    connection.execute(_PUT_BACK, {"ids": list(task_ids)})


# Bundles are grouped by transaction too (xmin), because two relays may take rows at the same time.
# Rows published by a version without `bundled` are counted as messages of one task; if they were
# bundled, they are published again.
_PUBLISHED = text(
    f"""
    SELECT
        (
            SELECT count(*) FROM outbox
            WHERE {rows_from("published_from")} AND bundled IS NOT TRUE
        ),
        (SELECT count(*) FROM (
            SELECT FROM outbox WHERE {rows_from("published_from")} AND bundled
            GROUP BY published_at, xmin
        ) bundles)
    """
)


def published(connection: Executor) -> tuple[int, int]:
    """Return how many published messages hold a task that no worker has claimed.

    The first number is of messages of one task, the second of bundles: each kind has its queue.
    """
    alone, bundles = connection.execute(_PUBLISHED).one()
    return alone, bundles


_WAITING = text(
    f"""
    SELECT count(*) FROM (
        SELECT FROM outbox WHERE {rows_from("published_from")}
        UNION ALL
        SELECT FROM outbox
        WHERE {rows_from("due_from")} AND due_at <= now()
        LIMIT :limit
    ) waiting
    """
)
_CLAIMED = text(
    "SELECT n_tup_del FROM pg_stat_user_tables WHERE relid = CAST('outbox' AS regclass)"
)


def backlog(connection: Executor, limit: int) -> tuple[int, int]:
    """Return how many due tasks wait, `limit` at most, and how many have been claimed so far.

    The second is a statistic of PostgreSQL, some seconds old: use it only for a rate.
    """
    waiting: int = connection.execute(_WAITING, {"limit": limit}).scalar_one()
    claimed: int = connection.execute(_CLAIMED).scalar() or 0
    return waiting, claimed


# Published at least 10 s, 20 s, … 320 s ago; the time doubles with each publishing.
_LONG_PUBLISHED = "published_at < now() - interval '10 s' * power(2, least(publishes - 1, 5))"

# The oldest go first: a queue delivers in order, so the messages that it no longer has are most
# likely the oldest.
_REPUBLISH = _publish_again(
    f"""
    SELECT task_id FROM outbox
    WHERE {rows_from("published_from")}
        AND published_at = ANY(ARRAY(SELECT published_at FROM lost))
    """,
    before=f"""
    lost AS (
        SELECT DISTINCT published_at FROM outbox
        WHERE {rows_from("published_from")}
            AND {_LONG_PUBLISHED} AND (bundled IS TRUE) = :bundled
        ORDER BY published_at LIMIT :limit
    ),
    """,
)


def republish(connection: Executor, missing: int, *, bundled: bool) -> int:
    """Make up to `missing` messages, long published and still unclaimed, due at once.

    `bundled`: bundles or messages of one task, as `published` counts them. Returns how many tasks
    these are.
    """
    found = connection.execute(_REPUBLISH, {"limit": missing, "bundled": bundled})
    count: int = found.scalar_one()
    return count


# Messages of other programs are part of a queue's length, so they can hide that ours are missing.
# But a queue delivers in order: if a task that was accepted after a row was published has started,
# its message was behind the row's message. So the row's message is lost, or a busy worker has it.
# Ten minutes are allowed for relays that publish at the same time. An external task proves nothing,
# since it is accepted and started at the same time; nor does a task from before PostgreSQL's clock
# was set back. Bundled tasks are never STARTED. The queue must have a single priority.
_REPUBLISH_OVERTAKEN = _publish_again(
    f"""
    SELECT task_id FROM outbox
    WHERE {rows_from("published_from")}
        AND published_at < (
            SELECT max(created_at) - interval '10 min' FROM tasks
            WHERE {rows_from("started_from")}
                AND started_at > created_at AND created_at <= now()
        )
        AND {_LONG_PUBLISHED} AND bundled IS NOT TRUE
    ORDER BY published_at LIMIT :limit
    """
)


def republish_overtaken(connection: Executor, limit: int) -> int:
    """Make up to `limit` tasks due at once that a much newer one has overtaken in the queue.

    Only tasks with their own message. Returns how many they are.
    """
    count: int = connection.execute(_REPUBLISH_OVERTAKEN, {"limit": limit}).scalar_one()
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
