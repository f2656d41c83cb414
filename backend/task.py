"""What the author of a task imports: `@task`, and `Run`, an attempt as the task's function sees it.

A task is a function that `@task` registers when its module is imported; see registry.py.
"""

from __future__ import annotations

import inspect
import pkgutil
import re
import traceback
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from pydantic import BaseModel
from pydantic.types import PathType

from backend.db import ledger
from backend.db.records import TaskRecord
from backend.db.session import transaction
from backend.errors import RegistrationError, StoreUnavailable, Superseded
from backend.submit import submit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from sqlalchemy.orm import Session

    Function = Callable[[Any, "Run"], BaseModel]

Arguments = TypeVar("Arguments", bound=BaseModel)

# Names that have another meaning in POST /tasks/<name>.
RESERVED = frozenset({"batch"})


@dataclass(frozen=True, slots=True)
class Run:
    """One attempt of a task, as its function sees it.

    `task_id` is the same for every attempt: use it as deduplication key for effects outside the
    database. What is written through `session` commits together with the outcome, or not at all.
    Once you have used `session`, do not wait for anything but PostgreSQL.
    """

    task_id: str
    attempt: int
    session: Session
    one_commit: bool = False
    # Sets the task to STARTED, if it is not yet.
    _start: Callable[[], None] | None = None

    def progress(self, done: int, total: int) -> None:
        """Store how far the task is; clients read it in the `Progress` header of GET /tasks/{id}.

        Raises Superseded if this is not the current attempt; do not catch it. Ignored while
        PostgreSQL is unavailable and in `one_commit` tasks.
        """
        if self.one_commit:
            return
        try:
            if self._start is not None:
                self._start()
            with transaction() as connection:
                counts = ledger.progress(connection, self.task_id, self.attempt, done, total)
        except StoreUnavailable:
            return
        if not counts:
            raise Superseded("the task has ended or has a newer attempt")

    def submit(self, function: Callable[[Arguments, Run], BaseModel], arguments: Arguments) -> str:
        """Submit another task in the transaction of `session`; return its id.

        `function`: the one under the other task's `@task`. That task starts after this attempt has
        succeeded; if the attempt fails, it does not exist. MAX_WAITING does not limit it.

        Raises TypeError for a function that is not a task's, or arguments of another model;
        ValueError as backend.submit does.
        """
        spec = next((each for each in declared_tasks.values() if each.declared is function), None)
        if spec is None:
            raise TypeError(f"{function!r} is not a task: pass the function under its @task")
        if not isinstance(arguments, spec.arguments):
            raise TypeError(f"task {spec.name!r} takes {spec.arguments.__name__} as arguments")
        return submit(self.session, spec.name, arguments)


@dataclass(frozen=True)
class Task:
    """A registered task.

    declared: the function under `@task`. It does the work, unless `run` names another one.
    arguments: the model of its parameter `args`.
    """

    name: str
    declared: Function
    arguments: type[BaseModel]
    max_attempts: int
    time_limit: float
    one_commit: bool
    run: str | None = None

    def record(self, task_id: str, args: str, reply_to: str | None) -> TaskRecord:
        """Return a task of this kind to be submitted; `args` is JSON text."""
        return TaskRecord(task_id, self.name, args, self.max_attempts, reply_to)

    @cached_property
    def result(self) -> type[BaseModel]:
        """Return the model of its value."""
        result: type[BaseModel] = get_type_hints(self.declared)["return"]
        return result

    @cached_property
    def function(self) -> Function:
        """Return the function that does the work. Raises RegistrationError if `run` has none."""
        if self.run is None:
            return self.declared
        try:
            function: Function = pkgutil.resolve_name(self.run)
        except (Exception, SystemExit) as error:
            raise cannot_import(f"run={self.run!r} of task {self.name!r}", error) from error
        _check_function(self.name, function)
        return function


# attempt and max_attempts can be 32,767 at most, and each hand-back of a task adds one to both.
MAX_ATTEMPTS = 1000
# Seconds, 23 days: PostgreSQL counts its own limits in milliseconds, up to 2**31.
MAX_TIME_LIMIT = 2_000_000

