"""MAX_TASKS_PER_CHILD and MAX_MEMORY_PER_CHILD: replacing a pool process costs no attempt."""

from __future__ import annotations

import os
import signal
from collections import Counter
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.support.servers import RabbitMQ
from tests.support.stack import Stack
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.servers import Postgres, Redis

MINUTE = 60.0
FAILS = {"text": "an error without text"}


@pytest.fixture(params=["rabbitmq", "redis"])
def either_stack(
    request: pytest.FixtureRequest, postgres: Postgres, tmp_path: Path
) -> Iterator[Stack]:
    """Give a stack with the tests' own tasks, on each kind of broker."""
    broker: RabbitMQ | Redis = request.getfixturevalue(f"{request.param}_server")
    broker.start()
    url = postgres.create_database()
    with Stack(url, broker.url, tmp_path, module="tests.support.service") as made:
        yield made
    if isinstance(broker, RabbitMQ):
        broker.delete_all_queues()
    else:
        broker.stop()


def post(stack: Stack, name: str, count: int, **arguments: object) -> list[str]:
    """Post a task many times; return the ids."""
    items = [{"name": name, "arguments": arguments}] * count
    answer = httpx.post(f"{stack.url}/tasks/batch", json=items, timeout=20)
    return [accepted["task_id"] for accepted in answer.json()["tasks"]]


def attempts(stack: Stack) -> Counter[tuple[str, str, int]]:
    """Count the tasks by name, state and attempt."""
    counted = "SELECT name, state, attempt FROM tasks"
    return Counter((name, state, attempt) for name, state, attempt in stack.query(counted))


def test_a_pool_process_is_replaced_after_max_tasks_without_costing_an_attempt(
    either_stack: Stack,
) -> None:
    stack = either_stack
    stack.start("api")
    worker = stack.start("worker", environment={"MAX_TASKS_PER_CHILD": "3"})
    ids = post(stack, "leak", 12)
    post(stack, "insert_message", 300, content="short")
    post(stack, "slow", 4, duration=0)
    post(stack, "raise_anything", 2, **FAILS)
    post(stack, "raise_in_one_commit", 2, **FAILS)
    eventually(lambda: stack.unfinished() == 0, MINUTE, "all tasks have ended")
    assert attempts(stack) == {
        ("leak", "SUCCESS", 1): 12,
        ("insert_message", "SUCCESS", 1): 300,
        ("slow", "SUCCESS", 1): 4,
        ("raise_anything", "FAILURE", 1): 2,
        ("raise_in_one_commit", "FAILURE", 1): 2,
    }
    assert stack.scalar("SELECT count(*) FROM messages") == 300
    ran = Counter(results(stack, ids))
    assert max(ran.values()) <= 3
    errors = [line for line in worker.log.splitlines() if '"error"' in line]
    assert [line for line in errors if "raised" not in line] == []


def results(stack: Stack, ids: list[str]) -> list[int]:
    """Return the ids of the processes in which the tasks ran."""
    found: list[Any] = [stack.state(task_id)["result"] for task_id in ids]
    return [result["pid"] for result in found]


def test_a_pool_process_over_its_memory_limit_is_replaced_after_its_task(odd_stack: Stack) -> None:
    stack = odd_stack
    stack.start("api")
    limit = {"MAX_MEMORY_PER_CHILD": "400", "WORKER_CONCURRENCY": "1"}
    worker = stack.start("worker", environment=limit)
    ids = post(stack, "leak", 12, mib=100)
    eventually(lambda: stack.unfinished() == 0, MINUTE, "all tasks have ended")
    assert attempts(stack) == {("leak", "SUCCESS", 1): 12}
    ran = Counter(results(stack, ids))
    assert 1 < max(ran.values()) <= 4, "a process is replaced only above its limit"
    assert '"error"' not in worker.log


def test_a_pool_process_that_is_too_large_from_its_start_runs_one_task(odd_stack: Stack) -> None:
    stack = odd_stack
    stack.start("api")
    stack.start("worker", environment={"MAX_MEMORY_PER_CHILD": "1", "WORKER_CONCURRENCY": "1"})
    ids = post(stack, "leak", 3)
    eventually(lambda: stack.unfinished() == 0, MINUTE, "all tasks have ended")
    assert attempts(stack) == {("leak", "SUCCESS", 1): 3}
    assert len(set(results(stack, ids))) == 3


def test_a_worker_whose_pool_processes_are_being_replaced_stops_without_losing_attempts(
    odd_stack: Stack,
) -> None:
    stack = odd_stack
    stack.start("api")
    limit = {"MAX_TASKS_PER_CHILD": "1"}
    stack.start("worker", environment=limit)
    post(stack, "slow", 15, duration=0)
    (held,) = post(stack, "hold", 1, folder=str(stack.folder))
    eventually(lambda: stack.state(held)["status"] == "STARTED", MINUTE, "the task runs")
    eventually(
        lambda: attempts(stack)["slow", "SUCCESS", 1] > 2, MINUTE, "pool processes are replaced"
    )
    assert stack.stop("worker") == 0
    (stack.folder / "go").touch()
    stack.start("worker", environment=limit)
    eventually(lambda: stack.unfinished() == 0, MINUTE, "all tasks have ended")
    costs = "SELECT count(*) FROM tasks WHERE state = 'SUCCESS' AND max_attempts - attempt = 4"
    assert stack.scalar(costs) == 16, "a hand-back adds one to attempt and to max_attempts"


def test_a_kill_while_other_processes_are_replaced_costs_only_its_own_task_an_attempt(
    odd_stack: Stack,
) -> None:
    stack = odd_stack
    stack.start("api")
    stack.start("worker", environment={"MAX_TASKS_PER_CHILD": "1"})
    (held,) = post(stack, "hold", 1, folder=str(stack.folder))
    eventually(lambda: stack.state(held)["status"] == "STARTED", MINUTE, "the task runs")
    post(stack, "slow", 10, duration=0)
    eventually(
        lambda: attempts(stack)["slow", "SUCCESS", 1] > 2, MINUTE, "pool processes are replaced"
    )
    os.kill(int((stack.folder / "pid").read_text()), signal.SIGKILL)
    (stack.folder / "go").touch()
    eventually(lambda: stack.unfinished() == 0, MINUTE, "all tasks have ended")
    assert attempts(stack) == {("hold", "SUCCESS", 2): 1, ("slow", "SUCCESS", 1): 10}
