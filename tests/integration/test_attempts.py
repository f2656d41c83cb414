"""How attempts end, and how the next one begins."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from backend import states
from backend.db import ledger, locked, queries, records, running
from tests.support.ledger import (
    box,
    claim,
    hand_back,
    publish,
    put,
    reschedule,
    submit,
    succeed,
    task,
)

UNFINISHED = ["PENDING", "STARTED", "RETRY"]


def test_a_started_task_makes_progress_and_succeeds_once(database: sa.Engine) -> None:
    task_id = put(database, "STARTED")
    with database.begin() as connection:
        assert running.progress(connection, task_id, 1, 3, 10)
        assert succeed(connection, task_id, 1, '{"b": 1, "a": "\\u0000"}')
        assert not succeed(connection, task_id, 1, '{"b": 2}')
        (state,) = queries.states(connection, [task_id])
    assert state == records.TaskRecord(
        task_id, state=states.SUCCESS, result='{"b": 1, "a": "\\u0000"}', progress="3/10"
    )
    assert task(database, task_id)["finished_at"] is not None


def test_a_new_attempt_starts_without_the_previous_progress(database: sa.Engine) -> None:
    task_id = put(database, "STARTED")
    with database.begin() as connection:
        running.progress(connection, task_id, 1, 9, 10)
        locked.fail(connection, task_id, 1, "no", "w")
        claim(connection, task_id, 2)
    assert task(database, task_id)["progress"] is None


@pytest.mark.parametrize("state", UNFINISHED)
def test_an_error_with_attempts_left_makes_the_next_attempt_due_later(
    database: sa.Engine, state: str
) -> None:
    task_id = put(database, state, attempt=2)
    with database.begin() as connection:
        assert locked.fail(connection, task_id, 2, "no", "w", delay=60) == "RETRY"
        assert not locked.fail(connection, task_id, 2, "no", "w")
        late = connection.execute(sa.text("SELECT due_at - now() > '50 s' FROM outbox")).scalar()
    row = task(database, task_id)
    assert (row["state"], row["attempt"], row["error"]) == ("RETRY", 3, "no")
    assert (row["finished_at"], late) == (None, True)
    assert box(database) == [(task_id, 3)]


@pytest.mark.parametrize("state", UNFINISHED)
@pytest.mark.parametrize(("attempt", "retry"), [(3, True), (1, False)])
def test_an_error_of_the_last_attempt_or_without_retry_ends_the_task(
    database: sa.Engine, state: str, attempt: int, *, retry: bool
) -> None:
    task_id = put(database, state, attempt)
    with database.begin() as connection:
        assert locked.fail(connection, task_id, attempt, "no", "w", retry=retry) == "FAILURE"
    row = task(database, task_id)
    assert (row["state"], row["attempt"], row["error"]) == ("FAILURE", attempt, "no")
    assert row["finished_at"] is not None
    assert box(database) == []


def test_a_retry_is_published_as_a_new_attempt(database: sa.Engine) -> None:
    task_id = put(database, "PENDING")
    with database.begin() as connection:
        assert [due.task_id for due in publish(connection, 10)] == [task_id]
        locked.fail(connection, task_id, 1, "lost before its claim", "w")
        assert [due.attempt for due in publish(connection, 10)] == [2]
        publishes = connection.execute(sa.text("SELECT publishes FROM outbox")).scalar()
    assert publishes == 1


@pytest.mark.parametrize("state", UNFINISHED)
def test_a_revoked_task_ends_and_is_not_published(database: sa.Engine, state: str) -> None:
    task_id = put(database, state)
    with database.begin() as connection:
        assert locked.revoke(connection, task_id, "enough", 1)
    row = task(database, task_id)
    assert (row["state"], row["error"]) == ("REVOKED", "enough")
    assert row["finished_at"] is not None
    assert box(database) == []


@pytest.mark.parametrize("state", UNFINISHED)
def test_a_revoke_without_an_attempt_number_ends_only_a_waiting_task(
    database: sa.Engine, state: str
) -> None:
    task_id = put(database, state, attempt=2)
    before = task(database, task_id)
    with database.begin() as connection:
        revoked = locked.revoke(connection, task_id, "enough")
    row = task(database, task_id)
    if state == "STARTED":
        assert (revoked, row) == (None, before)
    else:
        assert revoked is not None
        assert (revoked.attempt, row["state"], row["error"]) == (2, "REVOKED", "enough")
    assert box(database) == []


def test_a_hand_back_costs_no_attempt_and_changes_only_that_workers_tasks(
    database: sa.Engine,
) -> None:
    mine, other, waits = submit(database, 3)
    with database.begin() as connection:
        claim(connection, mine, 1, "me")
        claim(connection, other, 1, "other")
        assert hand_back(connection, "me") == 1
        assert hand_back(connection, "me") == 0
    row = task(database, mine)
    assert (row["state"], row["attempt"], row["max_attempts"]) == ("RETRY", 2, 4)
    assert task(database, other)["state"] == "STARTED"
    assert box(database) == sorted([(mine, 2), (waits, 1)])


def test_a_task_at_the_highest_attempt_number_is_not_handed_back_but_others_are(
    database: sa.Engine,
) -> None:
    last, before, other = submit(database, 3)
    number = sa.text("UPDATE tasks SET attempt = :n, max_attempts = :m WHERE id = :id")
    with database.begin() as connection:
        for task_id, attempt in ((last, 32_767), (before, 32_766)):
            connection.execute(number, {"id": task_id, "n": attempt, "m": 32_767})
        for task_id, attempt in ((last, 32_767), (before, 32_766), (other, 1)):
            assert claim(connection, task_id, attempt, "me")
        assert hand_back(connection, "me") == 2
    assert [task(database, task_id)["attempt"] for task_id in (before, other)] == [32_767, 2]
    with database.begin() as connection:
        assert locked.fail(connection, last, 32_767, "lost", "me") == "FAILURE"


def test_an_attempt_that_lost_postgresql_is_repeated_at_no_cost(database: sa.Engine) -> None:
    (task_id,) = submit(database)
    with database.begin() as connection:
        claim(connection, task_id, 1, "other")
        assert not reschedule(connection, task_id, 1)
        connection.exec_driver_sql("UPDATE tasks SET worker = 'w'")
        assert reschedule(connection, task_id, 1, delay=100)
        # If the commit took place but its answer was lost, a repetition changes nothing.
        assert not reschedule(connection, task_id, 1, delay=100)
        assert publish(connection, 10) == []
    row = task(database, task_id)
    assert (row["state"], row["attempt"], row["max_attempts"]) == ("RETRY", 2, 4)
    assert row["error"] == "away"
    assert box(database) == [(task_id, 2)]


def test_a_lost_batch_gets_its_outbox_rows_back(database: sa.Engine) -> None:
    ids = submit(database, 3)
    with database.begin() as connection:
        connection.exec_driver_sql("DELETE FROM outbox")
        again = ledger.reschedule(connection, dict.fromkeys(ids, 1), None, waiting=True, free=True)
        assert again == set(ids)
        assert len(publish(connection, 10)) == len(ids)
