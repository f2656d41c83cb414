"""What the ledger says: a task's state, what has not ended, what was abandoned. Changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import text

from backend.db.models import UNFINISHED
from backend.db.session import IN_INDEX_ORDER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.db.session import Executor


@dataclass(frozen=True, slots=True)
class State:
    """What the ledger knows of a task; `result` is JSON text, null unless SUCCESS."""

    id: str
    state: str
    result: str | None
    error: str | None
    progress: str | None

    @property
    def ended(self) -> bool:
        """Tell whether the task has come to its end."""
        return self.state in {"SUCCESS", "FAILURE", "REVOKED"}


_STATES = text(
    """
    SELECT CAST(id AS text), state, CAST(result AS text), error, progress
    FROM tasks WHERE id = ANY(CAST(:ids AS uuid[]))
    """
)


def states(connection: Executor, ids: Sequence[str]) -> list[State | None]:
    """Return what is known of each task, None for an id that was never issued."""
    rows = connection.execute(_STATES, {"ids": list(set(ids))})
    found = {row[0]: State(*row) for row in rows}
    return [found.get(task_id) for task_id in ids]


# tasks.id: a bare id would be the text in the result, which no index has in order. The partial
# index outbox_due finds what is due later; it is not published yet.
_UNFINISHED = text(
    f"""
    {IN_INDEX_ORDER}
    SELECT CAST(id AS text), CASE
        WHEN state = 'STARTED' THEN 'ACTIVE'
        WHEN id IN (
            SELECT task_id FROM outbox WHERE published_at IS NULL AND due_at > now()
        ) THEN 'SCHEDULED'
        ELSE 'RESERVED'
    END
    FROM tasks WHERE {UNFINISHED} ORDER BY tasks.created_at, tasks.id LIMIT :limit
    """  # noqa: S608 - a constant of this package
)
_COUNT_UNFINISHED = text(f"SELECT count(*) FROM tasks WHERE {UNFINISHED}")  # noqa: S608 - same


def unfinished(connection: Executor, limit: int) -> tuple[list[tuple[str, str]], int]:
    """Return the oldest `limit` tasks not yet ended, each with its status, and how many there are.

    The status is the ledger's view: ACTIVE, SCHEDULED (not yet due) or RESERVED.
    """
    rows = [(row[0], row[1]) for row in connection.execute(_UNFINISHED, {"limit": limit}).all()]
    if len(rows) < limit:
        return rows, len(rows)
    return rows, connection.execute(_COUNT_UNFINISHED).scalar_one()


_KNOWN = text("SELECT CAST(id AS text) FROM tasks WHERE id = ANY(CAST(:ids AS uuid[]))")


def known(connection: Executor, ids: Sequence[str]) -> set[str]:
    """Return those of the ids that the ledger has, in whatever state."""
    return set(connection.execute(_KNOWN, {"ids": list(ids)}).scalars())


class Abandoned(NamedTuple):
    """A started attempt that nobody works on; `dead` where its worker's lease ran out."""

    task_id: str
    attempt: int
    worker: str
    dead: bool


# A worker's parent process holds a task from before its claim until after its outcome, so a lease
# that was renewed a while after the start and does not hold the task has lost it.
_ABANDONED = text(
    """
    SELECT CAST(t.id AS text), t.attempt, t.worker, w.expires_at IS NULL OR w.expires_at < now()
    FROM tasks t LEFT JOIN workers w ON w.name = t.worker
    WHERE t.state = 'STARTED' AND (
        (:dead_too AND (w.name IS NULL OR w.expires_at < now()))
        OR (w.renewed_at > t.started_at + interval '5 s'
            AND CAST(t.id AS text) || '/' || t.attempt <> ALL (w.holds))
    )
    ORDER BY t.id LIMIT 500
    """
)


def abandoned(connection: Executor, *, dead_too: bool) -> list[Abandoned]:
    """Return the attempts that their worker no longer holds, and, if asked, those of dead ones."""
    return [Abandoned(*row) for row in connection.execute(_ABANDONED, {"dead_too": dead_too})]
