"""Statements of a running attempt: its progress, and whether its transaction is still the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

from backend.db.fragments import SAME_TRANSACTION
from backend.db.session import changed_rows
from backend.states import STARTED

if TYPE_CHECKING:
    from datetime import datetime

    from backend.db.session import Executor


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
