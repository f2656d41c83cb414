"""After which errors a task is tried again, and when."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from backend.db import leases
from backend.errors import RetryLater, TaskError
from tests.support.attempts import run_alone
from tests.support.ledger import submit, task
from tests.support.task_session import declare

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

both_kinds = pytest.mark.parametrize("one_commit", [False, True], ids=["ordinary", "one commit"])


def run(
    service: sa.Engine,
    error: BaseException,
    *,
    one_commit: bool = False,
    retry_for: tuple[type[BaseException], ...] = (BaseException,),
    attempt: int = 1,
) -> str:
    """Run an attempt whose function raises an error; return the task's id."""
    (task_id,) = submit(service)
    with service.begin() as connection:
        leases.renew(connection, "w", list)
        for table in ("tasks", "outbox"):
            connection.execute(sa.text(f"UPDATE {table} SET attempt = :n"), {"n": attempt})

    def fail(_session: Session) -> None:
        raise error

    spec = replace(declare(fail, task_id, one_commit=one_commit), queue="", retry_for=retry_for)
    run_alone(spec, task_id, "{}", attempt=attempt)
    return task_id


def due_in(service: sa.Engine) -> float:
    with service.begin() as connection:
        seconds = sa.text("SELECT extract(epoch FROM due_at - now()) FROM outbox")
        return float(connection.execute(seconds).scalar_one())


@both_kinds
@pytest.mark.parametrize(
    ("error", "state"),
    [
        (ConnectionRefusedError("closed"), "RETRY"),
        (ConnectionError("lost"), "RETRY"),
        (ValueError("wrong"), "FAILURE"),
        (SystemExit(1), "FAILURE"),
        (TaskError("no such page"), "FAILURE"),
    ],
)
def test_a_task_is_tried_again_only_after_the_errors_that_it_declares(
    service: sa.Engine, error: BaseException, state: str, *, one_commit: bool
) -> None:
    task_id = run(service, error, one_commit=one_commit, retry_for=(ConnectionError,))
    row = task(service, task_id)
    assert row["state"] == state
    assert str(error) in row["error"]


@both_kinds
def test_a_task_that_is_put_off_uses_up_no_attempt_and_is_due_as_asked(
    service: sa.Engine, *, one_commit: bool
) -> None:
    error = RetryLater(100, "busy: call again in 100 s")
    task_id = run(service, error, one_commit=one_commit, retry_for=())
    row = task(service, task_id)
    assert (row["state"], row["attempt"], row["max_attempts"]) == ("RETRY", 2, 4)
    assert row["error"] == "busy: call again in 100 s"
    assert 99 < due_in(service) <= 100


def test_a_task_is_not_put_off_without_end(service: sa.Engine) -> None:
    task_id = run(service, RetryLater(1), attempt=30_000)
    row = task(service, task_id)
    assert (row["state"], row["error"]) == ("FAILURE", "Put off too often")


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), 366 * 86_400 + 1])
def test_a_task_can_be_put_off_by_a_year_at_most(seconds: float) -> None:
    with pytest.raises(ValueError, match="seconds must be"):
        RetryLater(seconds)
