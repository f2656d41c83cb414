"""A series of ordinary attempts, run as in a child: what its tickets tell the parent process."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING
from unittest.mock import Mock

import pytest

from backend.db import leases, locked
from backend.errors import StoreUnavailable
from backend.task import Run, Task
from backend.worker.attempt import series
from backend.worker.attempt.execute import run
from backend.worker.tickets import Tickets
from tests.support.attempts import attempt_of
from tests.support.ledger import box, submit, task
from tests.support.task_session import Nothing

if TYPE_CHECKING:
    import sqlalchemy as sa

    from backend.worker.attempt.attempt import Report


@pytest.fixture
def tickets(service: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> Tickets:
    """Give the tickets of a child of the worker "w"."""
    monkeypatch.setattr(series, "watch", Mock(over=nullcontext))
    with service.begin() as connection:
        leases.renew(connection, "w", list)
    return Tickets()


def run_one(
    task_id: str, tickets: Tickets, error: Exception | None = None
) -> tuple[Report, list[bool]]:
    """Run a task in a series; return the report, and `locked` of the tickets while it ran.

    `error`: what the task raises.
    """
    seen: list[bool] = []

    def note(_args: Nothing, _run: Run) -> Nothing:
        seen.append(tickets.locked)
        if error:
            raise error
        return Nothing()

    tickets.issue(1)
    spec = Task("a_task", note, Nothing, 3, 60, one_commit=False)
    return run([attempt_of(spec, task_id, "{}")], tickets), seen


def test_the_parent_sees_that_a_group_has_locked_the_attempt_that_runs(
    service: sa.Engine, tickets: Tickets
) -> None:
    (task_id,) = submit(service, name="a_task")
    report, seen = run_one(task_id, tickets)
    assert seen == [True]
    assert report.ended.keys() == {task_id}


def test_the_parent_sees_that_the_child_claims_an_attempt_itself(
    service: sa.Engine, tickets: Tickets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(series, "tasks_that_write", {"a_task"})
    (task_id,) = submit(service, name="a_task")
    report, seen = run_one(task_id, tickets)
    assert seen == [False]
    assert report.ended.keys() == {task_id}


def test_the_parent_sees_that_an_attempt_was_skipped_because_another_has_locked_it(
    service: sa.Engine, tickets: Tickets
) -> None:
    (task_id,) = submit(service, name="a_task")
    with service.begin() as other:
        locked.lock(other, [task_id])
        report, seen = run_one(task_id, tickets)
    assert (report.alone, seen, tickets.locked) == ([task_id], [], False)


def test_an_attempt_of_a_group_that_loses_postgresql_runs_again_at_no_cost(
    service: sa.Engine, tickets: Tickets
) -> None:
    (task_id,) = submit(service, name="a_task")
    run_one(task_id, tickets, StoreUnavailable())
    row = task(service, task_id)
    assert (row["state"], row["attempt"], row["max_attempts"]) == ("RETRY", 2, 4)
    assert box(service) == [(task_id, 2)]
