"""Messages that the broker should have: they are counted, and published again."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from sqlalchemy import text

from backend.db.bounds import rows_from
from backend.db.outbox import publish_again
from backend.db.records import SHORT_TASKS, TASKS
from backend.db.session import IN_INDEX_ORDER
from backend.options import HIGHEST, PRIORITY

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from backend.db.session import Executor

# The queue of a published row. The previous version writes only `bundled`.
_QUEUE = f"""
    CASE WHEN bundled THEN '{SHORT_TASKS}' WHEN queue <> '{SHORT_TASKS}' THEN queue
        ELSE '{TASKS}' END
"""
# Messages are distinguished by transaction too (xmin), because two relays may take rows at the same
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


# Published at least 10 s, 20 s, … 320 s ago; the time doubles with each publishing.
_LONG_PUBLISHED = "published_at < now() - interval '10 s' * power(2, least(publishes - 1, 5))"


def _oldest(rows: str) -> str:
    return f"""
        SELECT DISTINCT published_at FROM outbox
        WHERE {rows} AND {rows_from("published_from")} AND {_QUEUE} = :queue
        ORDER BY published_at LIMIT :limit
    """


# A queue delivers the messages of one priority in order, so those that it no longer has are most
# likely the oldest of their priority.
_OLDEST = text(
    f"""
    {IN_INDEX_ORDER}
    SELECT published_at, {PRIORITY} FROM ({_oldest("priority IS NULL")}) usual
    UNION ALL
    SELECT each.published_at, level FROM generate_series(0, {HIGHEST}) AS level
    CROSS JOIN LATERAL ({_oldest("priority = level")}) each
    """
)


def oldest_published(connection: Executor, queue: str, limit: int) -> dict[datetime, int]:
    """Return when the oldest unclaimed messages of a queue were published, and their priority.

    They are `limit` messages of each priority.
    """
    rows = connection.execute(_OLDEST, {"queue": queue, "limit": limit})
    return {row[0]: row[1] for row in rows}


_REPUBLISH = publish_again(
    f"""
    SELECT task_id FROM outbox
    WHERE published_at IS NOT NULL AND published_at = ANY(CAST(:times AS timestamptz[]))
        AND {_LONG_PUBLISHED} AND {_QUEUE} = :queue
        AND now() - interval '10 s' > (
            SELECT max(published) FROM unnest(CAST(:times AS timestamptz[])) AS published
        )
    """
)


def republish(connection: Executor, queue: str, times: Iterable[datetime]) -> int:
    """Make due the tasks of a queue whose message was published at one of `times`.

    None, if one of the times is less than 10 s ago: of several messages only some are lost. The
    others come into the queue a second time, so the lost ones would no longer be missing there.
    Leaves out those that were published again recently. Returns how many it has made due.
    """
    count: int = connection.execute(_REPUBLISH, {"queue": queue, "times": list(times)}).scalar_one()
    return count


# Messages of other programs are part of a queue's length, so they can hide that ours are missing.
# But a queue delivers in order: if a task that was accepted after a row was published has started,
# its message was behind the row's message. So the row's message is lost, or a busy worker has it.
# The ten minutes are a margin: with several relays the order is not exact. An external task proves
# nothing, since it is accepted and started at the same time; nor does a task from before
# PostgreSQL's clock was set back, nor a task of another queue. Only the usual priority is looked
# at: a more urgent message overtakes others.
_REPUBLISH_OVERTAKEN = publish_again(
    f"""
    SELECT task_id FROM outbox
    WHERE {rows_from("published_from")}
        AND published_at < (
            SELECT max(created_at) - interval '10 min' FROM tasks
            WHERE {rows_from("started_from")}
                AND started_at > created_at AND created_at <= now() AND name = ANY(:names)
                AND options ->> 'priority' IS NULL
        )
        AND priority IS NULL
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
