"""The attempts of a task that SQL has submitted: as many as it declares, also after crashes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from backend.db import leases, ledger, locked, repairs
from backend.db.records import outcome
from backend.errors import LeaseExpired
from backend.registry import registered
from backend.states import SUCCESS
from backend.submit import submit
from backend.task import Run, Task
from backend.worker.attempt.group import Group
from backend.worker.attempt.one import run_one
from backend.worker.attempt.report import Report
from backend.worker.parent.unreported import record_failure, start_attempt
from tests.support.attempts import attempt_of, run_alone
from tests.support.ledger import reschedule, task
from tests.support.task_session import Nothing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def fail(args: Nothing, run: Run) -> Nothing:  # noqa: ARG001 - a task's signature
    raise ValueError("no")


def declare(max_attempts: int, *, one_commit: bool = False) -> Task:
    return Task("a_task", fail, Nothing, max_attempts, 60, one_commit)


def submitted(service: sa.Engine) -> str:
    """Submit a task by SQL, in the presence of a worker; return its id."""
    with service.begin() as connection:
        leases.renew(connection, "w", list)
        return submit(connection, "a_task", {})


def run_in_group(spec: Task, task_id: str) -> None:
    attempt = attempt_of(spec, task_id, "{}")
    group = Group([attempt], Report())
    assert group.open() == {task_id}
    run_one(attempt, Report(), group)
    group.close()


def lose_the_process(spec: Task, task_id: str) -> None:
    """Let the parent process record that the child was lost before it claimed the attempt."""
    record_failure(attempt_of(spec, task_id, "{}").delivery, "w", RuntimeError("lost"))


def run_outside(spec: Task, task_id: str) -> None:
    run_alone(spec, task_id, "{}")


# By name: how an attempt fails, and whether its task has `one_commit`.
FAILURES: Mapping[str, tuple[Callable[[Task, str], None], bool]] = {
    "alone": (run_outside, False),
    "in a group": (run_in_group, False),
    "before its claim": (lose_the_process, False),
    "in one commit": (run_outside, True),
    "in one commit, before its claim": (lose_the_process, True),
}


@pytest.mark.parametrize(
    ("max_attempts", "end"), [(1, ("FAILURE", 1, 1)), (2, ("RETRY", 2, 2)), (7, ("RETRY", 2, 7))]
)
@pytest.mark.parametrize(("failure", "one_commit"), FAILURES.values(), ids=FAILURES)
def test_an_error_leads_to_as_many_attempts_as_the_task_declares(
    service: sa.Engine,
    monkeypatch: pytest.MonkeyPatch,
    failure: Callable[[Task, str], None],
    max_attempts: int,
    end: tuple[str, int, int],
    *,
    one_commit: bool,
) -> None:
    spec = declare(max_attempts, one_commit=one_commit)
    known: dict[str, Any] = {"a_task": spec}
    monkeypatch.setattr("backend.worker.parent.unreported.registered", lambda: known)
    task_id = submitted(service)
    failure(spec, task_id)
    row = task(service, task_id)
    assert (row["state"], row["attempt"], row["max_attempts"]) == end


@pytest.mark.parametrize(("max_attempts", "state"), [(1, "FAILURE"), (2, "RETRY")])
def test_a_reconciler_that_does_not_know_the_task_allows_as_many_attempts(
    service: sa.Engine, max_attempts: int, state: str
) -> None:
    task_id = submitted(service)
    attempt_of(declare(max_attempts), task_id, "{}").claim()
    with service.begin() as connection:
        assert locked.fail(connection, task_id, 1, "lost", "w") == state


def test_a_claim_of_the_parent_process_stores_how_many_attempts_the_task_has(
    service: sa.Engine,
) -> None:
    task_id = submitted(service)
    delivery = attempt_of(registered()["slow"], task_id, "{}").delivery
    start_attempt("w", delivery)
    row = task(service, task_id)
    assert (row["state"], row["max_attempts"]) == ("STARTED", 5)


def test_the_parent_process_starts_nothing_without_a_lease(service: sa.Engine) -> None:
    task_id = submitted(service)
    delivery = attempt_of(registered()["slow"], task_id, "{}").delivery
    with pytest.raises(LeaseExpired):
        start_attempt("another", delivery)
    assert task(service, task_id)["state"] == "PENDING"


def test_attempts_before_the_first_claim_that_cost_nothing_are_added(service: sa.Engine) -> None:
    task_id = submitted(service)
    with service.begin() as connection:
        assert reschedule(connection, task_id, 1, waiting=True)
        connection.execute(sa.text("DELETE FROM outbox"))
        assert repairs.repair(connection, repairs.START, 10)[1] == [task_id]
    assert task(service, task_id)["max_attempts"] == 0
    with service.begin() as connection:
        assert ledger.claim(connection, {task_id: 3}, "w", declared=2).ids == {task_id}
    assert task(service, task_id)["max_attempts"] == 4


def test_an_error_of_an_attempt_that_is_not_current_changes_nothing(service: sa.Engine) -> None:
    task_id = submitted(service)
    with service.begin() as connection:
        assert locked.fail(connection, task_id, 2, "no", "w", declared=5) is None
        end = outcome(task_id, 1, SUCCESS, result="{}")
        ledger.finish(connection, [end], "w", waiting=True)
        assert locked.fail(connection, task_id, 1, "no", "w", declared=5) is None
    row = task(service, task_id)
    assert (row["state"], row["max_attempts"], row["error"]) == ("SUCCESS", 0, None)
