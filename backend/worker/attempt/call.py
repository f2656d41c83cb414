"""Calls a task's function with JSON text, and converts its value to JSON text."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, NoReturn

from pydantic import BaseModel, ValidationError
from structlog.contextvars import bound_contextvars

from backend.errors import TaskError
from backend.task import Run
from backend.telemetry.logs import about

if TYPE_CHECKING:
    from collections.abc import Callable

    from backend.task import Task
    from backend.worker.attempt.attempt import Attempt
    from backend.worker.attempt.session import TaskSession


def call(spec: Task, arguments: str, run: Run) -> BaseModel:
    """Call a task's function with arguments as JSON text; return its value.

    Raises TaskError for arguments that do not fit, and every error of the function.
    """
    try:
        validated = spec.arguments.model_validate_json(arguments)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()
        )
        raise TaskError(f"The arguments do not fit: {faults}") from error
    pid = os.getpid()
    try:
        # The task's own log lines belong to it too.
        with bound_contextvars(**about(run.task_id, run.attempt)):
            value: object = spec.function(validated, run)
    finally:
        if os.getpid() != pid:
            _end_fork()
    if not isinstance(value, BaseModel):
        raise TaskError(f"The task returned {type(value).__name__} instead of a Pydantic model")
    return value


def value_of(
    attempt: Attempt, session: TaskSession, start: Callable[[], None] | None = None
) -> str:
    """Run a task's function; return its value as JSON text. Raises what the function raises.

    `start`: called before the function reports progress; see group.py.
    """
    run = Run(attempt.id, attempt.number, session, attempt.spec.one_commit, start)
    with session.lent():
        return as_json(call(attempt.spec, attempt.arguments, run))


def _end_fork() -> NoReturn:
    """End a process that the task's function has forked: only its parent reports the outcome.

    The exit code is the one that a script would have.
    """
    error = sys.exception()
    code = getattr(error, "code", 1) if error else 0
    os._exit(code if isinstance(code, int) else int(code is not None))


def as_json(value: BaseModel) -> str:
    """Return a task's value as JSON text.

    Raises TaskError for NaN and infinities, which Pydantic would write as null.
    """
    # As the OpenAPI document names its fields.
    text = value.model_dump_json(by_alias=True)
    if "null" in text and not _finite(value.model_dump()):
        raise TaskError("The task's value has a number that JSON lacks: NaN or infinite")
    return text


def _finite(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Mapping):
        return all(map(_finite, value.values()))
    return not isinstance(value, (list, tuple, set, frozenset)) or all(map(_finite, value))
