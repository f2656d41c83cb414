"""Runs a task in a test, for the people who write tasks: `run_task`. It needs no server."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from pydantic import BaseModel

from backend.call import as_json, call
from backend.db.session import engine
from backend.db.task_session import TaskSession
from backend.db.transaction_policy import TaskSafeConnection
from backend.ids import new_task_id
from backend.task import Run, task_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from sqlalchemy import Connection, Engine

    from backend.task import Task

Arguments = TypeVar("Arguments", bound=BaseModel)
Value = TypeVar("Value", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class TaskResult(Generic[Value]):
    """What a task did.

    value: what its function returned. progress: its reports `(done, total)`, in order; none for a
    `one_commit` task, whose reports nobody can read.
    """

    value: Value
    progress: list[tuple[int, int]]


def run_task(
    function: Callable[[Arguments, Run], Value | Coroutine[Any, Any, Value]]
    | Callable[[list[Arguments], list[Run]], list[Value]],
    arguments: Arguments,
    *,
    task_id: str | None = None,
    attempt: int = 1,
    connection: Connection | None = None,
) -> TaskResult[Value]:
    """Run a task as a worker does; return its value and its progress.

    The function gets the arguments as they are after their way over JSON. If it uses `run.session`,
    a transaction begins in the database of DATABASE_URL, and is rolled back at the end.

    function: the function that `@task` has decorated. If the task names another one as `run`, that
        one runs. A function that takes lists gets lists with one item.
    task_id: by default a new id.
    connection: its transaction is used for `run.session`, so the test can prepare rows and read
        what the task wrote. The test rolls it back: take one from `backend.db.session.trial`.

    Raises every error of the function as it is; TaskError for a value that a worker would refuse;
    AssertionError for arguments that JSON changes or cannot hold; TypeError for a function that is
    not a task's, and for a connection of another engine.
    """
    spec = task_of(function)
    read = _over_json(spec, arguments)
    with _TestSession(spec, connection) as session:
        ends_at = time.monotonic() + spec.time_limit
        run = _TestRun(
            task_id or new_task_id(), attempt, session, spec.one_commit, _ends_at=ends_at
        )
        with session.lent():
            value = call(spec, read, run)
            as_json(value)
        if connection is not None:
            session.commit()  # ends only its savepoint
    return TaskResult(cast("Value", value), run.reports)


@dataclass(frozen=True, slots=True)
class _TestRun(Run):
    """A run that keeps its reports."""

    reports: list[tuple[int, int]] = field(default_factory=list)

    def progress(self, done: int, total: int) -> None:
        """Keep a report; ignore it in a `one_commit` task, as a worker does."""
        if not self.one_commit:
            self.reports.append((done, total))


class _TestSession(TaskSession):
    """The session of a task in a test: on a savepoint of the test's connection, if it has one."""

    def __init__(self, spec: Task, connection: Connection | None) -> None:
        super().__init__(connection, None if spec.one_commit else spec.time_limit)
        self.join_transaction_mode = "create_savepoint"
        if connection is None:
            return
        if not isinstance(connection.connection.dbapi_connection, TaskSafeConnection):
            raise TypeError("connection: take one from `with trial() as connection:`")
        if not connection.in_transaction():
            connection.begin()

    def get_bind(self, *args: Any, **options: Any) -> Engine | Connection:
        """Return the test's connection, or the engine, which is made when it is first needed."""
        if self.bind is None:
            self.bind = engine()
        return super().get_bind(*args, **options)


def _over_json(spec: Task, arguments: Arguments) -> Arguments:
    """Return arguments as a task gets them: written as JSON, and read again."""
    try:
        text = arguments.model_dump_json(by_alias=True)
        # By name too: a field may have an alias for reading only.
        read = spec.arguments.model_validate_json(text, by_alias=True, by_name=True)
    except ValueError as error:
        raise AssertionError(f"the arguments cannot go over JSON: {error}") from error
    if read != arguments:
        changed = [name for name, value in read if value != getattr(arguments, name, None)]
        raise AssertionError(f"JSON changes these arguments: {', '.join(changed) or 'all'}")
    return read
