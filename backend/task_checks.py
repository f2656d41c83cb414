"""Checks of what `@task` declares; each raises RegistrationError."""

from __future__ import annotations

import inspect
import re
import traceback
from enum import Enum
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints
from uuid import UUID

from pydantic import BaseModel
from pydantic.types import PathType

from backend.db.records import SHORT_TASKS, TASKS
from backend.errors import RegistrationError
from backend.setting_checks import NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pydantic.fields import FieldInfo

# attempt and max_attempts can be 32,767 at most, and each hand-back of a task adds one to both.
MAX_ATTEMPTS = 1000
MAX_RUNNING = 10_000
# Seconds, 23 days: PostgreSQL counts its own limits in milliseconds, up to 2**31.
MAX_TIME_LIMIT = 2_000_000
# Seconds, a day.
MAX_PAUSE = 86_400

# The checks of Pydantic's FilePath, DirectoryPath, NewPath and SocketPath.
_FILE_CHECKS = (
    PathType.validate_file,
    PathType.validate_directory,
    PathType.validate_new,
    PathType.validate_socket,
)


def check_function(name: str, function: Callable[..., object], *, one_commit: bool = False) -> None:
    """Check that a worker can call the function."""
    if one_commit and inspect.iscoroutinefunction(function):
        raise RegistrationError(
            f"task {name!r}: tasks with one_commit write to the database, which an `async def`"
            " cannot: make it a `def`"
        )
    try:
        inspect.signature(function).bind("args", "run")
    except (TypeError, ValueError) as error:
        raise RegistrationError(f"task {name!r}: its parameters must be (args, run)") from error


def check_options(name: str, max_attempts: int, time_limit: float, run: str | None) -> None:
    """Check the options that do not depend on each other."""
    if run is not None and not re.fullmatch(r"[\w.]+:\w+", run):
        raise RegistrationError(f"task {name!r}: run must be 'module:function'")
    if max_attempts not in range(1, MAX_ATTEMPTS + 1):
        raise RegistrationError(
            f"task {name!r}: max_attempts must be a whole number from 1 to {MAX_ATTEMPTS}"
        )
    if not 0 < time_limit <= MAX_TIME_LIMIT:
        raise RegistrationError(
            f"task {name!r}: time_limit must be a number of seconds above 0, up to {MAX_TIME_LIMIT}"
        )


def check_retries(name: str, retry_for: object, backoff: object) -> None:
    """Check `retry_for` and `backoff`. Raises RegistrationError."""
    if not (
        isinstance(retry_for, tuple)
        and all(isinstance(each, type) and issubclass(each, BaseException) for each in retry_for)
    ):
        raise RegistrationError(f"task {name!r}: retry_for must be a tuple of exception classes")
    match backoff:
        case (int() | float() as first, int() | float() as factor, int() | float() as cap) if (
            first >= 0 and factor >= 1 and 0 <= cap <= MAX_PAUSE
        ):
            return
    raise RegistrationError(
        f"task {name!r}: backoff must be (first, factor, cap): seconds, a factor of at least 1, and"
        f" seconds up to {MAX_PAUSE}"
    )


def queue_of(name: str, queue: str, *, one_commit: bool) -> str:
    """Return the queue of a task; `queue` is the one that it was declared with, or empty."""
    if one_commit:
        if queue:
            raise RegistrationError(
                f"task {name!r}: tasks with one_commit have a queue of their own"
            )
        return SHORT_TASKS
    if not queue:
        return TASKS
    if queue == SHORT_TASKS or not re.fullmatch(NAME, queue):
        raise RegistrationError(
            f"task {name!r}: its queue may have only lower case letters, digits and underscores,"
            f" and {SHORT_TASKS} is for tasks with one_commit"
        )
    return queue


