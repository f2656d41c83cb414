"""Limits in the ledger: who runs, who waits, and who is next."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from backend.db import leases, ledger, limits, outbox
from backend.db.limits import Limit
from backend.maintenance.parked import Parked
from tests.support.ledger import box, reschedule, submit, succeed, task
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ONE = Limit("slow", 1)
TWO = Limit("slow", 2)


def claim(database: sa.Engine, task_id: str, limit: Limit = ONE, attempt: int = 1) -> bool:
    """Claim an attempt under a limit; return whether it got a place."""
    with database.begin() as connection:
        found = limits.claim(connection, task_id, attempt, "w", limit)
    return found is not None and bool(found.ids)


def parked(database: sa.Engine) -> list[str]:
    """Return the ids of parked rows, in order."""
    with database.begin() as connection:
        found = sa.text("SELECT CAST(task_id AS text) FROM outbox WHERE due_at = 'infinity'")
        return sorted(connection.execute(found).scalars())


def park(database: sa.Engine, ids: Sequence[str], key: str = "slow") -> None:
    """Park the first attempts of tasks."""
    with database.begin() as connection:
        limits.park(connection, dict.fromkeys(ids, (1, key)))


def waits_for_lock(database: sa.Engine) -> bool:
    """Return whether a session of this database waits for a lock."""
    sql = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with database.connect() as connection:
        return bool(connection.exec_driver_sql(sql).scalar())


def in_thread(call: Callable[[], bool]) -> tuple[threading.Thread, list[bool]]:
    """Start a call in a thread; return the thread and the list that gets the value."""
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(call()))
    thread.start()
    return thread, answers


def test_an_attempt_over_its_limit_is_parked_and_uses_up_no_attempt(database: sa.Engine) -> None:
    ids = submit(database, 3)
    assert [claim(database, each, TWO) for each in ids] == [True, True, False]
    assert parked(database) == ids[2:]
    waits = task(database, ids[2])
    assert (waits["state"], waits["attempt"], waits["started_at"]) == ("PENDING", 1, None)
    assert box(database) == [(ids[2], 1)]


def test_an_end_makes_the_oldest_parked_row_due_in_its_transaction(database: sa.Engine) -> None:
    running, *ids = submit(database, 3)
    assert claim(database, running)
    park(database, ids)
    with database.connect() as connection:
        with limits.ending(connection, ONE):
            assert succeed(connection, running, 1)
        assert parked(database) == ids, "not before the commit"
        connection.commit()
    assert parked(database) == ids[1:]
    with database.begin() as connection:
        assert [entry.task_id for entry in outbox.take(connection, 10)] == ids[:1]


def test_an_end_that_is_rolled_back_makes_nothing_due(database: sa.Engine) -> None:
    running, *ids = submit(database, 2)
    assert claim(database, running)
    park(database, ids)
    with database.connect() as connection:
        with limits.ending(connection, ONE):
            assert succeed(connection, running, 1)
        connection.rollback()
    assert parked(database) == ids


def test_two_claims_at_once_do_not_both_get_the_last_place(database: sa.Engine) -> None:
    first, second = submit(database, 2)
    with database.connect() as connection:
        assert limits.claim(connection, first, 1, "w", ONE)
        thread, admitted = in_thread(lambda: claim(database, second))
        eventually(lambda: waits_for_lock(database) or not thread.is_alive(), 5, "it waits")
        connection.commit()
    thread.join(5)
    assert admitted == [False]
    assert parked(database) == [second]


def test_a_claim_while_the_last_attempt_ends_gets_its_place(database: sa.Engine) -> None:
    running, waiting = submit(database, 2)
    assert claim(database, running)
    with database.connect() as connection:
        with limits.ending(connection, ONE):
            assert succeed(connection, running, 1)
        thread, admitted = in_thread(lambda: claim(database, waiting))
        eventually(lambda: waits_for_lock(database) or not thread.is_alive(), 5, "it waits")
        connection.commit()
    thread.join(5)
    assert admitted == [True], "else nobody would make it due"


def test_a_released_row_takes_a_place_until_it_is_claimed(database: sa.Engine) -> None:
    ids = submit(database, 4)
    park(database, ids)
    for _ in range(2):
        with database.begin() as connection:
            limits.release(connection, [TWO])
        assert parked(database) == ids[2:]


def test_a_row_that_a_long_transaction_makes_due_has_the_time_of_that_moment(
    database: sa.Engine,
) -> None:
    running, waiting = submit(database, 2)
    assert claim(database, running)
    park(database, [waiting])
    with database.begin() as connection:
        connection.exec_driver_sql("SELECT pg_sleep(0.01)")
        with limits.ending(connection, ONE):
            assert succeed(connection, running, 1)
        later = "SELECT due_at >= now() + interval '10 ms' FROM outbox"
        assert connection.exec_driver_sql(later).scalar(), "the scan of due rows may begin later"


def test_a_locked_key_does_not_delay_the_rows_of_others(database: sa.Engine) -> None:
    ids = submit(database, 2)
    park(database, ids[:1], "slow/a")
    park(database, ids[1:], "slow/b")
    with database.connect() as locking, limits.ending(locking, Limit("slow/a", 1)):
        with database.begin() as connection:
            limits.release(connection, [Limit("slow/a", 1), Limit("slow/b", 1)])
        assert parked(database) == ids[:1]


def test_a_parked_attempt_that_is_rescheduled_takes_no_place(database: sa.Engine) -> None:
    (task_id,) = submit(database)
    park(database, [task_id])
    with database.begin() as connection:
        limits.release(connection, [ONE])
        assert reschedule(connection, task_id, 1, waiting=True, delay=300)
        kept = "SELECT limit_key FROM outbox"
        assert connection.exec_driver_sql(kept).scalar() is None


def test_each_key_has_its_own_places(database: sa.Engine) -> None:
    ids = submit(database, 4)
    park(database, ids[:2], "slow/a")
    park(database, ids[2:], "slow/b")
    with database.begin() as connection:
        limits.release(connection, [Limit("slow/b", 1), Limit("slow/a", 1)])
    assert parked(database) == [ids[1], ids[3]]


def test_a_later_attempt_is_counted_like_the_first(database: sa.Engine) -> None:
    first, second = submit(database, 2)
    with database.begin() as connection:
        leases.renew(connection, "w", list)
    assert claim(database, first)
    assert not claim(database, second)
    with database.begin() as connection:
        assert reschedule(connection, first, 1)
    assert claim(database, first, attempt=2)
    with database.begin() as connection:
        limits.release(connection, [ONE])
    assert parked(database) == [second]


def test_a_claim_whose_answer_was_lost_does_not_count_against_itself(database: sa.Engine) -> None:
    (task_id,) = submit(database)
    assert claim(database, task_id)
    with database.begin() as connection:
        found = limits.claim(connection, task_id, 1, "w", ONE)
    assert found is not None, "it goes on to look whether its first commit counts"


@pytest.mark.usefixtures("service")
def test_the_reconciler_makes_parked_rows_due_that_nothing_else_will(service: sa.Engine) -> None:
    ids = submit(service, 3)
    park(service, ids[:2], "slow")
    park(service, ids[2:], "removed_task")
    Parked().release()
    # `slow` has no limit, so all are due; nobody here knows the other task.
    assert parked(service) == ids[2:]


def test_keys_are_found_without_reading_every_parked_row(database: sa.Engine) -> None:
    ids = submit(database, 5_000)
    park(database, ids[:-1], "slow/a")
    park(database, ids[-1:], "slow/b")
    with database.begin() as connection:
        assert limits.parked_keys(connection, "", 10) == ["slow/a", "slow/b"]
        assert limits.parked_keys(connection, "slow/a", 10) == ["slow/b"]
        read = "SELECT idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'outbox'"
        assert int(connection.exec_driver_sql(read).scalar_one() or 0) < 100


def test_tasks_without_a_limit_have_no_key(database: sa.Engine) -> None:
    (task_id,) = submit(database)
    with database.begin() as connection:
        assert ledger.claim(connection, {task_id: 1}, "w").ids
    assert task(database, task_id)["limit_key"] is None
