"""Tasks whose function uses its session, run alone or in a batch, and their effects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from pydantic import BaseModel

from backend.db import leases, messages
from backend.task import Run, Task
from tests.support.attempts import run_alone, run_together
from tests.support.ledger import submit, task

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy.orm import Session

    from backend.worker.attempt.attempt import Attempt
    from backend.worker.attempt.report import Report

    Action = Callable[[Session], object]


SIZE = 20
CULPRIT = 11


class Nothing(BaseModel):
    """No arguments, and no value."""


def sql(statement: str) -> Action:
    return lambda session: session.execute(sa.text(statement))


def raw(action: Callable[[Any], object]) -> Action:
    """Return an action on psycopg2's connection."""
    return lambda session: action(session.connection().connection.dbapi_connection)


def declare(action: Action, culprit: str, *, one_commit: bool) -> Task:
    """Return a task that writes a message, and then, if its id is `culprit`, runs an action."""

    def function(_args: Nothing, run: Run) -> Nothing:
        messages.insert(run.session, "written", run.task_id)
        if run.task_id == culprit:
            action(run.session)
        return Nothing()

    return Task("a_task", function, Nothing, 5, 60, one_commit)


def run_once(
    service: sa.Engine, action: Action, *, one_commit: bool, kind: type[Attempt] | None = None
) -> Mapping[str, Any]:
    """Run an attempt of a task that runs an action; return the task's row."""
    (task_id,) = submit(service)
    with service.begin() as connection:
        leases.renew(connection, "w", list)
    run_alone(declare(action, task_id, one_commit=one_commit), task_id, "{}", kind=kind)
    return task(service, task_id)


def written(service: sa.Engine) -> list[str]:
    """Return the ids of the tasks whose message exists."""
    with service.connect() as connection:
        found = connection.exec_driver_sql("SELECT CAST(task_id AS text) FROM messages")
        return sorted(found.scalars())


def waiting(service: sa.Engine) -> list[str]:
    with service.connect() as connection:
        found = connection.exec_driver_sql("SELECT CAST(task_id AS text) FROM outbox")
        return sorted(found.scalars())


def run_in_batch(service: sa.Engine, action: Action) -> tuple[list[str], Report]:
    """Run a batch in which one task runs an action; return the ids and the report."""
    ids = submit(service, SIZE)
    return ids, run_together(declare(action, ids[CULPRIT], one_commit=True), ids)
