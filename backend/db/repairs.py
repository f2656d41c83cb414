"""Inserts the missing outbox rows of waiting tasks.

No statement of this service leaves a task without one. A restored backup, a row deleted by hand or
a misplaced commit can.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import text

from backend.db.bounds import rows_from
from backend.db.fragments import PRIORITY_OF
from backend.db.records import LAST_ATTEMPT
from backend.db.session import IN_INDEX_ORDER
from backend.states import ENDED, STARTED, one_of

if TYPE_CHECKING:
    from backend.db.session import Executor


class Position(NamedTuple):
    """Where the last scan stopped, in the order of the index."""

    created_at: datetime
    task_id: str


START = Position(datetime(1, 1, 1, tzinfo=UTC), "00000000-0000-0000-0000-000000000000")

# One snapshot is enough: a task and its outbox row change in one transaction. Locked rows are being
# claimed or ended, so they are skipped until a later pass. The task gets its next attempt, at no
# cost: a claim of the current one that waits for the lock would not see the new row, and so not
# delete it.
_REPAIR = text(
    f"""
    {IN_INDEX_ORDER}
    WITH seen AS MATERIALIZED (
        SELECT id, created_at FROM tasks
        WHERE {rows_from("unfinished_from")} AND (created_at, id) > (:created_at, CAST(:id AS uuid))
        ORDER BY created_at, id LIMIT :limit
    ), lost AS (
        SELECT id, attempt FROM tasks
        WHERE id = ANY(ARRAY(
            SELECT id FROM seen WHERE NOT EXISTS (SELECT FROM outbox WHERE task_id = seen.id)
        ))
        AND state NOT IN {one_of((STARTED, *ENDED))}
        ORDER BY id FOR UPDATE SKIP LOCKED
    ), next AS (
        UPDATE tasks SET attempt = tasks.attempt + 1,
            max_attempts = CASE max_attempts WHEN 0 THEN 0 ELSE max_attempts + 1 END
        FROM lost WHERE tasks.id = lost.id AND max_attempts < {LAST_ATTEMPT}
        RETURNING tasks.id, tasks.attempt, {PRIORITY_OF} AS priority,
            greatest(CASE tasks.attempt WHEN 2 THEN eta END, now()) AS due_at
    ), repaired AS (
        INSERT INTO outbox (task_id, attempt, priority, due_at)
        SELECT id, attempt, priority, due_at FROM next
        ON CONFLICT (task_id) DO NOTHING
        RETURNING task_id
    ), counted AS (
        UPDATE repairs SET tasks = tasks + (SELECT count(*) FROM repaired), latest = now()
        WHERE EXISTS (SELECT FROM repaired)
    )
    SELECT last.created_at, CAST(last.id AS text),
        ARRAY(SELECT CAST(task_id AS text) FROM repaired), (SELECT count(*) FROM seen)
    FROM seen last ORDER BY created_at DESC, id DESC LIMIT 1
    """
)


def repair(connection: Executor, after: Position, limit: int) -> tuple[Position, list[str]]:
    """Insert missing outbox rows for the next `limit` unfinished tasks.

    Returns where to continue (START after the last task) and the ids of the repaired tasks.
    """
    row = connection.execute(
        _REPAIR, {"created_at": after.created_at, "id": after.task_id, "limit": limit}
    ).one_or_none()
    if row is None:
        return START, []
    created_at, task_id, repaired, seen = row
    return (Position(created_at, task_id) if seen == limit else START), repaired


_TOTAL = text("SELECT tasks FROM repairs WHERE latest > now() - interval '1 hour'")


def total_if_recent(connection: Executor) -> int:
    """Return how many tasks were ever repaired, or 0 if none was in the last hour."""
    return connection.execute(_TOTAL).scalar() or 0
