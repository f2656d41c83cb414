"""`max_running`: at most so many at once, in all workers together, and never fewer for long."""

from __future__ import annotations

import os
import random
import signal
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx
import pytest

from tests.support.foreign import JSON, body_of, headers_of, send
from tests.support.limited_tasks import TABLE
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.stack import Stack

MINUTE = 60.0
AT_ONCE = "SELECT max(at_once) FROM runs"


@pytest.fixture
def limited_stack(stack: Stack) -> Stack:
    """Give a stack with the limited tasks and an API."""
    stack.environment.update(TASK_MODULES="backend.tasks,tests.support.limited_tasks")
    stack.query(f"{TABLE}; SELECT 1")
    stack.start("api")
    return stack


def post(stack: Stack, name: str, count: int, **arguments: object) -> list[str]:
    """Post a task many times; return the ids."""
    items = [{"name": name, "arguments": arguments}] * count
    answer = httpx.post(f"{stack.url}/tasks/batch", json=items, timeout=30)
    return [accepted["task_id"] for accepted in answer.json()["tasks"]]


def states(stack: Stack) -> dict[str, int]:
    """Return how many tasks are in each state."""
    return dict(stack.query("SELECT state, count(*) FROM tasks GROUP BY state"))


def test_no_more_than_max_running_run_at_once_in_two_workers(limited_stack: Stack) -> None:
    stack = limited_stack
    for name in ("first", "second"):
        stack.start("worker", name=name, environment={"WORKER_CONCURRENCY": "4"})
    post(stack, "limited", 20, seconds=0.2)
    post(stack, "limited", 20, seconds=0.05, write=True)
    post(stack, "limited", 5, seconds=0.05, fail=True)
    other = stack.post("/tasks/slow?duration=0")
    assert stack.state(other, wait=10)["status"] == "SUCCESS"
    eventually(lambda: stack.unfinished() == 0, MINUTE, "all tasks have ended")
    assert states(stack) == {"SUCCESS": 46}
    assert stack.scalar(AT_ONCE) == 3
    assert stack.scalar("SELECT max(attempt) FROM tasks WHERE args->>'fail' IS NULL") == 1


def test_what_waits_for_its_limit_is_reserved_and_counts_as_waiting(limited_stack: Stack) -> None:
    stack = limited_stack
    stack.start("worker", environment={"WORKER_CONCURRENCY": "4"})
    ids = post(stack, "limited", 8, seconds=30)
    parked = "SELECT count(*) FROM outbox WHERE due_at = 'infinity'"
    eventually(lambda: stack.scalar(parked) == 5, 10, "five wait")
    eventually(lambda: states(stack).get("STARTED") == 3, 10, "three run")
    answer: dict[str, Any] = httpx.get(f"{stack.url}/tasks/").json()
    listed = {task["task_id"]: task["status"] for task in answer["tasks"]}
    assert answer["total"] == 8
    assert [listed[each] for each in ids] == ["ACTIVE"] * 3 + ["RESERVED"] * 5
    assert [stack.state(each)["status"] for each in ids[3:]] == ["PENDING"] * 5
    stack.stop("worker")
    stack.kill("api")
    stack.environment["MAX_WAITING"] = "8"
    stack.start("api")
    eventually(lambda: states(stack) == {"RETRY": 3, "PENDING": 5}, 10, "all wait")
    eventually(lambda: _refused(stack), 10, "eight wait, so the next one is refused")


def _refused(stack: Stack) -> bool:
    return httpx.post(f"{stack.url}/tasks/slow").status_code == 429


def test_customers_take_turns(limited_stack: Stack) -> None:
    stack = limited_stack
    stack.start("worker", environment={"WORKER_CONCURRENCY": "4"})
    for _ in range(5):
        post(stack, "fair", 1000, customer="large", seconds=0.05)
    (single,) = post(stack, "fair", 1, customer="small")
    assert stack.state(single, wait=20)["status"] == "SUCCESS"
    assert stack.unfinished() > 4000, "it did not wait for the tasks of the other customer"
    assert stack.scalar(AT_ONCE) == 2


def _kill_child(stack: Stack, worker: str) -> None:
    children = stack[worker].children()
    if children:
        os.kill(random.choice(children), signal.SIGKILL)


def _kill_worker(stack: Stack, worker: str) -> None:
    stack.kill(worker)
    stack.start("worker", name=worker)


def _stop_worker(stack: Stack, worker: str) -> None:
    stack.stop(worker)
    stack.start("worker", name=worker)


def _kill_api(stack: Stack, worker: str) -> None:  # noqa: ARG001 - as the others
    stack.kill("api")
    stack.start("api")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kill", [_kill_child, _kill_worker, _stop_worker, _kill_api])
def test_under_kills_the_limit_is_kept_and_nothing_sticks(
    limited_stack: Stack, kill: Callable[[Stack, str], None]
) -> None:
    stack = limited_stack
    for name in ("first", "second"):
        stack.start("worker", name=name)
    post(stack, "limited", 60, seconds=0.1, write=True)
    for turn in range(4):
        _await_ended(stack, turn * 10)
        kill(stack, random.choice(["first", "second"]))
    eventually(lambda: stack.unfinished() == 0, 2 * MINUTE, "all tasks have ended")
    assert states(stack) == {"SUCCESS": 60}
    assert stack.scalar("SELECT count(*) FROM runs WHERE ended IS NOT NULL") == 60
    assert stack.query(AT_ONCE)[0][0] <= 3


def _await_ended(stack: Stack, least: int) -> None:
    eventually(lambda: states(stack).get("SUCCESS", 0) >= least, MINUTE, "some have ended")


def test_an_end_lets_the_next_one_run_without_the_reconciler(limited_stack: Stack) -> None:
    stack = limited_stack
    stack.start("worker", environment={"WORKER_CONCURRENCY": "4"})
    post(stack, "limited", 120, seconds=0)
    # Forty rounds of three. The reconciler would need 80 s.
    eventually(lambda: stack.unfinished() == 0, 40, "all have ended")
    assert '"error"' not in stack["api"].log, "a batch of which all is parked is no error"


def test_tasks_of_a_limit_that_was_removed_run(limited_stack: Stack) -> None:
    stack = limited_stack
    ids = post(stack, "slow", 3, duration=0)
    parked = "UPDATE outbox SET due_at = 'infinity', published_at = NULL, limit_key = 'slow'"
    stack.query(f"{parked} RETURNING 1")
    stack.start("worker")
    for each in ids:
        assert stack.state(each, wait=20)["status"] == "SUCCESS"


def test_an_external_task_waits_for_its_limit_too(limited_stack: Stack) -> None:
    stack = limited_stack
    # First, since the queue must exist: the broker drops a message that no queue receives.
    stack.start("worker", environment={"WORKER_CONCURRENCY": "6"})
    for _ in range(10):
        headers = headers_of(str(uuid4()), name="limited")
        send(stack, body_of(ours=False, seconds=1), JSON, headers)
    eventually(lambda: states(stack).get("SUCCESS", 0) >= 10, MINUTE, "all have ended")
    assert states(stack) == {"SUCCESS": 10}
    assert stack.scalar(AT_ONCE) == 3
