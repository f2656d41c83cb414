"""Calls a task's function as a worker does: with arguments of JSON text, for a value that JSON has.

backend/testing.py does the same in a test.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn, cast

from pydantic import BaseModel, ValidationError
from structlog.contextvars import bound_contextvars

from backend import coroutines
from backend.errors import ArgumentsDoNotFit, TaskError
from backend.submit import faults_of
from backend.telemetry.logs import about

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from backend.task import Run, Task


def read_arguments(spec: Task, text: str) -> BaseModel:
    """Return a task's arguments, read from JSON text.

    Raises ArgumentsDoNotFit, or TaskError for JSON that is nested too deeply.
    """
    try:
        return spec.arguments.model_validate_json(text)
    except ValidationError as error:
        faults = faults_of(error)
        if any(fault["type"] == "json_invalid" for fault in error.errors()):
            # Nested too deeply: no later version of the task can read them.
            raise TaskError(f"The arguments do not fit: {faults}") from error
        raise ArgumentsDoNotFit(f"The arguments do not fit: {faults}") from error


def call(spec: Task, arguments: BaseModel, run: Run) -> BaseModel:
    """Call a task's function for one attempt; return its value.

    An `async def` has no `run.session`. Raises TaskError for a value that is no model, and every
    error of the function.
    """
    # The task's own log lines belong to it too.
    with bound_contextvars(**about(run.task_id, run.attempt)):
        if spec.takes_lists:
            return call_together(spec, [arguments], [run])[0]
        if spec.is_async:
            run = replace(run, session=cast("Any", _NoSession()))
        return _checked(_returned(spec, arguments, run))


def call_together(
    spec: Task, arguments: Sequence[BaseModel], runs: Sequence[Run]
) -> list[BaseModel]:
    """Call the function of a task that takes lists; return a value for each attempt, in order.

    Raises TaskError unless it returns a list with a model for each, and every error of the
    function.
    """
    count = len(arguments)  # the function may change the lists
    values = _returned(spec, arguments, runs)
    if not isinstance(values, list):
        raise TaskError(f"The task returned {type(values).__name__} instead of a list")
    if len(values) != count:
        raise TaskError(f"The task returned {len(values)} values for {count} arguments")
    return [_checked(value) for value in values]


def _returned(spec: Task, *parameters: object) -> object:
    """Return what the function, or its coroutine, returns. A process that it forks ends here."""
    pid = os.getpid()
    function: Callable[..., object] = spec.function
    try:
        value = function(*parameters)
        if spec.is_async:
            value = coroutines.result_of(cast("Coroutine[Any, Any, object]", value))
    finally:
        if os.getpid() != pid:
            _end_fork()
    return value


def _checked(value: object) -> BaseModel:
    """Return the value. Raises TaskError if it is not a model."""
    if not isinstance(value, BaseModel):
        raise TaskError(f"The task returned {type(value).__name__} instead of a Pydantic model")
    return value


class _NoSession:
    """Raises TaskError for each use of `run.session`: a statement would block the event loop."""

    def __getattr__(self, name: str) -> NoReturn:
        raise TaskError(
            f"An async task cannot use run.session or run.submit (session.{name}): make it a `def`"
        )


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
