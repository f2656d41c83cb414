"""The outbox: rows are taken for publishing, put back, counted and published again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import TextClause, text

from backend.db.bounds import LOCK, LOWER_DUE_FROM, rows_from
from backend.db.fragments import array
from backend.db.records import SHORT_TASKS, OutboxEntry
from backend.db.session import IN_INDEX_ORDER
from backend.options import HIGHEST, PRIORITY

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from backend.db.session import Executor

# Bytes of arguments that are taken at once; the last task may exceed them. A relay holds several
# copies in memory.
TAKE_BYTES = 2 * 1024 * 1024
# The size of a compressed value is known only after reading it. JSON is rarely compressed by a
# larger factor.
COMPRESSION = 32
# Fewer characters of arguments, of up to 4 bytes each, do not reach TAKE_BYTES.
SURELY_LESS = TAKE_BYTES // COMPRESSION // 4


def _due(rows: str, limit: str = ":limit") -> str:
    """Return a query that locks due rows, oldest first."""
    return f"""
        SELECT task_id, attempt, due_at, publishes, limit_key, priority FROM outbox
        WHERE {rows} {rows_from("due_from")} AND due_at <= now()
        ORDER BY due_at LIMIT {limit} FOR UPDATE SKIP LOCKED
    """


def _due_levels(first: int, last: int) -> str:
    """Return a query of the due rows of several priorities, the first one first.

    It asks for one priority after the other, so that rows which are due later are not read.
    """
    return f"""
        SELECT each.* FROM generate_series({first}, {last}, -1) AS level
        CROSS JOIN LATERAL ({_due("priority = level AND")}) each
    """


_LEVELS = f"""
    WITH high AS (
        {_due_levels(HIGHEST, PRIORITY + 1)} LIMIT :limit
    ), usual AS (
        {_due("priority IS NULL AND", limit=":limit - (SELECT count(*) FROM high)")}
    ), low AS (
        {_due_levels(PRIORITY - 1, 0)}
        LIMIT :limit - (SELECT count(*) FROM high) - (SELECT count(*) FROM usual)
    ), due AS (
        SELECT * FROM high UNION ALL SELECT * FROM usual UNION ALL SELECT * FROM low
    )
"""


def _take(due: str, order: str) -> TextClause:
    """Return the statement that takes due rows; `due` begins it, with a CTE of this name.

    `order`: in which order the rows count for TAKE_BYTES. The columns are the fields of
    OutboxEntry.
    """
    # A row without a task, which a restored table may have, is only marked as published. The commit
    # is not flushed: if PostgreSQL crashes and forgets it, the messages are published twice.
    return text(
        f"""
        {IN_INDEX_ORDER}
        SET LOCAL synchronous_commit = off;
        {due}, content AS (
            SELECT due.*, t.name, t.args, t.reply_to, t.options,
                least(coalesce(pg_column_size(t.args), 0), {TAKE_BYTES})
                    * CASE WHEN pg_column_compression(t.args) IS NULL THEN 1 ELSE {COMPRESSION} END
                    AS size
            FROM due LEFT JOIN tasks t ON t.id = due.task_id
        ), measured AS (
            SELECT *, sum(size) OVER (ORDER BY {order} ROWS UNBOUNDED PRECEDING) - size AS before
            FROM content WHERE name IS NOT NULL
        ), orphaned AS (
            UPDATE outbox SET published_at = now(), publishes = least(publishes + 1, 1000)
            WHERE task_id = ANY(ARRAY(SELECT task_id FROM content WHERE name IS NULL))
        )
        SELECT CAST(task_id AS text), attempt, name, CAST(args AS text), reply_to, publishes,
            limit_key, options
        FROM measured WHERE before < :bytes ORDER BY {order}
        """
    )


_AGE = "due_at, task_id"
_TAKE_OLDEST = _take(f"WITH due AS ({_due('')})", _AGE)
_TAKE_MOST_URGENT = _take(_LEVELS, f"coalesce(priority, {PRIORITY}) DESC, {_AGE}")
# Whether rows of other priorities than the usual one are due.
_HAS_LEVELS = text(
    f"""
    {IN_INDEX_ORDER}
    SELECT EXISTS (
        SELECT FROM generate_series(0, {HIGHEST}) AS level CROSS JOIN LATERAL (
            SELECT FROM outbox
            WHERE priority = level AND {rows_from("due_from")} AND due_at <= now() LIMIT 1
        ) due
    )
    """
)


def take(connection: Executor, limit: int) -> list[OutboxEntry]:
    """Lock and return up to `limit` due rows, by priority, then by age; no other relay gets them.

    Takes fewer if their arguments are large: it stops after TAKE_BYTES. `mark_published` must
    follow in the same transaction.
    """
    values = {"limit": limit, "bytes": TAKE_BYTES}
    entries = [OutboxEntry(*row) for row in connection.execute(_TAKE_OLDEST, values)]
    full = len(entries) == limit or sum(len(entry.args) for entry in entries) > SURELY_LESS
    # If more rows may be due than these, the most urgent ones may be among the others.
    if full and connection.execute(_HAS_LEVELS).scalar():
        entries = [OutboxEntry(*row) for row in connection.execute(_TAKE_MOST_URGENT, values)]
    if any(entry.options for entry in entries):
        entries.sort(key=lambda entry: -entry.priority)
    return entries


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


def publish_again(chosen: str) -> TextClause:
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


_PUT_BACK = publish_again("SELECT task_id FROM outbox WHERE task_id = ANY(CAST(:ids AS uuid[]))")


def put_back(connection: Executor, task_ids: Sequence[str]) -> None:
    """Make rows due at once whose messages could not be published."""
    connection.execute(_PUT_BACK, {"ids": list(task_ids)})


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
