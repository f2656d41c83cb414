"""Concurrent batches: no task is in two of them, and there is no deadlock."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING
from uuid import uuid4

import sqlalchemy as sa

from backend import states
from backend.db import idempotency, ledger, locked, queries, records
from tests.support.ledger import claim, lock_waiters, put, submit, succeed, task
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

SIZE = 51
# As PostgreSQL's own plan in a large ledger: row by row, in the given order.
PLAN = "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off"


def finish(connection: sa.Connection, results: Mapping[str, str], worker: str = "w") -> bool:
    """End claimed first attempts of short tasks; return whether all of them ended."""
    ends = [
        records.TaskRecord(one, state=states.SUCCESS, result=result)
        for one, result in results.items()
    ]
    return ledger.finish(connection, ends, worker, waiting=True) == results.keys()


def at_once(
    database: sa.Engine,
    work: Callable[[sa.Connection, Sequence[str]], object],
    ids: list[str],
    block: Callable[[sa.Connection, str], object],
) -> list[object]:
    """Do the same work in two transactions, in opposite order; return the result of each.

    A third transaction blocks the task in the middle until both wait: without an order of its own
    each would by then have locked what the other wants next.
    """
    got: list[object] = []

    def run(order: Sequence[str]) -> None:
        try:
            with database.begin() as connection:
                connection.exec_driver_sql(PLAN)
                got.append(work(connection, order))
        except sa.exc.DBAPIError as error:
            got.append(type(error.orig).__name__)

    threads = [threading.Thread(target=run, args=(order,)) for order in (ids, ids[::-1])]
    with database.connect() as blocker:
        block(blocker, ids[len(ids) // 2])
        for thread in threads:
            thread.start()
        eventually(lambda: lock_waiters(database) == 2, 4, "both transactions wait")
        blocker.rollback()
    for thread in threads:
        thread.join()
    return got


def test_two_submissions_of_the_same_tasks_in_opposite_order_do_not_deadlock(
    database: sa.Engine,
) -> None:
    def work(connection: sa.Connection, ids: Sequence[str]) -> str:
        ledger.submit(connection, [records.TaskRecord(i, "slow", "{}", 3, None) for i in ids])
        return "submitted"

    ids = sorted(str(uuid4()) for _ in range(SIZE))
    got = at_once(database, work, ids, lambda blocker, task_id: work(blocker, [task_id]))
    assert sorted(map(str, got)) == ["UniqueViolation", "submitted"]


def test_two_batches_of_the_same_tasks_in_opposite_order_claim_each_task_once(
    database: sa.Engine,
) -> None:
    def work(connection: sa.Connection, ids: Sequence[str]) -> list[str]:
        attempts = dict.fromkeys(ids, 1)
        claimed = ledger.claim(connection, attempts, "w").ids
        assert finish(connection, {task_id: "{}" for task_id in ids if task_id in claimed})
        return sorted(claimed)

    ids = submit(database, SIZE)
    got = at_once(database, work, ids, lambda blocker, task_id: claim(blocker, task_id, 1, "other"))
    assert sorted(got, key=str) == [ids, []]
    assert {task(database, task_id)["state"] for task_id in ids} == {"SUCCESS"}


def test_two_lost_batches_of_the_same_tasks_in_opposite_order_do_not_deadlock(
    database: sa.Engine,
) -> None:
    def work(connection: sa.Connection, ids: Sequence[str]) -> int:
        locked.lock(connection, ids)
        attempts = dict.fromkeys(ids, 1)
        return len(ledger.reschedule(connection, attempts, None, waiting=True, free=True))

    ids = submit(database, SIZE)
    got = at_once(database, work, ids, lambda blocker, task_id: locked.lock(blocker, [task_id]))
    assert sorted(got, key=str) == [0, SIZE]


def test_two_requests_with_the_same_keys_in_opposite_order_get_the_same_answers(
    database: sa.Engine,
) -> None:
    def work(connection: sa.Connection, keys: Sequence[str]) -> dict[str, idempotency.KeyUse]:
        ids = [str(uuid4())]
        asked = [idempotency.KeyUse(key, "the same", ids) for key in keys]
        return idempotency.remember(connection, asked)

    keys = [f"key-{place:02d}" for place in range(SIZE)]
    first, second = at_once(database, work, keys, lambda blocker, key: work(blocker, [key]))
    assert first == second
    assert isinstance(first, dict)
    assert first.keys() == set(keys)
    assert len({key.ids[0] for key in first.values()}) == 1


def test_a_batch_claims_waiting_tasks_and_ends_them_in_one_commit(database: sa.Engine) -> None:
    waits, again = put(database, "PENDING"), str(uuid4())
    started, ended = submit(database, 2)
    with database.begin() as connection:
        claim(connection, started, 1, "other")
        claim(connection, ended, 1)
        succeed(connection, ended, 1)
        attempts = {waits: 1, again: 1, started: 1, ended: 1}
        assert ledger.claim(connection, attempts, "me").ids == {waits}
        assert finish(connection, {waits: '{"a": 1}'}, "me")
        (state,) = queries.states(connection, [waits])
    assert state == records.TaskRecord(waits, state=states.SUCCESS, result='{"a": 1}')
    assert task(database, waits)["worker"] == "me"
    assert task(database, started)["worker"] == "other"


def test_finishing_a_batch_reports_a_task_that_was_revoked_meanwhile(database: sa.Engine) -> None:
    first, second = submit(database, 2)
    with database.begin() as connection:
        locked.revoke(connection, second, "enough", 1)
        ledger.claim(connection, dict.fromkeys([first, second], 1), "w")
        assert not finish(connection, {first: "{}", second: "{}"})


def test_the_tasks_of_a_lost_batch_run_again_without_costing_an_attempt(
    database: sa.Engine,
) -> None:
    first, second, other = submit(database, 3)
    with database.begin() as connection:
        attempts = {first: 1, second: 1, other: 2}
        again = ledger.reschedule(connection, attempts, None, waiting=True, free=True)
        assert again == {first, second}
    for task_id in (first, second):
        row = task(database, task_id)
        assert (row["state"], row["attempt"], row["max_attempts"]) == ("RETRY", 2, 4)
    assert task(database, other)["state"] == "PENDING"
