"""A long task survives the loss of its process, worker or connection, and has one effect."""

from __future__ import annotations

import os
import signal
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.support.proxy import Proxy
from tests.support.servers import RabbitMQ, missing
from tests.support.stack import ONE_PROCESS, Stack
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.servers import Postgres

MINUTE = 60.0


def started(stack: Stack, task_id: str, timeout: float = 10) -> None:
    eventually(lambda: stack.state(task_id)["status"] == "STARTED", timeout, "the task has started")


def test_a_task_whose_process_is_killed_runs_again(stack: Stack) -> None:
    stack.start("api")
    worker = stack.start("worker", environment=ONE_PROCESS)
    task_id = stack.post("/tasks/slow?duration=3")
    started(stack, task_id)
    os.kill(worker.children()[0], signal.SIGKILL)
    assert stack.state(task_id, wait=MINUTE)["result"] == {
        "message": "Task completed after 3 seconds"
    }
    assert stack.attempt(task_id) == 2


def test_a_task_whose_worker_is_killed_runs_again_on_another(stack: Stack) -> None:
    stack.start("api")
    stack.start("worker", name="first")
    task_id = stack.post("/tasks/slow?duration=5")
    started(stack, task_id)
    children = stack["first"].children()
    stack.kill("first")
    stack.start("worker", name="second")
    assert stack.state(task_id, wait=MINUTE)["status"] == "SUCCESS"
    assert stack.attempt(task_id) == 2
    assert not any(os.path.exists(f"/proc/{child}/exe") for child in children)  # noqa: PTH110


def test_a_task_whose_worker_loses_the_broker_continues_and_succeeds_once(
    stack: Stack, rabbitmq: RabbitMQ
) -> None:
    with closing(Proxy("127.0.0.1", rabbitmq.port)) as proxy:
        stack.start("api")
        url = rabbitmq.url.replace(str(rabbitmq.port), str(proxy.port))
        stack.start("worker", environment={"CELERY_BROKER_URL": url, **ONE_PROCESS})
        task_id = stack.post("/tasks/slow?duration=8")
        started(stack, task_id)
        proxy.cut()
        assert stack.state(task_id, wait=MINUTE)["status"] == "SUCCESS"
    assert stack.attempt(task_id) == 1


def test_a_frozen_workers_attempt_has_no_effect_after_another_worker_took_over(
    odd_stack: Stack, tmp_path: Path
) -> None:
    stack = odd_stack
    go = tmp_path / "go"
    stack.start("api")
    frozen = stack.start("worker", name="frozen", environment=ONE_PROCESS)
    task_id = stack.post("/tasks/write_and_wait", {"text": str(go)})
    started(stack, task_id)
    pids = [frozen.popen.pid, *frozen.children()]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    stack.start("worker", name="successor")
    eventually(lambda: stack.attempt(task_id) == 2, MINUTE, "the task has its second attempt")
    # The frozen worker may have received the message; it is published again after 10 s.
    started(stack, task_id, MINUTE)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    go.touch()
    assert stack.state(task_id, wait=MINUTE)["result"] == {"text": "attempt 2"}
    written = stack.scalar("SELECT count(*) FROM messages WHERE task_id = %s", task_id)
    assert written == 1


def test_a_worker_kills_an_attempt_that_is_no_longer_current(
    odd_stack: Stack, tmp_path: Path
) -> None:
    stack = odd_stack
    stack.start("api")
    worker = stack.start("worker", environment=ONE_PROCESS)
    task_id = stack.post("/tasks/write_and_wait", {"text": str(tmp_path / "never")})
    started(stack, task_id)
    child = worker.children()[0]
    stack.query(
        "UPDATE tasks SET state = 'REVOKED', finished_at = now() WHERE id = %s RETURNING 1", task_id
    )
    eventually(lambda: child not in worker.children(), 15, "the task's process has been killed")
    next_id = stack.post("/tasks/write_and_wait", {"text": str(tmp_path)})
    assert stack.state(next_id, wait=MINUTE)["status"] == "SUCCESS"
    assert stack.state(task_id)["status"] == "REVOKED"


def test_a_superseded_attempt_is_killed_and_its_outcome_is_ignored(
    odd_stack: Stack, tmp_path: Path
) -> None:
    stack = odd_stack
    stack.start("api")
    worker = stack.start("worker", environment=ONE_PROCESS)
    go = tmp_path / "go"
    task_id = stack.post("/tasks/write_and_wait", {"text": str(go)})
    started(stack, task_id)
    child = worker.children()[0]
    stack.query(
        "WITH next AS (UPDATE tasks SET state = 'RETRY', attempt = 2 WHERE id = %s RETURNING id)"
        " INSERT INTO outbox (task_id, attempt) SELECT id, 2 FROM next RETURNING 1",
        task_id,
    )
    eventually(lambda: child not in worker.children(), 15, "the task's process has been killed")
    go.touch()
    assert stack.state(task_id, wait=MINUTE)["result"] == {"text": "attempt 2"}
    assert stack.attempt(task_id) == 2
    assert '"error"' not in worker.log


