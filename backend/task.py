"""What the author of a task imports: `@task`, and `Run`, an attempt as the task's function sees it.

A task is a function that `@task` registers when its module is imported; see registry.py.
"""

from __future__ import annotations

import inspect
import math
import pkgutil
import re
import time
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, Unpack, cast, get_type_hints

from pydantic import BaseModel

from backend.db import running
from backend.db.limits import Limit
from backend.db.records import TaskRecord
from backend.db.session import transaction
from backend.errors import RegistrationError, StoreUnavailable, Superseded
from backend.setting_checks import NAME
from backend.submit import submit
from backend.task_checks import (
    arguments_of,
    cannot_import,
    check_function,
    check_limit,
    check_options,
    check_retries,
    item_of,
    queue_of,
    takes_lists,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from sqlalchemy.orm import Session

    from backend.options import Options

    Function = (
        Callable[[Any, "Run"], BaseModel | Coroutine[Any, Any, BaseModel]]
        | Callable[[list[Any], list["Run"]], Sequence[BaseModel]]
    )

# The function under `@task`: the decorator returns it with its own type.
Declared = TypeVar("Declared", bound="Function")
Arguments = TypeVar("Arguments", bound=BaseModel)

# Names that have another meaning in POST /tasks/<name>.
RESERVED = frozenset({"batch", "cancel", "history", "retry"})


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
    # When the time limit ends the attempt (monotonic).
    _ends_at: float = math.inf
    # Returns when its worker ends the attempt (monotonic); 0 if the worker does not stop.
    _stops_at: Callable[[], float] = float

    @property
    def stopping(self) -> bool:
        """Return whether the worker stops: the attempt has `seconds_left`, then it runs again."""
        return self._stops_at() > 0

    @property
    def seconds_left(self) -> float:
        """Return how long the attempt may run until its time limit, or its worker, ends it."""
        stops_at = self._stops_at() or math.inf
        return max(0.0, min(self._ends_at, stops_at) - time.monotonic())

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
                counts = running.progress(connection, self.task_id, self.attempt, done, total)
        except StoreUnavailable:
            return
        if not counts:
            raise Superseded("the task has ended or has a newer attempt")

    def submit(
        self,
        function: Callable[[Arguments, Run], object]
        | Callable[[list[Arguments], list[Run]], object],
        arguments: Arguments,
    ) -> str:
        """Submit another task in the transaction of `session`; return its id.

        `function`: the one under the other task's `@task`. That task starts after this attempt has
        succeeded; if the attempt fails, it does not exist. MAX_WAITING does not limit it.

        Raises TypeError for a function that is not a task's, or arguments of another model;
        ValueError as backend.submit does.
        """
        spec = task_of(function)
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
    max_attempts: int = 5
    time_limit: float = 3600
    one_commit: bool = False
    # Without QUEUE_PREFIX.
    queue: str = ""
    max_running: int | None = None
    per: str | None = None
    run: str | None = None
    retry_for: tuple[type[BaseException], ...] = (BaseException,)
    backoff: tuple[float, float, float] = (2, 2, 300)
    # Its function has the parameters (args: list[Model], runs: list[Run]).
    takes_lists: bool = False

    def __post_init__(self) -> None:
        """Check the options, and find the queue. Raises RegistrationError."""
        check_function(self.name, self.declared, one_commit=self.one_commit)
        check_options(self.name, self.max_attempts, self.time_limit, self.run)
        check_retries(self.name, self.retry_for, self.backoff)
        check_limit(
            self.name, self.arguments, self.max_running, self.per, one_commit=self.one_commit
        )
        queue = queue_of(self.name, self.queue, one_commit=self.one_commit)
        object.__setattr__(self, "queue", queue)  # the dataclass is frozen

    def record(
        self, task_id: str, args: str, reply_to: str | None, options: Options | None = None
    ) -> TaskRecord:
        """Return a task of this kind to be submitted; `args` is JSON text."""
        return TaskRecord(task_id, self.name, args, self.max_attempts, reply_to, options)

    def limit(self, args: str) -> Limit | None:
        """Return what limits how many run at once, for arguments as JSON text."""
        if self.max_running is None:
            return None
        if self.per is None:
            return Limit(self.name, self.max_running)
        try:
            value = self.arguments.model_validate_json(args).model_dump_json(include={self.per})
        except Exception:  # noqa: BLE001 - of any validator; the attempt will fail with it
            value = ""
        # Hashed: a value may be long, or have NUL, which PostgreSQL cannot store.
        return Limit(f"{self.name}/{sha256(value.encode()).hexdigest()[:32]}", self.max_running)

    @cached_property
    def result(self) -> type[BaseModel]:
        """Return the model of its value."""
        return cast("type[BaseModel]", item_of(get_type_hints(self.declared)["return"]))

    @cached_property
    def is_async(self) -> bool:
        """Return whether the function that does the work is an `async def`."""
        return inspect.iscoroutinefunction(self.function)

    @cached_property
    def function(self) -> Function:
        """Return the function that does the work. Raises RegistrationError if `run` has none."""
        if self.run is None:
            return self.declared
        try:
            function: Function = pkgutil.resolve_name(self.run)
        except (Exception, SystemExit) as error:
            raise cannot_import(f"run={self.run!r} of task {self.name!r}", error) from error
        check_function(self.name, function, one_commit=self.one_commit)
        return function


# By name and by each alias. registry.py fills it by importing the modules of tasks.
declared_tasks: dict[str, Task] = {}


def task_of(function: Callable[..., object]) -> Task:
    """Return the task that a function declares. Raises TypeError if it is not under `@task`."""
    for each in declared_tasks.values():
        if each.declared is function:
            return each
    raise TypeError(f"{function!r} is not a task: pass the function under its @task")


class TaskOptions(TypedDict, total=False):
    """What `@task` takes beside the name.

    max_attempts: how many attempts the task has, 5 by default; an error or a lost worker leads to
        the next one. From 1 to MAX_ATTEMPTS.
    time_limit: seconds, after which the attempt is ended, 3600 by default; up to MAX_TIME_LIMIT.
    one_commit: claim, work and outcome are one transaction. For work that takes milliseconds and
        writes to our database. It is never seen STARTED. Not with `queue` or `max_running`.
    queue: workers with it in WORKER_QUEUES run the task; `tasks` by default.
    max_running: how many of these tasks run at once, in all workers together; the others wait.
    per: the name of an argument: `max_running` is for each of its values.
    retry_for: the exceptions after which the task is tried again, all by default; subclasses too.
        After any other exception of the function the task fails at once.
    backoff: (first, factor, cap): before attempt n + 1 the task waits for
        min(first * factor ** (n - 1), cap) seconds, or for a random time down to half of it. The
        default is (2, 2, 300).
    run: "module:function" of the function that does the work, with the same parameters. Only
        workers import it, when they start; the API imports what is declared. Without it the
        decorated function does the work.
    """

    max_attempts: int
    time_limit: float
    one_commit: bool
    queue: str
    max_running: int
    per: str
    run: str
    retry_for: tuple[type[BaseException], ...]
    backoff: tuple[float, float, float]


def task(
    *, name: str, aliases: tuple[str, ...] = (), **options: Unpack[TaskOptions]
) -> Callable[[Declared], Declared]:
    """Register a function `(args: <a Pydantic model>, run: Run) -> <a Pydantic model>` as a task.

    It may be an `async def`, which has no `run.session`. With one_commit it may take lists:
    `(args: list[Model], runs: list[Run]) -> list[Model]`. Then it is called once for all tasks of a
    batch. It returns a value for each, in the same order.

    name: lower case letters, digits and underscores; it is stored with every task and part of the
        URL, so keep it, or name the old one in `aliases`. TaskOptions describes the options.

    Raises RegistrationError.
    """

    def register(function: Declared) -> Declared:
        arguments = arguments_of(name, function)
        lists = takes_lists(name, function, one_commit=options.get("one_commit", False))
        new = Task(name, function, arguments, takes_lists=lists, **options)
        for key in (name, *aliases):
            _register(key, new)
        return function

    return register


def _register(name: str, new: Task) -> None:
    where = f"task {name!r} of {new.declared.__module__}"
    if not re.fullmatch(NAME, name):
        raise RegistrationError(f"{where}: use lower case letters, digits and underscores")
    if name in RESERVED:
        raise RegistrationError(f"{where}: the name is reserved")
    if name in declared_tasks:
        both = sorted({new.declared.__module__, declared_tasks[name].declared.__module__})
        raise RegistrationError(f"task {name!r} is declared twice, in {' and '.join(both)}")
    declared_tasks[name] = new
