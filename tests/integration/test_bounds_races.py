"""Scan bounds with concurrent work: no row that is put back or committed late is missed."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from backend.db import bounds, ledger, outbox, records
from tests.support.bounds import advance, advanced, backdate, below, minutes, take
from tests.support.ledger import lock_waiters, publish, republish, submit
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def put_back(connection: sa.Connection, ids: list[str]) -> None:
    outbox.put_back(connection, ids)


def publish_lost(connection: sa.Connection, _ids: list[str]) -> None:
    assert republish(connection, "tasks", 10) == 2


BRING_BACK = [put_back, publish_lost]


@pytest.fixture
def published(database: sa.Engine) -> list[str]:
    """Give old tasks, published long enough ago; the bounds are a minute before now."""
    ids = submit(database, 2)
    with database.begin() as connection:
        publish(connection, 10)
    backdate(database)
    advanced(database)
    assert minutes(database)["due_from"] == 1
    return ids


@pytest.mark.parametrize("bring_back", BRING_BACK)
def test_rows_to_republish_are_taken_in_their_original_order(
    database: sa.Engine,
    published: list[str],
    bring_back: Callable[[sa.Connection, list[str]], None],
) -> None:
    submit(database)
    with database.begin() as connection:
        bring_back(connection, published)
        assert below(connection) == 0
    assert minutes(database)["due_from"] == 10
    with database.begin() as connection:
        assert sorted(due.task_id for due in publish(connection, 2)) == published


@pytest.mark.parametrize("first", ["raise", "bring back"])
@pytest.mark.parametrize("bring_back", BRING_BACK)
def test_raising_a_bound_while_rows_are_put_back_misses_no_row(
    database: sa.Engine,
    published: list[str],
    bring_back: Callable[[sa.Connection, list[str]], None],
    first: str,
) -> None:
    with database.begin() as connection:
        bounds.reset(connection)
    steps: list[Callable[[sa.Connection], object]] = [
        advance,
        lambda connection: bring_back(connection, published),
    ]
    if first == "bring back":
        steps.reverse()

    def run_second() -> None:
        with database.begin() as connection:
            steps[1](connection)

    second = threading.Thread(target=run_second)
    with database.connect() as connection:
        steps[0](connection)
        second.start()
        eventually(lambda: lock_waiters(database), 4, "the second transaction waits")
        connection.commit()
    second.join()
    with database.begin() as connection:
        assert below(connection) == 0
        assert take(connection) == published


def test_a_submission_that_commits_late_is_not_missed(database: sa.Engine) -> None:
    with database.connect() as late:
        ledger.submit(late, [records.TaskRecord(NEW, "slow", "{}", 3, None)])
        advanced(database)
        advanced(database, every_row=True)
        late.commit()
    with database.begin() as connection:
        assert below(connection) == 0
        assert take(connection) == [NEW]


NEW = "019a3f0e-7c1a-7d7e-9a53-0d8f2c7b1f55"


def check(connection: sa.Connection) -> None:
    assert below(connection) == 0


def take_as_if_long_ago(connection: sa.Connection) -> None:
    """Take some rows, and make them old enough to be published again."""
    taken = [due.task_id for due in publish(connection, 20)]
    connection.execute(
        sa.text(
            "UPDATE outbox SET published_at = now() - interval '50 s'"
            " WHERE task_id = ANY(CAST(:ids AS uuid[]))"
        ),
        {"ids": taken},
    )


def run_all_at_once(
    database: sa.Engine, steps: Sequence[Callable[[sa.Connection], object]], seconds: float
) -> list[BaseException]:
    """Repeat each step in its own thread; return the errors that ended a thread early."""
    failures: list[BaseException] = []
    stop = threading.Event()

    def repeat(step: Callable[[sa.Connection], object]) -> None:
        try:
            while not stop.is_set():
                with database.begin() as connection:
                    step(connection)
        except BaseException as error:  # noqa: BLE001 - any ends the test
            failures.append(error)
            stop.set()

    threads = [threading.Thread(target=repeat, args=[step]) for step in steps]
    for thread in threads:
        thread.start()
    stop.wait(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    return failures


def test_no_row_is_below_its_bound_under_concurrent_work(
    database: sa.Engine,
) -> None:
    ids = submit(database, 40)
    backdate(database)
    steps: list[Callable[[sa.Connection], object]] = [
        take_as_if_long_ago,
        lambda connection: outbox.put_back(connection, ids[::3]),
        lambda connection: republish(connection, "tasks", 5),
        advance,
        bounds.lower,
        bounds.reset,
        check,
    ]
    assert not run_all_at_once(database, steps, 3)
    with database.begin() as connection:
        connection.execute(sa.text("UPDATE outbox SET published_at = NULL"))
        outbox.put_back(connection, ids)
        assert take(connection) == ids
