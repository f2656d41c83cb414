"""Tasks that end their own attempt: by changing their ledger row, or by losing PostgreSQL."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
import sqlalchemy as sa
from pydantic import RootModel

from backend.db import leases
from backend.task import Task
from tests.support.attempts import attempt_of, run_alone
from tests.support.ledger import lock_waiters, submit, task
from tests.support.task_session import declare, run_in_batch, sql, waiting, written
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from backend.states import State
    from tests.support.task_session import Action

both_kinds = pytest.mark.parametrize("one_commit", [False, True], ids=["ordinary", "one commit"])


def run_once(
    service: sa.Engine, action: Action, *, one_commit: bool
) -> tuple[str, list[tuple[State, str]]]:
    """Run a task's first attempt; return its id and the outcome as reported to the parent."""
    (task_id,) = submit(service)
    with service.begin() as connection:
        leases.renew(connection, "w", list)
    report = run_alone(declare(action, task_id, one_commit=one_commit), task_id, "{}")
    assert report.alone == []
    return task_id, list(report.ended.values())


@both_kinds
def test_a_task_that_changes_its_own_row_fails_and_changes_nothing(
    service: sa.Engine, *, one_commit: bool
) -> None:
    task_id, ended = run_once(service, sql("DELETE FROM tasks"), one_commit=one_commit)
    assert [state for state, _ in ended] == ["FAILURE"]
    row = task(service, task_id)
    assert (row["state"], written(service), waiting(service)) == ("FAILURE", [], [])
    assert "its own row" in row["error"]


def test_an_attempt_that_was_superseded_while_it_ran_is_dropped(service: sa.Engine) -> None:
    def supersede(_session: Session) -> None:
        with service.begin() as connection:
            connection.exec_driver_sql("UPDATE tasks SET attempt = 2")

    task_id, ended = run_once(service, supersede, one_commit=False)
    assert ended == []
    row = task(service, task_id)
    assert (row["state"], row["attempt"], row["error"]) == ("STARTED", 2, None)
    assert written(service) == []


def test_after_a_failover_lost_a_claim_the_task_waits_for_its_next_delivery(
    service: sa.Engine,
) -> None:
    def lose_claim(_session: Session) -> None:
        with service.begin() as connection:
            connection.exec_driver_sql("UPDATE tasks SET state = 'PENDING', worker = NULL")
            connection.exec_driver_sql(
                "INSERT INTO outbox (task_id, due_at) SELECT id, now() FROM tasks"
            )

    task_id, ended = run_once(service, lose_claim, one_commit=False)
    assert ended == []
    assert (task(service, task_id)["state"], waiting(service)) == ("PENDING", [task_id])
    assert written(service) == []


@both_kinds
@pytest.mark.parametrize("arguments", [(float("nan"),), ([1, float("inf")],)])
def test_an_external_task_whose_arguments_cannot_be_stored_fails_with_a_reason(
    service: sa.Engine, arguments: tuple[object, ...], *, one_commit: bool
) -> None:
    """`celery call` and Flower do not check arguments; the API would refuse these."""
    with service.begin() as connection:
        leases.renew(connection, "w", list)
    task_id = str(uuid4())
    spec = Task("a_task", lambda args, _run: args, RootModel[list[float]], 5, 60, one_commit)
    ended = run_alone(spec, task_id, *arguments, external=True).ended
    assert ended[task_id][0] == "FAILURE"
    assert ended[task_id][1].startswith("The arguments do not fit")
    assert task(service, task_id)["state"] == "FAILURE"


def test_an_external_task_with_a_callback_fails_with_a_reason(service: sa.Engine) -> None:
    with service.begin() as connection:
        leases.renew(connection, "w", list)
    task_id = str(uuid4())
    spec = declare(sql("SELECT 1"), task_id, one_commit=False)
    ended = run_alone(spec, task_id, external=True, callbacks=True).ended
    assert ended[task_id][0] == task(service, task_id)["state"] == "FAILURE"
    assert "submit the next task when this one has ended" in ended[task_id][1]
    assert written(service) == []


@both_kinds
def test_an_external_task_with_the_id_of_another_task_is_dropped(
    service: sa.Engine, *, one_commit: bool
) -> None:
    """Otherwise it would claim that task and run it with its own arguments."""
    with service.begin() as connection:
        leases.renew(connection, "w", list)
    (task_id,) = submit(service)
    before = task(service, task_id)
    spec = declare(sql("SELECT 1"), task_id, one_commit=one_commit)
    assert run_alone(spec, task_id, external=True).ended == {}
    assert (task(service, task_id), waiting(service)) == (before, [task_id])
    assert written(service) == []


@both_kinds
def test_the_later_of_two_external_tasks_with_the_same_id_is_dropped(
    service: sa.Engine, *, one_commit: bool
) -> None:
    task_id = str(uuid4())
    spec = declare(sql("SELECT 1"), task_id, one_commit=one_commit)
    earlier = attempt_of(spec, task_id, external=True)
    later = attempt_of(spec, task_id, external=True)
    with service.connect() as first, service.connect() as second:
        assert earlier.adopt(first)
        adopted: list[bool] = []
        thread = threading.Thread(target=lambda: adopted.append(later.adopt(second)))
        thread.start()
        eventually(lambda: lock_waiters(service), 4, "the later claim waits for a lock")
        first.commit()
        thread.join()
        second.rollback()
    assert adopted == [False]
    if one_commit:  # it has run, its transaction was rolled back, and its error will be recorded
        assert later.record_error("too late", "TimeUp", retry=False) is None
    assert task(service, task_id)["state"] == "PENDING"


TERMINATE = sql("SELECT pg_terminate_backend(pg_backend_pid())")


def test_a_short_task_that_always_breaks_its_connection_fails(
    service: sa.Engine,
) -> None:
    """Otherwise it would be retried without limit, as PostgreSQL is available each time."""
    task_id, ended = run_once(service, TERMINATE, one_commit=True)
    assert [state for state, _ in ended] == ["RETRY"]
    row = task(service, task_id)
    assert (row["state"], row["attempt"]) == ("RETRY", 2)


def test_a_task_that_breaks_the_connection_of_its_batch_runs_alone(
    service: sa.Engine,
) -> None:
    ids, report = run_in_batch(service, TERMINATE)
    assert len(report.alone) == 1
    assert sorted(report.ended) == written(service) == sorted(set(ids) - set(report.alone))


def test_a_connection_lost_once_costs_no_attempt(
    service: sa.Engine,
) -> None:
    lost: list[int] = []

    def lose(session: Session) -> None:
        lost.append(1)
        if len(lost) == 1:
            session.execute(sa.text("SELECT pg_terminate_backend(pg_backend_pid())"))

    ids, report = run_in_batch(service, lose)
    assert sorted(report.ended) == sorted(ids) == written(service)
