"""The table of messages."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from backend.db.fragments import array

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Row

    from backend.db.session import Executor


@dataclass(frozen=True, slots=True)
class Message:
    """A stored message; `created_at` is in UTC."""

    id: int
    content: str
    created_at: datetime


def _message(row: Row[*tuple[Any, ...]]) -> Message:
    # The session's time zone is not UTC if a pooler drops our settings.
    return Message(row[0], row[1], row[2].astimezone(UTC))


def insert(connection: Executor, content: str, task_id: str) -> Message:
    """Insert a task's message and return it. Raises IntegrityError for a second one."""
    (message,) = insert_many(connection, [content], [task_id])
    return message


# Without task ids, unnest() fills their column with NULL.
_INSERT = text(
    """
    INSERT INTO messages (content, task_id)
    SELECT content, task_id
    FROM unnest(CAST(:contents AS text[]), CAST(:task_ids AS uuid[])) WITH ORDINALITY
        AS new (content, task_id, place)
    ORDER BY place
    RETURNING id, content, created_at
    """
)


def insert_many(
    connection: Executor, contents: Sequence[str], task_ids: Sequence[str] = ()
) -> list[Message]:
    """Insert messages, in order, and return them.

    `task_ids`: the id of the task that writes each message, in the same order; empty if no task
    does. Raises IntegrityError for a second message of a task, ValueError for another number of
    ids.
    """
    if task_ids and len(task_ids) != len(contents):
        raise ValueError("task_ids: one for each message, or none")
    parameters = {"contents": list(contents), "task_ids": list(task_ids)}
    rows = connection.execute(_INSERT, parameters)
    return sorted((_message(row) for row in rows), key=lambda message: message.id)


# Kept by triggers: to count a million rows takes longer than all the rest of a request.
_TOTAL = "SELECT CAST(coalesce(sum(messages), 0) AS bigint) FROM message_counts"
_COUNT = text(_TOTAL)
_PAGE = text(
    f"""
    SELECT id, content, created_at, ({_TOTAL}) FROM (
        SELECT id, content, created_at FROM messages
        WHERE id < :before ORDER BY id DESC LIMIT :limit
    ) newest ORDER BY id
    """
)


def page(connection: Executor, limit: int, before: int) -> tuple[list[Message], int]:
    """Return the newest `limit` messages with an id below `before`, ascending; and how many exist.

    One statement does both, because a round trip takes an eighth of a request's time.
    """
    rows = connection.execute(_PAGE, {"limit": limit, "before": before}).all()
    return [_message(row) for row in rows], rows[0][3] if rows else count(connection)


_ONE = text("SELECT id, content, created_at FROM messages WHERE id = :id")
# Locked in order of id: two transactions that delete the same messages could be a deadlock.
_DELETE = text(
    """
    WITH locked AS (
        SELECT id FROM messages WHERE id = ANY(CAST(:ids AS bigint[])) ORDER BY id FOR UPDATE
    )
    DELETE FROM messages WHERE id = ANY(ARRAY(SELECT id FROM locked)) RETURNING id
    """
)


def one(connection: Executor, message_id: int) -> Message | None:
    """Return a message, None if there is none with this id."""
    row = connection.execute(_ONE, {"id": message_id}).one_or_none()
    return None if row is None else _message(row)


def delete_many(connection: Executor, ids: Sequence[int]) -> list[bool]:
    """Delete messages; return for each id whether there was one. A repeated id has one once."""
    gone = set(connection.execute(_DELETE, {"ids": array(ids)}).scalars())
    found = []
    for message_id in ids:
        found.append(message_id in gone)
        gone.discard(message_id)
    return found


_ADD_UP = text(
    """
    WITH gone AS (
        DELETE FROM message_counts WHERE id IN (
            SELECT id FROM message_counts FOR UPDATE SKIP LOCKED
        )
        RETURNING messages
    )
    INSERT INTO message_counts (messages) SELECT sum(messages) FROM gone HAVING count(*) > 0
    """
)


def add_up(connection: Executor) -> None:
    """Replace the rows that `count` sums by one row."""
    connection.execute(_ADD_UP)


def count(connection: Executor) -> int:
    """Return how many messages there are."""
    total: int = connection.execute(_COUNT).scalar_one()
    return total
