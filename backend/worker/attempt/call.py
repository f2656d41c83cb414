"""Calls the function of an attempt's task in the attempt's session."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.call import as_json, call, read_arguments
from backend.task import Run

if TYPE_CHECKING:
    from collections.abc import Callable

    from backend.db.task_session import TaskSession
    from backend.worker.attempt.attempt import Attempt


def value_of(
    attempt: Attempt, session: TaskSession, start: Callable[[], None] | None = None
) -> str:
    """Run a task's function; return its value as JSON text. Raises what the function raises.

    `start`: called before the function reports progress; see group.py.
    """
    run = Run(attempt.id, attempt.number, session, attempt.spec.one_commit, start)
    with session.lent():
        arguments = read_arguments(attempt.spec, attempt.arguments)
        return as_json(call(attempt.spec, arguments, run))
