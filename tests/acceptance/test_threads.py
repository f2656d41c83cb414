"""A worker of threads: many tasks that wait at once, with the same guarantees as in processes."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Any

import celery
import httpx
import pytest

from tests.support.waiting import eventually

if TYPE_CHECKING:
    from tests.support.servers import Postgres, RabbitMQ
    from tests.support.stack import Stack

MINUTE = 60.0
# What tests/support/thread_tasks.py writes. It is not imported here: it would declare its queue for
# all tests.
TABLE = "CREATE TABLE notes (task_id uuid, attempt int, note text)"
THREADS = ("worker", "--pool", "threads", "--queues", "io", "--concurrency")


@pytest.fixture
def threaded(stack: Stack) -> Stack:
    """Give a stack with an API; its tests start a worker of threads."""
    stack.environment.update(TASK_MODULES="backend.tasks,tests.support.thread_tasks")
    stack.query(f"{TABLE}; SELECT 1")
    stack.start("api")
    return stack


def post(stack: Stack, name: str, count: int = 1, **arguments: object) -> list[str]:
    """Post a task many times; return the ids."""
    items = [{"name": name, "arguments": arguments}] * count
    answer = httpx.post(f"{stack.url}/tasks/batch", json=items, timeout=30)
    return [accepted["task_id"] for accepted in answer.json()["tasks"]]


def started(stack: Stack) -> object:
    return stack.scalar("SELECT count(*) FROM tasks WHERE state = 'STARTED'")


def notes(stack: Stack, task_id: str) -> list[tuple[int, str]]:
    found = stack.query("SELECT attempt, note FROM notes WHERE task_id = %s ORDER BY 1", task_id)
    return [(attempt, note) for attempt, note in found]


def result(stack: Stack, task_id: str) -> Any:  # noqa: ANN401 - JSON
    """Return the value of a task that has succeeded."""
    state = stack.state(task_id, wait=MINUTE)
    assert state["status"] == "SUCCESS", state
    return state["result"]


def test_one_process_runs_as_many_waiting_tasks_at_once_as_it_has_threads(threaded: Stack) -> None:
    worker = threaded.start(*THREADS, "60")
    post(threaded, "io_wait", 80, seconds=3)
    eventually(lambda: started(threaded) == 60, 10, "60 tasks run")
    assert worker.children() == [], "no process runs tasks"
    listed: Any = httpx.get(f"{threaded.url}/tasks/").json()
    assert sum(task["status"] == "ACTIVE" for task in listed["tasks"]) == 60
    eventually(lambda: threaded.unfinished() == 0, MINUTE, "all have ended")
    assert threaded.query("SELECT DISTINCT state, attempt FROM tasks") == [("SUCCESS", 1)]


def test_async_tasks_and_functions_end_as_in_processes(threaded: Stack) -> None:
    threaded.start(*THREADS, "10")
    for name in ("io_wait", "io_async"):
        (good,), (bad,) = post(threaded, name), post(threaded, name, fail=True)
        result(threaded, good)
        result(threaded, bad)
        assert [threaded.attempt(each) for each in (good, bad)] == [1, 2]
    (written,) = post(threaded, "io_write")
    result(threaded, written)
    assert notes(threaded, written) == [(1, "session")]
    (refused,) = post(threaded, "io_async_write")
    state = threaded.state(refused, wait=MINUTE)
    assert state["status"] == "FAILURE"
    assert "An async task cannot use run.session" in str(state["result"])
    (reporting,) = post(threaded, "io_report", seconds=3)
    eventually(lambda: _progress(threaded, reporting) == "1/2", 10, "it shows its progress")
    result(threaded, reporting)


def _progress(stack: Stack, task_id: str) -> Any:  # noqa: ANN401 - a text or None
    return httpx.get(f"{stack.url}/tasks/{task_id}").headers.get("Progress")


def test_an_async_task_runs_in_a_process_too(threaded: Stack) -> None:
    threaded.start("worker")
    (task_id,) = post(threaded, "ordinary_async", number=7)
    assert result(threaded, task_id)["number"] == 7


def test_sessions_are_used_by_20_threads_at_once(threaded: Stack) -> None:
    threaded.start(*THREADS, "40")
    ids = post(threaded, "io_write", 40, seconds=1.5)
    held = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND"
        " state = 'idle in transaction' AND query LIKE 'INSERT INTO notes%%'"
    )
    most = 0

    def ended() -> bool:
        nonlocal most
        most = max(most, int(str(threaded.scalar(held))))
        return threaded.unfinished() == 0

    eventually(ended, MINUTE, "all have ended")
    assert most == 20
    assert all(notes(threaded, each) == [(1, "session")] for each in ids)


def test_an_attempt_over_its_time_limit_no_longer_counts_although_its_thread_goes_on(
    threaded: Stack,
) -> None:
    threaded.start(*THREADS, "3")
    (task_id,) = post(threaded, "io_overrun", seconds=6, once=True)
    assert result(threaded, task_id)["number"] == 2
    assert notes(threaded, task_id) == [(2, "went on")]
    eventually(lambda: len(notes(threaded, task_id)) == 2, 10, "the first attempt has gone on")
    assert result(threaded, task_id)["number"] == 2
    # Its thread takes tasks again.
    post(threaded, "io_wait", 3, seconds=2)
    eventually(lambda: started(threaded) == 3, 10, "three run")


def test_an_async_attempt_over_its_time_limit_is_cancelled(threaded: Stack) -> None:
    threaded.start(*THREADS, "1")
    (task_id,) = post(threaded, "io_async", seconds=3600, once=True)
    assert result(threaded, task_id)["number"] == 2
    assert notes(threaded, task_id) == [(1, "cancelled")]


def test_a_coroutine_that_goes_on_after_it_was_cancelled_keeps_its_thread(
    threaded: Stack,
) -> None:
    threaded.start(*THREADS, "2")
    (task_id,) = post(threaded, "io_async_stubborn", seconds=3600, once=True)
    eventually(lambda: threaded.attempt(task_id) == 2, 10, "its first attempt was fenced")
    post(threaded, "io_wait", 4, seconds=0.5)
    most = 0

    def ended() -> bool:
        nonlocal most
        if not notes(threaded, task_id):
            most = max(most, int(str(started(threaded))))
        return threaded.unfinished() == 0

    eventually(ended, MINUTE, "all have ended")
    assert most == 1
    eventually(lambda: notes(threaded, task_id) == [(1, "went on")], 10, "it goes on")
    assert result(threaded, task_id)["number"] == 2


def test_an_exit_of_a_coroutine_ends_only_its_own_attempt(threaded: Stack) -> None:
    worker = threaded.start(*THREADS, "10")
    (other,) = post(threaded, "io_async", seconds=1.9)
    ids = [*post(threaded, "io_async_exit", fail=True), *post(threaded, "io_async_exit")]
    for task_id in ids:
        assert result(threaded, task_id)["number"] == 2
    assert (result(threaded, other)["number"], threaded.attempt(other)) == (1, 1)
    assert "an error in the event loop async tasks" in worker.log


def test_a_task_in_a_thread_can_terminate_a_process_that_it_has_forked(threaded: Stack) -> None:
    threaded.start(*THREADS, "2")
    (task_id,) = post(threaded, "io_fork")
    assert result(threaded, task_id)["number"] == -signal.SIGTERM


def test_a_revoke_while_postgresql_is_away_is_kept(threaded: Stack, postgres: Postgres) -> None:
    threaded.start(*THREADS, "2")
    ids = [*post(threaded, "io_write", seconds=2), *post(threaded, "io_async", seconds=1.5)]
    eventually(lambda: started(threaded) == 2, 10, "both run")
    postgres.stop("immediate")
    celery.Celery(broker=threaded.broker_url).control.revoke(ids, terminate=True)
    time.sleep(4)  # the functions end, and cannot write that
    postgres.start()
    for each in ids:
        eventually(lambda: _state(threaded, each) == "REVOKED", MINUTE, "it is recorded")  # noqa: B023


def _state(stack: Stack, task_id: str) -> object:
    return httpx.get(f"{stack.url}/tasks/{task_id}").json().get("status")


def test_a_revoked_attempt_no_longer_counts(threaded: Stack) -> None:
    threaded.start(*THREADS, "2")
    ids = [*post(threaded, "io_wait", seconds=3), *post(threaded, "io_async", seconds=1.5)]
    eventually(lambda: started(threaded) == 2, 10, "both run")
    celery.Celery(broker=threaded.broker_url).control.revoke(ids, terminate=True)
    for each in ids:
        assert threaded.state(each, wait=MINUTE)["status"] == "REVOKED"
    # Longer than what the fenced attempts still take.
    post(threaded, "io_wait", 2, seconds=8)
    eventually(lambda: started(threaded) == 2, 20, "both threads take tasks again")
    assert {threaded.state(each)["status"] for each in ids} == {"REVOKED"}


def test_a_worker_whose_threads_all_hang_ends_itself(threaded: Stack) -> None:
    worker = threaded.start(*THREADS, "2")
    ids = post(threaded, "io_hang", 2)
    assert worker.popen.wait(MINUTE) == 1
    assert "all 2 threads have attempts that were fenced" in worker.log
    assert [threaded.state(each, wait=10)["status"] for each in ids] == ["FAILURE"] * 2


def test_what_runs_in_threads_is_handed_back_when_the_worker_stops(threaded: Stack) -> None:
    threaded.environment["STOP_SECONDS"] = "3"
    threaded.start(*THREADS, "20")
    long = post(threaded, "io_wait", 10, seconds=3600)
    short = post(threaded, "io_wait", 5, seconds=2.5)
    eventually(lambda: started(threaded) == 15, 10, "15 tasks run")
    began = time.monotonic()
    threaded.stop("worker", timeout=10)
    assert time.monotonic() - began < 5
    rows = "SELECT DISTINCT state, attempt, max_attempts FROM tasks WHERE id = ANY(%s::uuid[])"
    assert threaded.query(rows, long) == [("RETRY", 2, 6)], "no attempt is used up"
    assert threaded.query(rows, short) == [("SUCCESS", 1, 5)], "they may end"


def test_tasks_of_a_killed_worker_of_threads_run_once_in_effect(threaded: Stack) -> None:
    for name in ("first", "second"):
        threaded.start(*THREADS, "20", name=name)
    ids = post(threaded, "io_write", 100, seconds=0.2)
    eventually(lambda: threaded.unfinished() < 80, MINUTE, "some have ended")
    threaded.kill("first")
    eventually(lambda: threaded.unfinished() == 0, MINUTE, "all have ended")
    assert threaded.query("SELECT DISTINCT state FROM tasks") == [("SUCCESS",)]
    assert all(len(notes(threaded, each)) == 1 for each in ids)


def test_a_worker_of_threads_survives_outages_of_the_broker_and_of_postgresql(
    threaded: Stack, postgres: Postgres, rabbitmq: RabbitMQ
) -> None:
    worker = threaded.start(*THREADS, "10")
    ids = post(threaded, "io_write", 60, seconds=0.3)
    eventually(lambda: threaded.unfinished() < 55, MINUTE, "some have ended")
    rabbitmq.stop()
    rabbitmq.start()
    eventually(lambda: threaded.unfinished() < 30, MINUTE, "more have ended")
    postgres.stop("immediate")
    postgres.start()
    eventually(lambda: threaded.unfinished() == 0, MINUTE, "all have ended")
    assert all(len(notes(threaded, each)) == 1 for each in ids)
    assert worker.popen.poll() is None
    post(threaded, "io_wait", 10, seconds=2)
    eventually(lambda: started(threaded) == 10, 20, "every thread takes tasks")


def test_a_limit_holds_in_threads(threaded: Stack) -> None:
    threaded.start(*THREADS, "20")
    post(threaded, "io_limited", 12, seconds=0.2)
    eventually(lambda: threaded.unfinished() == 0, MINUTE, "all have ended")
    counts = threaded.query(
        "SELECT sum(CASE note WHEN 'began' THEN 1 ELSE -1 END) OVER (ORDER BY ctid) FROM notes"
    )
    assert max(count for (count,) in counts) == 3


def test_a_worker_of_threads_takes_no_short_tasks(threaded: Stack) -> None:
    refused = threaded.launch("worker", "--pool", "threads", name="refused")
    assert refused.popen.wait(30) == 1
    assert "a worker of threads cannot run short_tasks" in refused.log
    threaded.environment.update(WORKER_POOL="threads", WORKER_QUEUES="tasks,io")
    threaded.start("worker")
    task_id = threaded.post("/tasks/slow?duration=0")
    assert threaded.state(task_id, wait=MINUTE)["status"] == "SUCCESS"
