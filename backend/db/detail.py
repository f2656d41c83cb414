"""Reads everything about a task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

from backend.db.queries import REPORTED_STATE

if TYPE_CHECKING:
    from sqlalchemy import RowMapping

    from backend.db.session import Executor

_DETAIL = text(
    f"""
    SELECT tasks.*, CAST(args AS text) AS arguments, CAST(result AS text) AS value,
        {REPORTED_STATE} AS reported,
        (SELECT nullif(due_at, 'infinity') FROM outbox WHERE task_id = tasks.id) AS due_at
    FROM tasks WHERE id = CAST(:id AS uuid)
    """
)
_ATTEMPTS = text("SELECT * FROM task_attempts WHERE task_id = CAST(:id AS uuid) ORDER BY attempt")


def read(connection: Executor, task_id: str) -> tuple[RowMapping, list[RowMapping]] | None:
    """Return the row of a task, with the rows of its attempts; None for an unknown id."""
    row = connection.execute(_DETAIL, {"id": task_id}).mappings().one_or_none()
    if row is None:
        return None
    return row, list(connection.execute(_ATTEMPTS, {"id": task_id}).mappings())
