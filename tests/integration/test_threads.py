"""Attempts in threads: their claims and outcomes share transactions, and each counts for itself."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from pydantic import BaseModel

from backend.db import ledger, session
from backend.errors import AtLimit, StoreUnavailable
from backend.task import Run, Task
from backend.worker.attempt import thread
from tests.support.attempts import attempt_of
from tests.support.ledger import lock_waiters, submit
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

LEASE = (
    "INSERT INTO workers (name, renewed_at, expires_at, holds)"
    " VALUES ('w', now(), now() + interval '1 min', '{}')"
)


# How long a statement waits for a lock.
LOCK_SECONDS = 5


class Text(BaseModel):
    """A value."""

    text: str = ""


@pytest.fixture
def commits(service: sa.Engine) -> Iterator[thread.SharedCommits]:
    """Give what the threads of a worker share."""
    del service
    made = thread.SharedCommits()
    yield made
    made.close()


def start(
    commits: thread.SharedCommits,
    task_ids: Sequence[str],
    function: Callable[[Text, Run], Text],
) -> list[threading.Thread]:
    """Start a thread for an attempt of each task."""
    spec = Task("slow", function, Text)
    threads = []
    for task_id in task_ids:
        attempt = attempt_of(spec, task_id, "{}")
        threads.append(threading.Thread(target=thread.run_attempt, args=(attempt, commits)))
        threads[-1].start()
    return threads


def join(threads: Sequence[threading.Thread], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    for each in threads:
        each.join(max(0, deadline - time.monotonic()))
        assert not each.is_alive()


def states(service: sa.Engine) -> dict[str, str]:
    """Return each task's state by its id."""
    with service.connect() as connection:
        found = connection.exec_driver_sql("SELECT CAST(id AS text), state FROM tasks")
        return {row[0]: row[1] for row in found}


def execute(service: sa.Engine, sql: str) -> None:
    with service.begin() as connection:
        connection.exec_driver_sql(sql)


def echo(args: Text, run: Run) -> Text:  # noqa: ARG001 - a task's signature
    return args


def test_claims_that_gather_while_one_commits_share_a_transaction(
    service: sa.Engine, commits: thread.SharedCommits
) -> None:
    execute(service, LEASE)
    task_ids = submit(service, 20)
    claims = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if "SET state = 'STARTED'" in statement:
            claims.append(statement)

    sa.event.listen(session.engine(), "before_cursor_execute", note)
    waiting: Any = commits._claims._waiting
    with service.begin() as connection:
        connection.exec_driver_sql("LOCK TABLE tasks IN EXCLUSIVE MODE")
        # The first one alone, so that the others gather behind it.
        first = start(commits, task_ids[:1], echo)
        eventually(lambda: len(claims) == 1, 10, "the first claim waits for the lock")
        others = start(commits, task_ids[1:], echo)
        eventually(lambda: len(waiting) == 19, 10, "the others gather")
    join([*first, *others])
    assert len(claims) == 2
    assert set(states(service).values()) == {"SUCCESS"}


def test_an_attempt_with_a_limit_waits_for_the_running_one(
    service: sa.Engine, commits: thread.SharedCommits
) -> None:
    execute(service, LEASE)
    spec = Task("slow", echo, Text, max_running=1)
    first, second = (attempt_of(spec, each, "{}") for each in submit(service, 2))
    commits.claim(first)
    with pytest.raises(AtLimit):
        commits.claim(second)
    assert states(service) == {first.id: "STARTED", second.id: "PENDING"}


def test_two_deliveries_of_an_attempt_in_one_batch_run_once(
    service: sa.Engine, commits: thread.SharedCommits
) -> None:
    execute(service, LEASE)
    before, task_id = submit(service, 2)
    ran = []

    def work(args: Text, run: Run) -> Text:
        ran.append(run.task_id)
        return args

    waiting: Any = commits._claims._waiting
    with service.begin() as connection:
        connection.exec_driver_sql("LOCK TABLE tasks IN EXCLUSIVE MODE")
        first = start(commits, [before], work)
        eventually(lambda: not waiting and lock_waiters(service), 10, "the first claim waits")
        both = start(commits, [task_id, task_id], work)
        eventually(lambda: len(waiting) == 2, 10, "both gather")
    join([*first, *both])
    assert sorted(ran) == [before, task_id]


def test_a_locked_row_does_not_delay_the_claims_of_others(
    service: sa.Engine, commits: thread.SharedCommits
) -> None:
    execute(service, LEASE)
    locked, *others = submit(service, 5)
    with service.begin() as connection:
        connection.execute(
            sa.text("SELECT 1 FROM tasks WHERE id = CAST(:id AS uuid) FOR UPDATE"), {"id": locked}
        )
        waiting = start(commits, [locked], echo)
        eventually(lambda: lock_waiters(service), 10, "its claim waits alone")
        join(start(commits, others, echo), LOCK_SECONDS - 1)
        assert [states(service)[each] for each in others] == ["SUCCESS"] * 4
    join(waiting)
    assert states(service)[locked] == "SUCCESS"


@pytest.mark.parametrize("error", [ValueError("late"), StoreUnavailable()])
def test_a_fenced_attempt_records_no_error(
    service: sa.Engine, commits: thread.SharedCommits, error: Exception
) -> None:
    execute(service, LEASE)
    (task_id,) = submit(service)

    def fail(args: Text, run: Run) -> Text:  # noqa: ARG001 - a task's signature
        attempt.fenced = True
        raise error

    attempt = attempt_of(Task("slow", fail, Text), task_id, "{}")
    thread.run_attempt(attempt, commits)
    assert states(service) == {task_id: "STARTED"}, "the parent process ends it"


def test_an_attempt_that_was_fenced_during_its_claim_does_not_run(
    service: sa.Engine, commits: thread.SharedCommits
) -> None:
    execute(service, LEASE)
    (task_id,) = submit(service)
    ran = []

    def work(args: Text, run: Run) -> Text:
        ran.append(run.task_id)
        return args

    attempt = attempt_of(Task("slow", work, Text), task_id, "{}")
    attempt.fenced = True
    thread.run_attempt(attempt, commits)
    assert (states(service), ran) == ({task_id: "STARTED"}, [])


def test_a_claim_without_a_lease_waits_for_the_lease(
    service: sa.Engine, commits: thread.SharedCommits, monkeypatch: pytest.MonkeyPatch
) -> None:
    (task_id,) = submit(service)
    refused = threading.Event()
    claim_all = commits._claim_similar

    def claim(attempts: Any, declared: int) -> Any:  # noqa: ANN401 - as it has them
        try:
            return claim_all(attempts, declared)
        finally:
            refused.set()

    monkeypatch.setattr(commits, "_claim_similar", claim)
    threads = start(commits, [task_id], echo)
    assert refused.wait(10)
    assert states(service) == {task_id: "PENDING"}
    execute(service, LEASE)
    join(threads)
    assert states(service) == {task_id: "SUCCESS"}


def test_outcomes_that_cannot_be_written_together_are_each_written_alone(
    service: sa.Engine, commits: thread.SharedCommits, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(service, LEASE)
    task_ids = submit(service, 6)
    finish_all = ledger.finish

    def finish(*args: Any, **options: Any) -> frozenset[str]:
        if threading.current_thread().name == "outcomes":
            raise ValueError("one of them is wrong")
        return finish_all(*args, **options)

    monkeypatch.setattr(ledger, "finish", finish)
    join(start(commits, task_ids, echo))
    assert set(states(service).values()) == {"SUCCESS"}
