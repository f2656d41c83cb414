"""The outbox: what the broker must be told of, taken, published and checked in batches."""

from __future__ import annotations

import select
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from sqlalchemy import text

from backend.db.session import changed_rows, engine, store_errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.db.session import Executor


@dataclass(frozen=True, slots=True)
class Due:
    """An attempt to be published; `args` is JSON text."""

    task_id: str
    attempt: int
    name: str
    args: str
    reply_to: str | None


_TAKE = text(
    """
    WITH due AS (
        SELECT task_id FROM outbox
        WHERE published_at IS NULL AND due_at <= now()
        ORDER BY due_at LIMIT :limit FOR UPDATE SKIP LOCKED
    ), taken AS (
        UPDATE outbox SET published_at = now(), publishes = least(publishes + 1, 1000)
        FROM due WHERE outbox.task_id = due.task_id
        RETURNING outbox.task_id, outbox.attempt, outbox.due_at
    )
    SELECT CAST(t.id AS text), taken.attempt, t.name, CAST(t.args AS text), t.reply_to
    FROM taken JOIN tasks t ON t.id = taken.task_id
    ORDER BY taken.due_at, t.id
    """
)


def take(connection: Executor, limit: int) -> list[Due]:
    """Take up to `limit` due rows for publishing, oldest first; no other relay gets them.

    They count as published from the commit on. If this relay dies before it has published them,
    `republish` finds them missing from the broker's queue.
    """
    return [Due(*row) for row in connection.execute(_TAKE, {"limit": limit})]


_PUT_BACK = text(
    """
    UPDATE outbox SET published_at = NULL
    WHERE task_id IN (
        SELECT task_id FROM outbox WHERE task_id = ANY(CAST(:ids AS uuid[]))
        FOR UPDATE SKIP LOCKED
    )
    """
)


def put_back(connection: Executor, task_ids: Sequence[str]) -> None:
    """Return rows that could not be published; they are due at once."""
    connection.execute(_PUT_BACK, {"ids": list(task_ids)})


_PUBLISHED = text("SELECT count(*) FROM outbox WHERE published_at IS NOT NULL")


def published(connection: Executor) -> int:
    """Return how many rows the broker has been told of and no worker has claimed."""
    count: int = connection.execute(_PUBLISHED).scalar_one()
    return count


_WAITING = text("SELECT count(*) FROM (SELECT 1 FROM outbox LIMIT :limit) waiting")
_CLAIMED = text(
    "SELECT n_tup_del FROM pg_stat_user_tables WHERE relid = CAST('outbox' AS regclass)"
)


def backlog(connection: Executor, limit: int) -> tuple[int, int]:
    """Return how many tasks wait, `limit` at most, and how many have been claimed so far.

    The second is PostgreSQL's statistic, some seconds old: good for a rate.
    """
    waiting: int = connection.execute(_WAITING, {"limit": limit}).scalar_one()
    claimed: int = connection.execute(_CLAIMED).scalar() or 0
    return waiting, claimed


# 10 s, 20 s, … 320 s after the last publish. The oldest go first: a queue is served in order, so
# what it no longer has is most likely what it was given first.
_REPUBLISH = text(
    """
    UPDATE outbox SET published_at = NULL
    WHERE task_id IN (
        SELECT task_id FROM outbox
        WHERE published_at < now() - interval '10 s' * power(2, least(publishes - 1, 5))
        ORDER BY published_at LIMIT :limit FOR UPDATE SKIP LOCKED
    )
    """
)


def republish(connection: Executor, missing: int) -> int:
    """Mark up to `missing` rows, long published and still unclaimed, to be published again."""
    return changed_rows(connection.execute(_REPUBLISH, {"limit": missing}))


_LATE = text(
    "SELECT EXISTS (SELECT FROM outbox"
    " WHERE published_at IS NULL AND due_at < now() - interval '5 s')"
)


def late(connection: Executor) -> bool:
    """Tell whether a task has been due for long and no relay has taken it."""
    return bool(connection.execute(_LATE).scalar())


def ring(connection: Executor) -> None:
    """Wake the relays when the transaction commits."""
    connection.execute(text("SELECT pg_notify('outbox', '')"))


class _Notified(Protocol):
    """The part of a psycopg2 connection that listening needs."""

    notifies: list[object]

    def fileno(self) -> int: ...
    def poll(self) -> int: ...


class Bell:
    """Hears `ring` from every process, on a connection of its own."""

    def __init__(self) -> None:
        with store_errors():
            connection = engine().connect().execution_options(isolation_level="AUTOCOMMIT")
            # A connection that listens must not go back to the pool.
            connection.detach()
            connection.exec_driver_sql("LISTEN outbox")
        self._connection = connection
        self._raw = cast("_Notified", connection.connection.dbapi_connection)

    def wait(self, timeout: float) -> None:
        """Return when it rings, after `timeout` seconds at the latest."""
        with store_errors():
            # Not select.select, which takes no file descriptor above 1023.
            poller = select.poll()
            poller.register(self._raw.fileno(), select.POLLIN)
            if poller.poll(timeout * 1000):
                self._raw.poll()
                self._raw.notifies.clear()

    def close(self) -> None:
        """Stop listening."""
        self._connection.close()
