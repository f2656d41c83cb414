"""Tasks that SQL or another task has submitted: processes are killed, and each task runs."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.acceptance.test_series import all_ended, begun, post
from tests.support.stack import ONE_PROCESS
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.stack import Stack

MINUTE = 60.0
KILLS = 20


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Give the file to which each attempt adds a line."""
    return tmp_path / "begun"


def submit(stack: Stack, name: str, **arguments: object) -> str:
    """Submit a task by SQL; return its id."""
    return str(stack.scalar("SELECT tasks_submit(%s, %s)", name, json.dumps(arguments)))


def test_a_task_killed_after_its_submission_writes_and_submits_once(
    odd_stack: Stack, file: Path
) -> None:
    stack = odd_stack
    stack.start("api")
    stack.start("worker")
    ids = post(stack, file, ["write, submit, kill its process"] * KILLS)
    assert set(all_ended(stack, ids, 2 * MINUTE).values()) == {("SUCCESS", 2)}
    everything = [str(row[0]) for row in stack.query("SELECT id FROM tasks")]
    submitted = sorted(set(everything) - set(ids))
    assert len(submitted) == KILLS
    assert set(all_ended(stack, submitted).values()) == {("SUCCESS", 1)}
    assert begun(file) == Counter(dict.fromkeys(ids, 2) | dict.fromkeys(submitted, 1))
    written = [str(row[0]) for row in stack.query("SELECT task_id FROM messages")]
    assert sorted(written) == sorted(ids)


def test_a_task_submitted_by_sql_is_like_one_that_was_posted(odd_stack: Stack) -> None:
    stack = odd_stack
    stack.start("api")
    task_id = submit(stack, "insert_message", content="from SQL")
    listed = httpx.get(f"{stack.url}/tasks/").json()
    assert listed == {"tasks": [{"task_id": task_id, "status": "RESERVED"}], "total": 1}
    assert stack.state(task_id) == {"task_id": task_id, "status": "PENDING", "result": None}
    stack.start("worker")
    state = stack.state(task_id, wait=MINUTE)
    assert state["status"] == "SUCCESS"
    assert stack.query("SELECT CAST(task_id AS text), content FROM messages") == [
        (task_id, "from SQL")
    ]


def test_a_name_that_no_worker_knows_waits_and_delays_no_other_task(odd_stack: Stack) -> None:
    stack = odd_stack
    stack.start("api")
    worker = stack.start("worker")
    unknown = submit(stack, "not_deployed_yet")
    known = submit(stack, "note", text="x")
    assert stack.state(known, wait=MINUTE)["status"] == "SUCCESS"
    eventually(lambda: "not_deployed_yet" in worker.log, 20, "the worker has dropped its message")
    assert stack.state(unknown)["status"] == "PENDING"


@pytest.mark.parametrize(
    ("name", "what", "end"),
    [
        ("step_once", "kill its process", ("FAILURE", 1)),
        ("step_once", "kill its worker", ("FAILURE", 1)),
        ("step", "kill its process", ("SUCCESS", 2)),
    ],
)
def test_a_task_submitted_by_sql_has_the_attempts_that_it_declares(
    odd_stack: Stack, file: Path, name: str, what: str, end: tuple[str, int]
) -> None:
    stack = odd_stack
    stack.start("api")
    for worker in ("first", "second"):
        stack.start("worker", name=worker, environment=ONE_PROCESS)
    task_id = submit(stack, name, file=str(file), what=what)
    assert all_ended(stack, [task_id]) == {task_id: end}
    assert begun(file) == {task_id: end[1]}