def check_limit(
    name: str,
    arguments: type[BaseModel],
    max_running: int | None,
    per: str | None,
    *,
    one_commit: bool,
) -> None:
    """Check `max_running` and `per`."""
    if max_running is None and per is None:
        return
    if one_commit:
        raise RegistrationError(f"task {name!r}: max_running is for tasks without one_commit")
    if max_running not in range(1, MAX_RUNNING + 1):
        raise RegistrationError(
            f"task {name!r}: max_running must be a whole number from 1 to {MAX_RUNNING}"
        )
    if per is not None and not _can_be_counted(arguments.model_fields.get(per)):
        raise RegistrationError(
            f"task {name!r}: per must name a field of its arguments that is a text, a whole number,"
            " a UUID or an Enum"
        )


def _can_be_counted(field: FieldInfo | None) -> bool:
    """Return whether equal values of a field are the same JSON text in every process."""
    return field is not None and not field.exclude and _is_plain(field.annotation)


def _is_plain(kind: object) -> bool:
    if get_origin(kind) in {Union, UnionType}:
        return all(map(_is_plain, get_args(kind)))
    return get_origin(kind) is Literal or (
        isinstance(kind, type) and issubclass(kind, (str, int, UUID, Enum, NoneType))
    )


def arguments_of(name: str, function: Callable[..., object]) -> type[BaseModel]:
    """Return the model of a task's arguments, after checks of the function and its two models."""
    check_function(name, function)
    hints = get_type_hints(function)
    arguments = _model(name, "its parameter `args`", item_of(hints.get("args")))
    _check_model(name, arguments)
    _model(name, "its return value", item_of(hints.get("return")))
    return arguments


def takes_lists(name: str, function: Callable[..., object], *, one_commit: bool) -> bool:
    """Return whether a function is annotated with lists: it is called once for a batch."""
    hints = get_type_hints(function)
    args, run, *_ = inspect.signature(function).parameters
    lists = [get_origin(hints.get(each)) is list for each in (args, run, "return")]
    if not any(lists):
        return False
    if not one_commit:
        raise RegistrationError(f"task {name!r}: only with one_commit can a function take lists")
    if not all(lists):
        raise RegistrationError(
            f"task {name!r}: its annotations must be"
            " (args: list[Model], runs: list[Run]) -> list[Model], or without lists"
        )
    return True


def item_of(hint: object) -> object:
    """Return `Model` for the annotation `list[Model]`; any other annotation unchanged."""
    return get_args(hint)[0] if get_origin(hint) is list else hint


def _model(task_name: str, what: str, hint: object) -> type[BaseModel]:
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return hint
    raise RegistrationError(f"task {task_name!r}: annotate {what} with a Pydantic model")


def _check_model(name: str, model: type[BaseModel]) -> None:
    """Raise RegistrationError if validation of the model depends on when or where it runs."""
    for schema in _schemas(model.__pydantic_core_schema__):
        if schema.get("now_op") == "future":
            raise RegistrationError(
                f"task {name!r}: a time that must be in the future may be past when the task runs;"
                " check it in the task"
            )
        if schema.get("type") == "generator":
            raise RegistrationError(
                f"task {name!r}: the items of an Iterable are validated only when they are read in"
                " the task; declare a list"
            )
        if schema.get("function") in _FILE_CHECKS:
            raise RegistrationError(
                f"task {name!r}: the worker may run on another machine, with other files;"
                " take a Path, and look for it in the task"
            )
        factory = schema.get("default_factory")
        if factory and not schema.get("default_factory_takes_data") and factory() != factory():
            raise RegistrationError(
                f"task {name!r}: a default that differs each time would differ in each attempt;"
                " compute it in the task from run.task_id"
            )


def _schemas(part: object) -> Iterator[Mapping[str, Any]]:
    """Yield every nested schema of a Pydantic core schema."""
    if isinstance(part, dict):
        yield part
        for inner in part.values():
            yield from _schemas(inner)
    elif isinstance(part, (list, tuple)):
        for inner in part:
            yield from _schemas(inner)


def cannot_import(what: str, error: BaseException) -> RegistrationError:
    """Return the error for a module that cannot be imported: one line that says why and where."""
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    if not isinstance(error, SyntaxError):  # its text says where
        *_, place = traceback.extract_tb(error.__traceback__)
        reason += f" ({place.filename}, line {place.lineno})"
    return RegistrationError(f"{what} cannot be imported: {reason}")
