"""What concerns an attempt while it runs: its progress, its transaction, its attempts left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

from backend.db.fragments import MAX_ATTEMPTS_OF, NOT_ENDED, SAME_TRANSACTION
from backend.db.session import changed_rows
from backend.states import STARTED

if TYPE_CHECKING:
    from datetime import datetime

    from backend.db.session import Executor


_SET_MAX_ATTEMPTS = text(
    f"""
    UPDATE tasks SET max_attempts = {MAX_ATTEMPTS_OF}
    WHERE id = :id AND attempt = :attempt AND {NOT_ENDED} RETURNING max_attempts
    """
)


def set_max_attempts(connection: Executor, task_id: str, attempt: int, declared: int) -> int:
    """Store the max_attempts of a task whose row has none yet; return it.

    Returns 0 if the attempt is not the current one.
    """
    values = {"id": task_id, "attempt": attempt, "declared": declared}
    return connection.execute(_SET_MAX_ATTEMPTS, values).scalar() or 0


def same_transaction(connection: Executor, began: datetime | None) -> bool:
    """Return whether the transaction under way is the one that began then."""
    found = connection.execute(text(f"SELECT {SAME_TRANSACTION}"), {"began": began})
    return bool(found.scalar())


_PROGRESS = text(
    f"""
    UPDATE tasks SET progress = :progress
    WHERE id = :id AND attempt = :attempt AND state = '{STARTED}'
    """
)


def progress(connection: Executor, task_id: str, attempt: int, done: int, total: int) -> bool:
    """Store how far a started task is; return False if the attempt is not the current one."""
    values = {"id": task_id, "attempt": attempt, "progress": f"{done}/{total}"}
    return changed_rows(connection.execute(_PROGRESS, values)) == 1
