"""Calls the function of an attempt's task in the attempt's session."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from backend.call import as_json, call, call_together, read_arguments
from backend.errors import TaskRaised
from backend.task import Run
from backend.worker import stopping
from backend.worker.attempt.time_up import time_up

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from backend.db.task_session import TaskSession
    from backend.worker.attempt.attempt import Attempt


def value_of(
    attempt: Attempt, session: TaskSession, start: Callable[[], None] | None = None
) -> str:
    """Run a task's function; return its value as JSON text. Raises what the function raises.

    `start`: called before the function reports progress; see group.py.
    """
    spec = attempt.spec
    run = _run(attempt, session, start)
    with session.lent():
        arguments = read_arguments(spec, attempt.arguments)
        # The members of a batch share a time limit, and a coroutine cannot be interrupted.
        if spec.one_commit or spec.is_async:
            return as_json(call(spec, arguments, run))
        with time_up(attempt.time_limit, attempt.ends_at - time.monotonic()):
            value = call(spec, arguments, run)
        return as_json(value)


def values_of(attempts: Sequence[Attempt], session: TaskSession) -> list[str]:
    """Call the function of a task that takes lists once, for several attempts of this task.

    Returns the values as JSON texts, in the same order. Raises TaskRaised for an attempt whose
    arguments do not fit, and what the function raises.
    """
    spec = attempts[0].spec
    arguments = []
    for attempt in attempts:
        try:
            arguments.append(read_arguments(spec, attempt.arguments))
        except Exception as error:
            raise TaskRaised(attempt.id) from error
    with session.lent():
        runs = [_run(attempt, session) for attempt in attempts]
        return [as_json(value) for value in call_together(spec, arguments, runs)]


def _run(attempt: Attempt, session: TaskSession, start: Callable[[], None] | None = None) -> Run:
    """Return what the function gets as `run`."""
    return Run(
        attempt.id,
        attempt.number,
        session,
        attempt.spec.one_commit,
        start,
        attempt.ends_at,
        stopping.deadline,
    )