@pytest.mark.parametrize(
    ("name", "attempts"), [("kill_its_process", 5), ("kill_its_process_in_one_commit", 3)]
)
def test_a_task_that_always_kills_its_process_fails_after_its_attempts(
    odd_stack: Stack, name: str, attempts: int
) -> None:
    odd_stack.start("api")
    odd_stack.start("worker")
    task_id = odd_stack.post(f"/tasks/{name}", {})
    state = odd_stack.state(task_id, wait=MINUTE)
    assert state["status"] == "FAILURE"
    assert state["result"] == {"error": "The process running the task was lost"}
    assert odd_stack.attempt(task_id) == attempts


def test_short_tasks_in_a_batch_with_one_that_kills_its_process_succeed(
    odd_stack: Stack,
) -> None:
    odd_stack.start("api")
    good = [odd_stack.post("/tasks/", {"content": f"before {n}"}) for n in range(20)]
    killer = odd_stack.post("/tasks/kill_its_process_in_one_commit", {})
    good += [odd_stack.post("/tasks/", {"content": f"after {n}"}) for n in range(20)]
    odd_stack.start("worker", environment=ONE_PROCESS | {"WORKER_QUEUES": "short_tasks"})
    eventually(lambda: odd_stack.unfinished() == 0, MINUTE, "every task has ended")
    assert {"SUCCESS"} == {odd_stack.state(task_id)["status"] for task_id in good}
    assert odd_stack.scalar("SELECT count(*) FROM messages") == len(good)
    assert odd_stack.state(killer)["status"] == "FAILURE"


def test_short_tasks_in_a_batch_with_one_that_raises_succeed(
    odd_stack: Stack,
) -> None:
    odd_stack.start("api")
    good = [odd_stack.post("/tasks/", {"content": f"before {n}"}) for n in range(20)]
    bad = [odd_stack.post("/tasks/refuse_in_one_commit", {"text": str(n)}) for n in range(5)]
    good += [odd_stack.post("/tasks/", {"content": f"after {n}"}) for n in range(20)]
    odd_stack.start("worker", environment=ONE_PROCESS | {"WORKER_QUEUES": "short_tasks"})
    eventually(lambda: odd_stack.unfinished() == 0, MINUTE, "every task has ended")
    assert {"SUCCESS"} == {odd_stack.state(task_id)["status"] for task_id in good}
    assert odd_stack.scalar("SELECT count(*) FROM messages") == len(good)
    assert [{"error": str(n)} for n in range(5)] == [odd_stack.state(i)["result"] for i in bad]


def test_a_stopping_worker_hands_its_tasks_back_without_costing_an_attempt(
    stack: Stack,
) -> None:
    stack.start("api")
    stack.start("worker", name="first")
    task_id = stack.post("/tasks/slow?duration=20")
    started(stack, task_id)
    stack.stop("first", timeout=10)
    assert stack.state(task_id)["status"] == "RETRY"
    row = stack.query("SELECT attempt, max_attempts FROM tasks WHERE id = %s", task_id)
    assert row == [(2, 6)]
    stack.start("worker", name="second")
    assert stack.state(task_id, wait=MINUTE)["status"] == "SUCCESS"


def test_a_stopping_worker_lets_tasks_run_for_stop_seconds(stack: Stack) -> None:
    stack.start("api")
    stack.start("worker", environment={"STOP_SECONDS": "30"})
    ids = [stack.post("/tasks/slow?duration=8"), stack.post("/tasks/slow?duration=8")]
    for task_id in ids:
        started(stack, task_id)
    stack.stop("worker", timeout=30)
    assert [(stack.state(each)["status"], stack.attempt(each)) for each in ids] == [
        ("SUCCESS", 1),
        ("SUCCESS", 1),
    ]


def test_a_stopping_worker_hands_its_tasks_back_at_once_without_stop_seconds(
    stack: Stack,
) -> None:
    stack.start("api")
    stack.start("worker", environment={"STOP_SECONDS": "0", "WORKER_CONCURRENCY": "20"})
    ids = [stack.post("/tasks/slow?duration=60") for _ in range(20)]
    for task_id in ids:
        started(stack, task_id)
    # It ends its processes and hands back; the rest is the time that PostgreSQL may take.
    stack.stop("worker", timeout=4)
    costs = "SELECT DISTINCT state, attempt, max_attempts, error FROM tasks"
    assert stack.query(costs) == [("RETRY", 2, 6, None)]


@pytest.mark.timeout(300)
@pytest.mark.skipif(missing(RabbitMQ) != "", reason=missing(RabbitMQ))
def test_tasks_that_wait_beyond_the_consumer_timeout_run_once(
    postgres: Postgres, tmp_path: Path, *, thorough: bool
) -> None:
    limit, duration = (10, 30) if thorough else (3, 8)
    with (
        RabbitMQ(consumer_timeout_ms=limit * 1000) as broker,
        Stack(postgres.create_database(), broker.url, tmp_path) as stack,
    ):
        stack.start("api")
        settings = {**ONE_PROCESS, "LOG_LEVEL": "DEBUG"}
        worker = stack.start("worker", environment=settings)
        ids = [stack.post(f"/tasks/slow?duration={duration}") for _ in range(4)]
        eventually(lambda: stack.unfinished() == 0, 4 * duration + 60, "all tasks have ended")
        assert dict(stack.query("SELECT state, count(*) FROM tasks GROUP BY state")) == {
            "SUCCESS": 4
        }
        assert [stack.attempt(task_id) for task_id in ids] == [1] * 4
        assert worker.log.count("]: SUCCESS") == 4
        assert "PRECONDITION_FAILED" not in worker.log, "no message waits in the worker"
