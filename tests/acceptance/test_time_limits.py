"""A task that exceeds its time limit is killed; the error names the line in which it was."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.support.stack import ROOT
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from tests.support.stack import Stack

MINUTE = 60.0
TASKS = "tests/support/tasks.py"


def line_of(code: str) -> int:
    """Return the number of the line of the tests' tasks that has this code."""
    lines = enumerate((ROOT / TASKS).read_text().splitlines(), start=1)
    (found,) = (number for number, line in lines if code in line)
    return found


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("overrun", "threading.Event().wait(60)"),
        ("overrun_in_one_commit", "threading.Event().wait(60)"),
        ("compute_and_overrun", "sum(range(10**12))"),
    ],
)
def test_a_task_that_exceeds_its_time_limit_is_killed_and_fails(
    odd_stack: Stack, name: str, code: str
) -> None:
    odd_stack.start("api")
    odd_stack.start("worker")
    task_id = odd_stack.post(f"/tasks/{name}", {})
    state = odd_stack.state(task_id, wait=MINUTE)
    assert state["status"] == "FAILURE"
    error = f"The task took longer than its time limit of 2 seconds; it was in {TASKS}, line "
    assert state["result"] == {"error": f"{error}{line_of(code)}"}


def test_a_task_of_a_series_that_exceeds_its_time_limit_is_retried_with_its_line(
    odd_stack: Stack,
) -> None:
    stack = odd_stack
    stack.start("api")
    items = [{"name": "slow", "arguments": {"duration": 0}}] * 3
    items += [{"name": "overrun_in_a_series", "arguments": {}}]
    answer = httpx.post(f"{stack.url}/tasks/batch", json=items, timeout=20)
    task_id = answer.json()["tasks"][-1]["task_id"]
    stack.start("worker", environment={"WORKER_CONCURRENCY": "1"})
    eventually(lambda: stack.attempt(task_id) == 2, MINUTE, "the first attempt was killed")
    error = stack.scalar("SELECT error FROM tasks WHERE id = %s", task_id)
    line = f"{TASKS}, line {line_of('threading.Event().wait(60)')}"
    assert error == f"The task took longer than its time limit of 1 seconds; it was in {line}"


def test_the_line_is_the_tasks_own_also_while_it_waits_in_a_library(odd_stack: Stack) -> None:
    odd_stack.start("api")
    odd_stack.start("worker")
    arguments = {"file": str(odd_stack.folder / "effect")}
    task_id = odd_stack.post("/tasks/start_subprocess_and_overrun", arguments)
    state: Any = odd_stack.state(task_id, wait=MINUTE)
    named = re.search(rf"of 1 seconds; it was in {TASKS}, line (\d+)$", state["result"]["error"])
    assert named is not None, state
    assert 0 <= int(named[1]) - line_of("subprocess.run(") <= 2


def test_without_the_line_the_error_is_the_time_limit_alone(odd_stack: Stack) -> None:
    """A frozen process cannot answer, and is killed in time all the same."""
    odd_stack.start("api")
    odd_stack.start("worker")
    task_id = odd_stack.post("/tasks/freeze_and_overrun", {})
    state = odd_stack.state(task_id, wait=MINUTE)
    assert state["result"] == {"error": "The task took longer than its time limit of 2 seconds"}


def test_a_task_can_end_in_order_when_its_time_limit_is_near(odd_stack: Stack) -> None:
    odd_stack.start("api")
    odd_stack.start("worker")
    task_id = odd_stack.post("/tasks/nearly_overrun", {"text": "catch it"})
    state = odd_stack.state(task_id, wait=MINUTE)
    assert (state["status"], state["result"]) == ("SUCCESS", {"text": "3 1 False"})
    written = "SELECT content FROM messages WHERE task_id = %s"
    assert odd_stack.query(written, task_id) == [("written before TimeUp",)]


def test_a_task_that_ignores_that_its_time_limit_is_near_fails_with_its_line(
    odd_stack: Stack,
) -> None:
    odd_stack.start("api")
    odd_stack.start("worker")
    ids = [odd_stack.post("/tasks/nearly_overrun", {}) for _ in range(2)]
    error = "The task nearly reached its time limit of 3 seconds; it was in "
    place = f"{TASKS}, line {line_of('threading.Event().wait(20)')}"
    for task_id in ids:
        state = odd_stack.state(task_id, wait=MINUTE)
        assert (state["status"], state["result"]) == ("FAILURE", {"error": f"{error}{place}"})
    assert odd_stack.scalar("SELECT count(*) FROM messages") == 0
    # The processes go on.
    started = odd_stack["worker"].children()
    assert odd_stack.state(odd_stack.post("/tasks/add_up", [1, 2]), wait=MINUTE)["result"] == 3
    assert odd_stack["worker"].children() == started


def test_a_task_sees_that_its_worker_stops(odd_stack: Stack) -> None:
    odd_stack.environment["STOP_SECONDS"] = "8"
    odd_stack.start("api")
    odd_stack.start("worker")
    ids = [odd_stack.post("/tasks/until_the_stop", {}) for _ in range(2)]
    for task_id in ids:
        eventually(lambda: odd_stack.state(task_id)["status"] == "STARTED", 10, "it runs")  # noqa: B023
    odd_stack.stop("worker")
    for task_id in ids:
        state: Any = odd_stack.state(task_id)
        assert state["status"] == "SUCCESS", state
        assert int(state["result"]["text"]) in {7, 8}
