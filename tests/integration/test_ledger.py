"""The ledger's guards: which statement may change what, and what no statement may."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
import sqlalchemy as sa

from backend import states
from backend.db import ledger, locked, outbox, queries, records

if TYPE_CHECKING:
    from collections.abc import Callable

ENDED = ["SUCCESS", "FAILURE", "REVOKED"]
UNFINISHED = ["PENDING", "STARTED", "RETRY"]
NEVER = str(uuid4())


def submit(
    database: sa.Engine, count: int = 1, max_attempts: int = 3, args: str = '{"n": 1}'
) -> list[str]:
    ids = sorted(str(uuid4()) for _ in range(count))
    with database.begin() as connection:
        ledger.submit(
            connection,
            [records.NewTask(one, "slow", args, max_attempts, "replies") for one in ids],
        )
    return ids


def put(database: sa.Engine, state: str, attempt: int = 1, max_attempts: int = 3) -> str:
    """Make a task of a state, with the outbox row that belongs to it; return its id."""
    (task_id,) = submit(database, max_attempts=max_attempts)
    with database.begin() as connection:
        connection.execute(
            sa.text("UPDATE tasks SET state = :s, attempt = :a, worker = 'w', started_at = now()"),
            {"s": state, "a": attempt},
        )
        if state in {"PENDING", "RETRY"}:
            connection.execute(sa.text("UPDATE outbox SET attempt = :a"), {"a": attempt})
        else:
            connection.execute(sa.text("DELETE FROM outbox"))
    return task_id


def claim(connection: sa.Connection, task_id: str, attempt: int, worker: str = "w") -> bool:
    """Start an attempt; return whether it counts."""
    return task_id in ledger.claim(connection, {task_id: attempt}, worker).ids


def succeed(connection: sa.Connection, task_id: str, attempt: int, result: str = "{}") -> bool:
    """End an attempt of the worker "w" that has been started; return whether it counted."""
    end = records.Outcome(task_id, attempt, states.SUCCESS, result)
    return bool(ledger.finish(connection, [end], "w", waiting=False))


def hand_back(connection: sa.Connection, worker: str) -> int:
    """Do what a worker does that stops; return how many tasks it has given back."""
    started = locked.lock_started_by(connection, worker)
    return len(ledger.reschedule(connection, started, worker, waiting=False, free=True))


def task(database: sa.Engine, task_id: str) -> dict[str, Any]:
    with database.begin() as connection:
        found = connection.execute(sa.text("SELECT * FROM tasks WHERE id = :id"), {"id": task_id})
        return dict(found.mappings().one())


def box(database: sa.Engine) -> list[tuple[str, int]]:
    with database.begin() as connection:
        rows = connection.execute(
            sa.text("SELECT CAST(task_id AS text), attempt FROM outbox ORDER BY task_id")
        )
        return [(row[0], row[1]) for row in rows]


def test_a_submission_writes_both_rows_or_none(database: sa.Engine) -> None:
    first, second = submit(database, 2)
    assert box(database) == [(first, 1), (second, 1)]
    row = task(database, first)
    assert (row["state"], row["attempt"], row["args"]) == ("PENDING", 1, {"n": 1})
    assert (row["max_attempts"], row["reply_to"]) == (3, "replies")
    twice = [records.NewTask(one, "slow", "{}", 3, None) for one in (NEVER, first)]
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


def test_of_two_claims_at_once_one_counts(database: sa.Engine) -> None:
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


def reschedule(
    connection: sa.Connection, task_id: str, attempt: int, *, waiting: bool = False, delay: int = 0
) -> bool:
    """Give a task of the worker "w" its next attempt at no cost; return whether it counted."""
    again = ledger.reschedule(
        connection,
        {task_id: attempt},
        "w",
        waiting=waiting,
        free=True,
        error="away",
        delay=delay,
    )
    return bool(again)


def finish_two(connection: sa.Connection, task_id: str, attempt: int) -> bool:
    """End a task together with another one, which never was."""
    ends = [records.Outcome(one, attempt, states.SUCCESS, "{}") for one in (task_id, NEVER)]
    return bool(ledger.finish(connection, ends, "w", waiting=True))


STATEMENTS: dict[str, Callable[[sa.Connection, str, int], object]] = {
    "claim": claim,
    "claim without a start": lambda c, i, n: ledger.claim(c, {i: n}, "w", start=False).ids,
    "progress": lambda c, i, n: ledger.progress(c, i, n, 1, 2),
    "succeed": succeed,
    "finish two": finish_two,
    "reschedule": reschedule,
    "reschedule what waits": lambda c, i, n: reschedule(c, i, n, waiting=True),
    "fail": lambda c, i, n: locked.fail(c, i, n, "no", "w"),
    "fail for good": lambda c, i, n: locked.fail(c, i, n, "no", "w", retry=False),
    "revoke": lambda c, i, n: locked.revoke(c, i, "no", n),
    "revoke what waits": lambda c, i, _n: locked.revoke(c, i, "no"),
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
    "name", [name for name in STATEMENTS if name not in {"hand back", "revoke what waits"}]
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


def test_a_started_task_makes_progress_and_succeeds_once(database: sa.Engine) -> None:
    task_id = put(database, "STARTED")
    with database.begin() as connection:
        assert ledger.progress(connection, task_id, 1, 3, 10)
        assert succeed(connection, task_id, 1, '{"b": 1, "a": "\\u0000"}')
        assert not succeed(connection, task_id, 1, '{"b": 2}')
        (state,) = queries.states(connection, [task_id])
    assert state == records.TaskRecord(task_id, "SUCCESS", '{"b": 1, "a": "\\u0000"}', None, "3/10")
    assert task(database, task_id)["finished_at"] is not None


def test_a_new_attempt_starts_without_the_progress_of_the_last(database: sa.Engine) -> None:
    task_id = put(database, "STARTED")
    with database.begin() as connection:
        ledger.progress(connection, task_id, 1, 9, 10)
        locked.fail(connection, task_id, 1, "no", "w")
        claim(connection, task_id, 2)
    assert task(database, task_id)["progress"] is None


@pytest.mark.parametrize("state", UNFINISHED)
def test_an_error_with_attempts_left_makes_the_next_one_due_later(
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
def test_an_error_of_the_last_attempt_or_for_good_ends_the_task(
    database: sa.Engine, state: str, attempt: int, *, retry: bool
) -> None:
    task_id = put(database, state, attempt)
    with database.begin() as connection:
        assert locked.fail(connection, task_id, attempt, "no", "w", retry=retry) == "FAILURE"
    row = task(database, task_id)
    assert (row["state"], row["attempt"], row["error"]) == ("FAILURE", attempt, "no")
    assert row["finished_at"] is not None
    assert box(database) == []


def test_a_retry_is_published_anew(database: sa.Engine) -> None:
    task_id = put(database, "PENDING")
    with database.begin() as connection:
        assert [due.task_id for due in outbox.take(connection, 10)] == [task_id]
        locked.fail(connection, task_id, 1, "lost before its claim", "w")
        assert [due.attempt for due in outbox.take(connection, 10)] == [2]
        publishes = connection.execute(sa.text("SELECT publishes FROM outbox")).scalar()
    assert publishes == 1


@pytest.mark.parametrize("state", UNFINISHED)
def test_a_revoked_task_is_ended_and_not_published(database: sa.Engine, state: str) -> None:
    task_id = put(database, state)
    with database.begin() as connection:
        assert locked.revoke(connection, task_id, "enough", 1)
    row = task(database, task_id)
    assert (row["state"], row["error"]) == ("REVOKED", "enough")
    assert row["finished_at"] is not None
    assert box(database) == []


@pytest.mark.parametrize("state", UNFINISHED)
def test_a_revoke_that_any_worker_heard_of_ends_what_waits_and_leaves_what_runs(
    database: sa.Engine, state: str
) -> None:
    task_id = put(database, state, attempt=2)
    before = task(database, task_id)
    with database.begin() as connection:
        attempt = locked.revoke(connection, task_id, "enough")
    row = task(database, task_id)
    if state == "STARTED":
        assert (attempt, row) == (None, before)
    else:
        assert (attempt, row["state"], row["error"]) == (2, "REVOKED", "enough")
    assert box(database) == []


def test_a_hand_back_costs_no_attempt_and_touches_only_that_workers_tasks(
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


def test_a_task_that_has_no_number_left_is_not_handed_back_and_stops_no_other(
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


def test_what_lost_postgresql_has_its_next_attempt_at_no_cost(database: sa.Engine) -> None:
    (task_id,) = submit(database)
    with database.begin() as connection:
        claim(connection, task_id, 1, "other")
        assert not reschedule(connection, task_id, 1)
        connection.exec_driver_sql("UPDATE tasks SET worker = 'w'")
        assert reschedule(connection, task_id, 1, delay=100)
        # A commit that was cut off may have taken place: the second try changes nothing.
        assert not reschedule(connection, task_id, 1, delay=100)
        assert outbox.take(connection, 10) == []
    row = task(database, task_id)
    assert (row["state"], row["attempt"], row["max_attempts"]) == ("RETRY", 2, 4)
    assert row["error"] == "away"
    assert box(database) == [(task_id, 2)]


@pytest.mark.parametrize("state", UNFINISHED)
def test_an_attempt_of_another_worker_is_not_ended(database: sa.Engine, state: str) -> None:
    task_id = put(database, state)
    end = records.Outcome(task_id, 1, states.SUCCESS, "{}")
    before = task(database, task_id)
    with database.begin() as connection:
        assert not ledger.finish(connection, [end], "other", waiting=False)
        assert not ledger.finish(connection, [end] * 2, "other", waiting=False)
        assert not locked.fail(connection, task_id, 1, "no", "other", waiting=False)
    assert before == task(database, task_id)


@pytest.mark.parametrize("few", [1, 100])
def test_the_list_shows_the_oldest_and_counts_no_further_than_it_has_to(
    database: sa.Engine, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(queries, "COUNTED", 4)
    monkeypatch.setattr(queries, "FEW", few)
    ids = [submit(database)[0] for _ in range(6)]
    with database.begin() as connection:
        connection.execute(
            sa.text("UPDATE outbox SET due_at = now() + interval '1 min' WHERE task_id = :id"),
            {"id": ids[1]},
        )
        claim(connection, ids[0], 1)
        outbox.take(connection, 10)
        shown = {ids[0]: "ACTIVE", ids[1]: "SCHEDULED", ids[2]: "RESERVED"}
        assert list(queries.unfinished(connection, 3)[0]) == ids[:3]
        assert queries.unfinished(connection, 3) == (shown, 5)
        assert queries.unfinished(connection, 7, many=True)[1] == 6
        assert queries.count_unfinished(connection) == 6
        locked.revoke(connection, ids[5], "enough", 1)
        locked.revoke(connection, ids[4], "enough", 1)
        assert queries.unfinished(connection, 3) == (shown, 4)
        assert queries.unfinished(connection, 3, many=True) == (shown, 5)


def test_a_lost_batch_restores_rows_of_the_outbox(database: sa.Engine) -> None:
    ids = submit(database, 3)
    with database.begin() as connection:
        connection.exec_driver_sql("DELETE FROM outbox")
        again = ledger.reschedule(connection, dict.fromkeys(ids, 1), None, waiting=True, free=True)
        assert again == set(ids)
        assert len(outbox.take(connection, 10)) == len(ids)