# The checks of Pydantic's FilePath, DirectoryPath, NewPath and SocketPath.
_FILE_CHECKS = (
    PathType.validate_file,
    PathType.validate_directory,
    PathType.validate_new,
    PathType.validate_socket,
)

# By name and by each alias. registry.py fills it by importing the modules of tasks.
declared_tasks: dict[str, Task] = {}


def task(
    *,
    name: str,
    max_attempts: int = 5,
    time_limit: float = 3600,
    one_commit: bool = False,
    aliases: tuple[str, ...] = (),
    run: str | None = None,
) -> Callable[[Function], Function]:
    """Register a function `(args: <a Pydantic model>, run: Run) -> <a Pydantic model>` as a task.

    name: lower case letters, digits and underscores; it is stored with every task and part of the
        URL, so keep it, or name the old one in `aliases`.
    max_attempts: how many attempts the task has; an error or a lost worker leads to the next one.
        From 1 to MAX_ATTEMPTS.
    time_limit: seconds, after which the attempt is killed; above 0, up to MAX_TIME_LIMIT.
    one_commit: claim, work and outcome are one transaction. For work that takes milliseconds and
        writes to our database. It is never seen STARTED.
    run: "module:function" of the function that does the work, with the same parameters. Only
        workers import it, when they start; the API imports what is declared here. Without it the
        decorated function does the work.

    Raises RegistrationError.
    """

    def register(function: Function) -> Function:
        _check_function(name, function)
        _check_limits(name, max_attempts, time_limit)
        if run is not None and not re.fullmatch(r"[\w.]+:\w+", run):
            raise RegistrationError(f"task {name!r}: run must be 'module:function'")
        hints = get_type_hints(function)
        arguments = _model(name, "its parameter `args`", hints.get("args"))
        _check_model(name, arguments)
        _model(name, "its return value", hints.get("return"))
        new = Task(name, function, arguments, max_attempts, time_limit, one_commit, run)
        for key in (name, *aliases):
            _register(key, new)
        return function

    return register


def _check_function(name: str, function: Function) -> None:
    if inspect.iscoroutinefunction(function):
        raise RegistrationError(f"task {name!r}: make it a `def`, not an `async def`")
    try:
        inspect.signature(function).bind("args", "run")
    except (TypeError, ValueError) as error:
        raise RegistrationError(f"task {name!r}: its parameters must be (args, run)") from error


def _check_limits(name: str, max_attempts: int, time_limit: float) -> None:
    if max_attempts not in range(1, MAX_ATTEMPTS + 1):
        raise RegistrationError(
            f"task {name!r}: max_attempts must be a whole number from 1 to {MAX_ATTEMPTS}"
        )
    if not 0 < time_limit <= MAX_TIME_LIMIT:
        raise RegistrationError(
            f"task {name!r}: time_limit must be a number of seconds above 0, up to {MAX_TIME_LIMIT}"
        )


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
                f"task {name!r}: the files of the API's machine may not be those of the worker's;"
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


def _register(name: str, new: Task) -> None:
    where = f"task {name!r} of {new.declared.__module__}"
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,99}", name):
        raise RegistrationError(f"{where}: use lower case letters, digits and underscores")
    if name in RESERVED:
        raise RegistrationError(f"{where}: the name is reserved")
    if name in declared_tasks:
        both = sorted({new.declared.__module__, declared_tasks[name].declared.__module__})
        raise RegistrationError(f"task {name!r} is declared twice, in {' and '.join(both)}")
    declared_tasks[name] = new


def cannot_import(what: str, error: BaseException) -> RegistrationError:
    """Return the error for a module that cannot be imported: one line that says why and where."""
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    if not isinstance(error, SyntaxError):  # its text says where
        *_, place = traceback.extract_tb(error.__traceback__)
        reason += f" ({place.filename}, line {place.lineno})"
    return RegistrationError(f"{what} cannot be imported: {reason}")
