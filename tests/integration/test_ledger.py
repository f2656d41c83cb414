"""The conditions of the ledger's statements: what each may change, and what none may."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING
from uuid import uuid4

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

if TYPE_CHECKING:
    from collections.abc import Callable

ENDED = ["SUCCESS", "FAILURE", "REVOKED"]
UNFINISHED = ["PENDING", "STARTED", "RETRY"]
NEVER = str(uuid4())


def test_a_submission_writes_both_rows_or_none(database: sa.Engine) -> None:
    first, second = submit(database, 2)
    assert box(database) == [(first, 1), (second, 1)]
    row = task(database, first)
    assert (row["state"], row["attempt"], row["args"]) == ("PENDING", 1, {"n": 1})
    assert (row["max_attempts"], row["reply_to"]) == (3, "replies")
    twice = [records.TaskRecord(one, "slow", "{}", 3, None) for one in (NEVER, first)]
    with pytest.raises(sa.exc.IntegrityError), database.begin() as connection:
        ledger.submit(connection, twice)
    assert box(database) == [(first, 1), (second, 1)]
    with database.begin() as connection:
        assert queries.states(connection, [NEVER]) == [None]


def test_a_task_is_claimed_once(database: sa.Engine) -> None:
    (task_id,) = submit(database)
    with database.begin() as connection:
        assert claim(connection, task_id, 1, "first")
    with database.begin() as connection:
        assert not claim(connection, task_id, 1, "second")
    row = task(database, task_id)
    assert (row["state"], row["worker"]) == ("STARTED", "first")
    assert row["started_at"] is not None
    assert box(database) == []


def test_only_one_of_two_concurrent_claims_succeeds(database: sa.Engine) -> None:
    (task_id,) = submit(database)
    ready = threading.Barrier(8)
    claimed = []

    def run(name: str) -> None:
        with database.begin() as connection:
            ready.wait(10)
            claimed.append(claim(connection, task_id, 1, name))

    database.dispose()
    threads = [threading.Thread(target=run, args=(f"w{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == [False] * 7 + [True]


@pytest.mark.parametrize(
    ("state", "attempt", "claimed", "counts"),
    [
        ("PENDING", 1, 1, True),
        ("RETRY", 2, 2, True),
        ("PENDING", 1, 2, False),
        ("RETRY", 2, 1, False),
        ("RETRY", 2, 3, False),
        *((state, 1, 1, False) for state in ["STARTED", *ENDED]),
    ],
)
def test_only_the_attempt_that_waits_is_claimed(
    database: sa.Engine, state: str, attempt: int, claimed: int, *, counts: bool
) -> None:
    task_id = put(database, state, attempt)
    before, rows = task(database, task_id), box(database)
    with database.begin() as connection:
        assert claim(connection, task_id, claimed, "me") is counts
    if not counts:
        assert (before, rows) == (task(database, task_id), box(database))


def finish_two(connection: sa.Connection, task_id: str, attempt: int) -> bool:
    """End a task together with another one, which does not exist."""
    ends = [
        records.TaskRecord(one, attempt=attempt, state=states.SUCCESS, result="{}")
        for one in (task_id, NEVER)
    ]
    return bool(ledger.finish(connection, ends, "w", waiting=True))


STATEMENTS: dict[str, Callable[[sa.Connection, str, int], object]] = {
    "claim": claim,
    "claim without a start": lambda c, i, n: locked.hold(c, {i: n}, "w").ids,
    "progress": lambda c, i, n: running.progress(c, i, n, 1, 2),
    "succeed": succeed,
    "finish two": finish_two,
    "reschedule": reschedule,
    "reschedule a waiting task": lambda c, i, n: reschedule(c, i, n, waiting=True),
    "fail": lambda c, i, n: locked.fail(c, i, n, "no", "w"),
    "fail without retry": lambda c, i, n: locked.fail(c, i, n, "no", "w", retry=False),
    "revoke": lambda c, i, n: locked.revoke(c, i, "no", n),
    "revoke a waiting task": lambda c, i, _n: locked.revoke(c, i, "no"),
    "hand back": lambda c, _i, _n: hand_back(c, "w"),
}


@pytest.mark.parametrize("state", ENDED)
@pytest.mark.parametrize("name", STATEMENTS)
def test_no_statement_changes_a_task_that_has_ended(
    database: sa.Engine, name: str, state: str
) -> None:
    task_id = put(database, state)
    before = task(database, task_id)
    with database.begin() as connection:
        assert not STATEMENTS[name](connection, task_id, 1)
        assert queries.started(connection) == []
    assert (before, []) == (task(database, task_id), box(database))


@pytest.mark.parametrize("state", UNFINISHED)
@pytest.mark.parametrize(
    "name", [name for name in STATEMENTS if name not in {"hand back", "revoke a waiting task"}]
)
def test_no_statement_of_another_attempt_changes_a_task(
    database: sa.Engine, name: str, state: str
) -> None:
    task_id = put(database, state, attempt=2)
    before, rows = task(database, task_id), box(database)
    for attempt in (1, 3):
        with database.begin() as connection:
            assert not STATEMENTS[name](connection, task_id, attempt)
    assert (before, rows) == (task(database, task_id), box(database))


@pytest.mark.parametrize("name", ["progress", "succeed", "reschedule"])
@pytest.mark.parametrize("state", ["PENDING", "RETRY"])
def test_only_a_started_task_makes_progress_or_ends(
    database: sa.Engine, name: str, state: str
) -> None:
    task_id = put(database, state)
    before = task(database, task_id)
    with database.begin() as connection:
        assert not STATEMENTS[name](connection, task_id, 1)
    assert before == task(database, task_id)


@pytest.mark.parametrize("state", UNFINISHED)
def test_an_attempt_of_another_worker_is_not_ended(database: sa.Engine, state: str) -> None:
    task_id = put(database, state)
    end = records.TaskRecord(task_id, state=states.SUCCESS, result="{}")
    before = task(database, task_id)
    with database.begin() as connection:
        assert not ledger.finish(connection, [end], "other", waiting=False)
        assert not ledger.finish(connection, [end] * 2, "other", waiting=False)
        assert not locked.fail(connection, task_id, 1, "no", "other", waiting=False)
    assert before == task(database, task_id)


@pytest.mark.parametrize("few", [1, 100])
def test_the_list_shows_the_oldest_and_stops_counting_at_its_limit(
    database: sa.Engine, few: int
) -> None:
    unfinished = partial(queries.unfinished, counted=4, few=few)
    ids = [submit(database)[0] for _ in range(6)]
    with database.begin() as connection:
        connection.execute(
            sa.text("UPDATE outbox SET due_at = now() + interval '1 min' WHERE task_id = :id"),
            {"id": ids[1]},
        )
        claim(connection, ids[0], 1)
        publish(connection, 10)
        shown = {ids[0]: "ACTIVE", ids[1]: "SCHEDULED", ids[2]: "RESERVED"}
        assert list(unfinished(connection, 3)[0]) == ids[:3]
        assert unfinished(connection, 3) == (shown, 5)
        assert unfinished(connection, 7, many=True)[1] == 6
        assert queries.count_unfinished(connection) == 6
        locked.revoke(connection, ids[5], "enough", 1)
        locked.revoke(connection, ids[4], "enough", 1)
        assert unfinished(connection, 3) == (shown, 4)
        assert unfinished(connection, 3, many=True) == (shown, 5)
