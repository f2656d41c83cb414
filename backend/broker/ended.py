"""Sends replies about tasks that the API or the reconciler has ended."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from backend.broker.app import app
from backend.db.records import outcome
from backend.loop import start_thread

if TYPE_CHECKING:
    from collections.abc import Iterable

    from backend.db.records import TaskRecord
    from backend.states import State


def reply_ended(tasks: Iterable[TaskRecord], state: State, error: str) -> None:
    """Send the replies about tasks that have ended with an error, as a worker does about others.

    `tasks`: id, attempt and reply_to.
    """
    results: Any = app.backend
    results.reply(
        [
            (task.reply_to, None, outcome(task.id, task.attempt, state, error=error))
            for task in tasks
        ]
    )


def reply_soon(tasks: Iterable[TaskRecord], state: State, error: str) -> None:
    """Send the replies as `reply_ended` does, but in a thread: the caller must not wait for it."""
    start_thread("reply", "sends replies", partial(reply_ended, tasks, state, error))
