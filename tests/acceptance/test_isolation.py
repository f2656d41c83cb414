"""Kinds of tasks that do not delay each other: short tasks, and queues of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import kombu
import pytest

from tests.support.waiting import eventually

if TYPE_CHECKING:
    from tests.support.stack import Stack

MINUTE = 60.0
QUEUES = {"TASK_MODULES": "backend.tasks,tests.support.queue_tasks"}


def degraded(stack: Stack) -> list[str]:
    """Return what /health/ready says is degraded."""
    answer: dict[str, Any] = httpx.get(f"{stack.url}/health/ready", timeout=10).json()
    return list(answer["degraded"])


def post_slow(stack: Stack, count: int) -> None:
    """Post tasks that take longer than a test."""
    items = [{"name": "slow", "arguments": {"duration": 120}}] * count
    assert httpx.post(f"{stack.url}/tasks/batch", json=items, timeout=20).status_code == 202


def busy(stack: Stack, count: int) -> bool:
    """Return whether this many tasks are STARTED."""
    return bool(stack.scalar("SELECT count(*) FROM tasks WHERE state = 'STARTED'") == count)


def test_messages_do_not_wait_for_the_slow_tasks_before_them(stack: Stack) -> None:
    stack.start("api")
    stack.start("worker")
    post_slow(stack, 50)
    eventually(lambda: busy(stack, 2), 20, "as many slow tasks as allowed run")
    for number in range(5):
        message = stack.post("/tasks/", {"content": str(number)})
        assert stack.state(message, wait=10)["status"] == "SUCCESS"
    assert busy(stack, 2)


def test_tasks_do_not_wait_for_a_worker_that_is_busy_with_long_ones(stack: Stack) -> None:
    stack.start("api")
    stack.start("worker", name="busy")
    hours = [stack.post("/tasks/slow?duration=3600") for _ in range(2)]
    eventually(lambda: busy(stack, 2), 20, "each process has a long task")
    stack.start("worker", name="idle")
    message = {"name": "insert_message", "arguments": {"content": "x"}}
    slow = {"name": "slow", "arguments": {"duration": 0}}
    answer = httpx.post(f"{stack.url}/tasks/batch", json=[message, slow] * 500, timeout=20)
    assert answer.status_code == 202
    answer = httpx.post(f"{stack.url}/tasks/batch", json=[slow, message] * 500, timeout=20)
    assert answer.status_code == 202
    eventually(lambda: stack.unfinished() == len(hours), MINUTE, "only the long tasks are left")
    done = "SELECT name, state, count(*) FROM tasks WHERE state <> 'STARTED' GROUP BY 1, 2"
    assert sorted(stack.query(done)) == [
        ("insert_message", "SUCCESS", 1000),
        ("slow", "SUCCESS", 1000),
    ]
    assert busy(stack, len(hours))


def test_a_later_attempt_of_a_short_task_does_not_wait_for_slow_tasks(odd_stack: Stack) -> None:
    stack = odd_stack
    stack.start("api")
    stack.start("worker", environment={"WORKER_CONCURRENCY": "1"})
    post_slow(stack, 10)
    eventually(lambda: busy(stack, 1), 20, "a slow task runs")
    killer = stack.post("/tasks/kill_its_process_in_one_commit", {})
    assert stack.state(killer, wait=MINUTE)["status"] == "FAILURE"
    assert stack.attempt(killer) == 3
    assert busy(stack, 1)


def test_a_worker_runs_only_the_tasks_of_its_queues(stack: Stack) -> None:
    stack.environment.update(QUEUES)
    stack.start("api")
    stack.start("worker", "--queues", "reports", "--concurrency", "1", "--name", "reports")
    ids = {
        "report": stack.post("/tasks/report", {"about": "a"}),
        "slow": stack.post("/tasks/slow?duration=0"),
        "message": stack.post("/tasks/", {"content": "b"}),
    }
    assert stack.state(ids["report"], wait=20)["result"] == {"about": "a"}
    assert stack.scalar("SELECT count(*) FROM workers WHERE name LIKE 'reports-%%'") == 1
    idle = "no worker consumes the queue {}: its tasks wait; start a worker with it in"
    assert [line.partition(" WORKER")[0] for line in degraded(stack)] == [
        idle.format("tasks"),
        idle.format("short_tasks"),
    ]
    assert {stack.state(ids[kind])["status"] for kind in ("slow", "message")} == {"PENDING"}
    stack.start("worker", name="other")
    for kind in ("slow", "message"):
        assert stack.state(ids[kind], wait=20)["status"] == "SUCCESS"
    assert degraded(stack) == []
    stack.stop("worker")
    eventually(lambda: degraded(stack) != [], 20, "the queue is named")
    assert [line.partition(" WORKER")[0] for line in degraded(stack)] == [idle.format("reports")]


def test_a_queue_that_no_task_has_ends_a_worker_at_its_start(stack: Stack) -> None:
    worker = stack.launch("worker", "--queues", "tasks,report")
    assert worker.popen.wait(20) == 1
    assert "WORKER_QUEUES names report, which no task has as its queue" in worker.log
    assert "Traceback" not in worker.log


@pytest.mark.parametrize("queue", ["reports", "tasks"])
def test_tasks_that_the_broker_has_lost_come_back_to_their_queue(stack: Stack, queue: str) -> None:
    stack.environment.update(QUEUES)
    stack.start("api")
    stack.start("worker", "--queues", "short_tasks", name="other")
    item = {"name": "report", "arguments": {"about": "a"}}
    if queue == "tasks":
        item = {"name": "slow", "arguments": {"duration": 0}}
    answer = httpx.post(f"{stack.url}/tasks/batch", json=[item], timeout=20).json()
    task_id = answer["tasks"][0]["task_id"]
    published = "SELECT queue FROM outbox WHERE published_at IS NOT NULL"
    eventually(lambda: stack.query(published) == [(queue,)], 10, "the task is published")
    with kombu.Connection(stack.broker_url) as connection:
        channel: Any = connection.default_channel  # missing in the stubs
        assert channel.queue_purge(queue) == 1
    stack.query("UPDATE outbox SET published_at = published_at - interval '20 s' RETURNING 1")
    stack.start("worker", "--queues", queue)
    assert stack.state(task_id, wait=MINUTE)["status"] == "SUCCESS"
    assert stack.attempt(task_id) == 1
