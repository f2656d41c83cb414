"""Waiting tasks without an outbox row."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from backend.db import ledger, repairs
from backend.maintenance.reconciler import Reconciler
from tests.support.ledger import box, lock_waiters, put, submit, task
from tests.support.plans import WAITING, blocks, burst
from tests.support.readiness import readiness
from tests.support.waiting import eventually

if TYPE_CHECKING:
    import sqlalchemy as sa


def repair(
    database: sa.Engine, after: repairs.Position = repairs.START, limit: int = 100
) -> list[str]:
    with database.begin() as connection:
        return sorted(repairs.repair(connection, after, limit)[1])


def empty_outbox(database: sa.Engine) -> None:
    with database.begin() as connection:
        connection.exec_driver_sql("DELETE FROM outbox")


@pytest.mark.parametrize("state", ["PENDING", "RETRY"])
def test_a_waiting_task_without_an_outbox_row_gets_one(database: sa.Engine, state: str) -> None:
    task_id = put(database, state, attempt=2)
    assert repair(database) == [], "the task still has its outbox row"
    empty_outbox(database)
    assert repair(database) == [task_id]
    # It is the next attempt: a message of this one may still be in the broker.
    assert box(database) == [(task_id, 3)]
    assert task(database, task_id)["max_attempts"] == 4


@pytest.mark.parametrize("state", ["STARTED", "SUCCESS", "FAILURE", "REVOKED"])
def test_a_started_or_ended_task_gets_no_outbox_row(database: sa.Engine, state: str) -> None:
    put(database, state)
    assert (repair(database), box(database)) == ([], [])


def test_a_claim_that_waited_for_a_repair_fails(database: sa.Engine) -> None:
    """It would not see the new outbox row, so it could not delete it."""
    (task_id,) = submit(database)
    empty_outbox(database)
    claimed: list[object] = []

    def claim() -> None:
        with database.begin() as connection:
            claimed.append(ledger.claim(connection, {task_id: 1}, "w").ids)

    thread = threading.Thread(target=claim)
    with database.begin() as connection:
        assert repairs.repair(connection, repairs.START, 10)[1] == [task_id]
        thread.start()
        eventually(lambda: lock_waiters(database), 4, "the claim waits")
    thread.join()
    assert (claimed, box(database)) == ([frozenset()], [(task_id, 2)])


def test_each_search_continues_where_the_last_one_ended(database: sa.Engine) -> None:
    ids = [submit(database)[0] for _ in range(5)]  # accepted in this order
    empty_outbox(database)
    found, place = [], repairs.START
    for _ in range(3):
        with database.begin() as connection:
            place, repaired = repairs.repair(connection, place, 2)
            found.append(sorted(repaired))
    assert found == [sorted(ids[:2]), sorted(ids[2:4]), ids[4:]]
    assert place == repairs.START


def test_two_reconcilers_repair_a_task_once(database: sa.Engine) -> None:
    submit(database, 50)
    empty_outbox(database)
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.extend(repair(database))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == len(box(database)) == 50
    with database.connect() as connection:
        assert repairs.total_if_recent(connection) == 50


def test_a_search_does_not_read_the_whole_backlog(database: sa.Engine) -> None:
    burst(database)
    values = {**repairs.START._asdict(), "limit": 10}
    values["id"] = values.pop("task_id")
    with database.begin() as connection:
        assert blocks(connection, repairs._REPAIR, values) < WAITING / 100


def test_the_reconciler_repairs_tasks_and_health_shows_the_count(
    service: sa.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    (task_id,) = submit(service)
    empty_outbox(service)
    assert readiness()[0].faults == []
    Reconciler().make_pass()
    assert [row[0] for row in box(service)] == [task_id]
    (fault,) = readiness()[0].faults
    assert "1 repaired in total" in fault
    (line,) = caplog.messages
    assert task_id in line


def test_health_forgets_a_repair_after_an_hour(database: sa.Engine) -> None:
    submit(database)
    empty_outbox(database)
    repair(database)
    with database.begin() as connection:
        connection.exec_driver_sql("UPDATE repairs SET latest = now() - interval '61 min'")
        assert repairs.total_if_recent(connection) == 0
