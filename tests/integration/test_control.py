"""Tasks that are cancelled or retried by request, in the ledger."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
import sqlalchemy as sa

from backend.api import control as api_control
from backend.api.bulk import CANCEL, RETRY_TASKS
from backend.api.control import _ask, _change_each
from backend.db import bounds, control, ledger, locked, queries, records
from backend.db.control import Change
from backend.errors import Conflict
from backend.maintenance import rescue
from backend.maintenance.expiry import Expiry
from backend.states import State
from backend.worker.parent.unreported import record_revoke
from tests.support.ledger import box, claim, put, submit, task
from tests.support.waiting import eventually

UNFINISHED = ["PENDING", "STARTED", "RETRY"]


def end(database: sa.Engine, state: str) -> str:
    """Return the id of a task that has ended in its first attempt of three."""
    (task_id,) = submit(database)
    error = None if state == "SUCCESS" else "why"
    result = "{}" if state == "SUCCESS" else None
    outcome = records.TaskRecord(task_id, state=State(state), result=result, error=error)
    with database.begin() as connection:
        claim(connection, task_id, 1)
        ledger.finish(connection, [outcome], "w", waiting=False)
    return task_id


@pytest.mark.parametrize("state", UNFINISHED)
def test_a_task_that_is_cancelled_is_revoked_and_no_longer_waits(
    database: sa.Engine, state: str
) -> None:
    task_id = put(database, state)
    with database.begin() as connection:
        changes = control.cancel(connection, [task_id])
    assert [change.changed for change in changes.values()] == [True]
    row = task(database, task_id)
    assert (row["state"], row["error"], row["attempt"]) == ("REVOKED", "Cancelled", 1)
    assert row["finished_at"] is not None
    assert box(database) == []


def test_the_attempt_of_a_cancelled_task_can_no_longer_end_it(database: sa.Engine) -> None:
    task_id = put(database, "STARTED")
    with database.begin() as connection:
        control.cancel(connection, [task_id])
    outcome = records.TaskRecord(task_id, state=State.SUCCESS, result="{}")
    with database.begin() as connection:
        assert not ledger.finish(connection, [outcome], "w", waiting=False)
        assert locked.fail(connection, task_id, 1, "late", "w") is None


def test_tasks_of_several_workers_are_cancelled_together(database: sa.Engine) -> None:
    ids = submit(database, 3)
    with database.begin() as connection:
        claim(connection, ids[0], 1, "one")
        claim(connection, ids[1], 1, "two")
        changes = control.cancel(connection, ids)
    assert {task_id: change.changed for task_id, change in changes.items()} == dict.fromkeys(
        ids, True
    )
    assert [task(database, task_id)["worker"] for task_id in ids] == ["one", "two", None]


@pytest.mark.parametrize("state", ["SUCCESS", "FAILURE", "REVOKED"])
def test_a_task_that_has_ended_is_not_cancelled(database: sa.Engine, state: str) -> None:
    task_id = end(database, state)
    before = task(database, task_id)
    with database.begin() as connection:
        change = control.cancel(connection, [task_id])[task_id]
    assert (change.changed, change.state) == (False, state)
    assert task(database, task_id) == before


@pytest.mark.parametrize("action", [control.cancel, control.retry])
def test_a_locked_task_is_left_and_delays_no_other(database: sa.Engine, action: object) -> None:
    state = "PENDING" if action is control.cancel else "FAILURE"
    free, busy = put(database, "PENDING"), put(database, "PENDING")
    if state == "FAILURE":
        free, busy = end(database, state), end(database, state)
    with database.begin() as other:
        locked.lock(other, [busy])
        with database.begin() as connection:
            changes = action(connection, [busy, free])  # type: ignore[operator]  # one of the two
    assert (changes[busy].task, changes[free].changed) == (None, True)


@pytest.mark.parametrize("action", [control.cancel, control.retry])
def test_an_id_that_the_ledger_lacks_is_not_reported(database: sa.Engine, action: object) -> None:
    missing = "019a3f0e-7c1a-7d7e-9a53-0d8f2c7b1f55"
    with database.begin() as connection:
        assert action(connection, [missing]) == {}  # type: ignore[operator]  # as above


@pytest.mark.parametrize("state", ["FAILURE", "REVOKED"])
def test_a_task_that_is_retried_waits_for_its_next_attempt(database: sa.Engine, state: str) -> None:
    task_id = end(database, state)
    with database.begin() as connection:
        assert control.retry(connection, [task_id])[task_id].changed
    row = task(database, task_id)
    assert (row["state"], row["attempt"], row["max_attempts"]) == ("RETRY", 2, 3)
    assert (row["finished_at"], row["result"]) == (None, None)
    assert box(database) == [(task_id, 2)]
    with database.begin() as connection:
        assert claim(connection, task_id, 2)


@pytest.mark.parametrize("state", [*UNFINISHED, "SUCCESS"])
def test_a_task_in_another_state_is_not_retried(database: sa.Engine, state: str) -> None:
    task_id = end(database, state) if state == "SUCCESS" else put(database, state)
    with database.begin() as connection:  # a start is reported after a second
        connection.execute(sa.text("UPDATE tasks SET started_at = now() - interval '5 s'"))
    before = task(database, task_id)
    with database.begin() as connection:
        change = control.retry(connection, [task_id])[task_id]
    assert (change.changed, change.state) == (False, state)
    assert task(database, task_id) == before


def test_a_task_without_attempts_left_gets_one_more(database: sa.Engine) -> None:
    (task_id,) = submit(database, max_attempts=1)
    with database.begin() as connection:
        claim(connection, task_id, 1)
        assert locked.fail(connection, task_id, 1, "first", "w") == "FAILURE"
        control.retry(connection, [task_id])
        assert claim(connection, task_id, 2)
        assert locked.fail(connection, task_id, 2, "second", "w") == "FAILURE"


def test_a_task_in_its_last_possible_attempt_is_not_retried(database: sa.Engine) -> None:
    task_id = put(database, "STARTED", attempt=records.LAST_ATTEMPT)
    with database.begin() as connection:
        control.cancel(connection, [task_id])
        assert not control.retry(connection, [task_id])[task_id].changed


def test_an_old_task_that_is_retried_is_listed(database: sa.Engine) -> None:
    task_id = end(database, "FAILURE")
    with database.begin() as connection:
        connection.exec_driver_sql("UPDATE tasks SET created_at = now() - interval '1 day'")
        now = connection.exec_driver_sql("SELECT now()").scalar_one()
        bounds.advance(connection, now)
    with database.begin() as connection:
        control.retry(connection, [task_id])
    with database.begin() as connection:
        assert list(queries.unfinished(connection, 10)[0]) == [task_id]


def test_of_two_retries_in_one_batch_only_the_first_changes_the_task(service: sa.Engine) -> None:
    task_id, other = end(service, "FAILURE"), end(service, "REVOKED")
    missing = "019a3f0e-7c1a-7d7e-9a53-0d8f2c7b1f55"
    first, again, different, unknown = _change_each(RETRY_TASKS, [task_id, task_id, other, missing])
    assert first is not None
    assert first.changed
    assert again is not None
    assert (again.changed, again.state) == (False, "RETRY")
    assert different is not None
    assert different.changed
    assert unknown is None


class Answers:
    """Answers like a batcher, with one change after the other; the last one stays."""

    def __init__(self, *changes: Change | None) -> None:
        self._changes = list(changes)

    async def submit(self, _task_id: str) -> Change | None:
        return self._changes.pop(0) if len(self._changes) > 1 else self._changes[0]


LOCKED = Change(None, State.STARTED)
TASK_ID = "019a3f0e-7c1a-7d7e-9a53-0d8f2c7b1f55"


def ask(*changes: Change | None) -> Change:
    answers: Any = Answers(*changes)
    return asyncio.run(_ask(answers, TASK_ID, "cancelled"))


def test_a_request_waits_for_a_locked_task() -> None:
    changed = Change(records.TaskRecord(TASK_ID), State.REVOKED, changed=True)
    assert ask(LOCKED, LOCKED, changed) == changed


def test_a_request_for_a_task_that_stays_locked_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(api_control, "LOCKED_SECONDS", 0.1)
    with pytest.raises(Conflict, match="cannot be cancelled now"):
        ask(LOCKED)


def test_a_cancelled_task_has_a_reply(service: sa.Engine, replies: list[Any]) -> None:
    (task_id,) = submit(service)
    CANCEL.run([task_id])
    eventually(lambda: len(replies) == 1, 5, "a reply is sent")
    ((queue, _, outcome),) = replies
    assert (queue, outcome.id, outcome.state) == ("replies", task_id, "REVOKED")
    CANCEL.run([task_id])
    assert len(replies) == 1


def test_an_expired_task_has_a_reply(service: sa.Engine, replies: list[Any]) -> None:
    (task_id,) = submit(service)
    with service.begin() as connection:
        connection.execute(sa.text("UPDATE tasks SET expires_at = now()"))
    Expiry().expire()
    eventually(lambda: len(replies) == 1, 5, "a reply is sent")
    ((queue, _, outcome),) = replies
    assert (queue, outcome.id, outcome.error) == ("replies", task_id, "Expired")


def test_a_task_that_fails_with_its_lost_worker_has_a_reply(
    service: sa.Engine, replies: list[Any]
) -> None:
    (task_id,) = submit(service, max_attempts=1)
    with service.begin() as connection:
        claim(connection, task_id, 1)
    rescue._fail(records.Started(task_id, 1, "w", None, held=False))
    ((queue, _, outcome),) = replies
    assert (queue, outcome.id, outcome.state) == ("replies", task_id, "FAILURE")


def test_a_waiting_task_that_is_revoked_through_celery_has_a_reply(
    service: sa.Engine, replies: list[Any]
) -> None:
    (task_id,) = submit(service)
    record_revoke(task_id, "revoked", time.monotonic())
    eventually(lambda: len(replies) == 1, 5, "a reply is sent")
    assert (replies[0][0], replies[0][2].error) == ("replies", "revoked")
