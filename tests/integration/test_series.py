"""A series of ordinary attempts, run as in a child: what its tickets tell the parent process."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import TYPE_CHECKING
from unittest.mock import Mock

import pytest

from backend.db import leases, locked
from backend.errors import StoreUnavailable
from backend.task import Run, Task
from backend.worker import durations
from backend.worker.attempt import series
from backend.worker.attempt.execute import run
from backend.worker.tickets import Tickets
from tests.support.attempts import attempt_of
from tests.support.ledger import box, lock_waiters, submit, task
from tests.support.task_session import Nothing
from tests.support.waiting import eventually

if TYPE_CHECKING:
    import sqlalchemy as sa

    from backend.worker.attempt.report import Report


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


def test_an_attempt_whose_row_another_has_locked_waits_for_it_and_keeps_its_turn(
    service: sa.Engine, tickets: Tickets
) -> None:
    ids = submit(service, 2, name="a_task")
    seen: list[tuple[str, bool]] = []

    def note(_args: Nothing, run: Run) -> Nothing:
        seen.append((run.task_id, tickets.locked))
        return Nothing()

    tickets.issue(len(ids))
    spec = Task("a_task", note, Nothing, 3, 60, one_commit=False)
    durations.note("a_task", 0.001)  # so that both share a group
    with ThreadPoolExecutor(1) as pool:
        with service.begin() as other:
            locked.lock(other, ids[:1])
            report = pool.submit(run, [attempt_of(spec, each, "{}") for each in ids], tickets)
            eventually(lambda: lock_waiters(service), 20, "a claim waits for the row")
            # The parent must not start it: the child's own claim would fail.
            assert not tickets.locked
            # The next row is free.
            assert locked.hold(other, {ids[1]: 1}, "w", briefly=True).ids == {ids[1]}
        assert list(report.result(20).ended) == ids
    assert seen == [(ids[0], False), (ids[1], True)]


def test_an_attempt_whose_row_stays_locked_runs_alone_after_the_others(
    service: sa.Engine, tickets: Tickets
) -> None:
    ids = submit(service, 2, name="a_task")
    tickets.issue(len(ids))
    spec = Task("a_task", lambda _args, _run: Nothing(), Nothing, 3, 60, one_commit=False)
    with service.begin() as other:
        locked.lock(other, ids[:1])
        report = run([attempt_of(spec, each, "{}") for each in ids], tickets)
    assert (report.alone, list(report.ended)) == (ids[:1], ids[1:])


def test_an_attempt_of_a_group_that_loses_postgresql_runs_again_at_no_cost(
    service: sa.Engine, tickets: Tickets
) -> None:
    (task_id,) = submit(service, name="a_task")
    run_one(task_id, tickets, StoreUnavailable())
    row = task(service, task_id)
    assert (row["state"], row["attempt"], row["max_attempts"]) == ("RETRY", 2, 4)
    assert box(service) == [(task_id, 2)]
