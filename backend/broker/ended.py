"""Sends the replies about tasks that no worker has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backend.broker.app import app
from backend.broker.wire import Delivery
from backend.db.records import TASKS, outcome

if TYPE_CHECKING:
    from collections.abc import Iterable

    from backend.db.records import TaskRecord
    from backend.states import State


def reply_ended(tasks: Iterable[TaskRecord], state: State, error: str) -> None:
    """Send the replies about tasks that have ended with an error, as a worker does about others.

    `tasks`: id, attempt, name and reply_to.
    """
    results: Any = app.backend
    results.reply(
        [
            (
                Delivery(task.id, task.attempt, task.name, (), {}, task.reply_to, None, TASKS),
                outcome(task.id, task.attempt, state, error=error),
            )
            for task in tasks
        ]
    )
