"""Processes that a task starts with multiprocessing or os.fork."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.process_tasks import FORKS, WAYS
from tests.support.stack import Stack

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.servers import Postgres, RabbitMQ

MINUTE = 60.0


def test_a_task_can_use_multiprocessing(odd_stack: Stack) -> None:
    stack = odd_stack
    stack.start("api")
    stack.start("worker")
    methods = ["fork", "spawn", "forkserver"]
    ways = [f"{way}, {method}" for way in WAYS for method in methods]
    ids = {way: stack.post("/tasks/use_multiprocessing", {"way": way}) for way in ways}
    results = {way: stack.state(task_id, wait=MINUTE)["result"] for way, task_id in ids.items()}
    assert results == {
        way: {"squares": [-15 if way.startswith("terminate") else 9]} for way in ways
    }


def test_a_fork_of_a_tasks_process_reports_nothing_and_does_not_use_its_connection(
    odd_stack: Stack,
) -> None:
    stack = odd_stack
    stack.start("api")
    worker = stack.start("worker")
    ids = {way: stack.post("/tasks/fork", {"way": way}) for way in FORKS}
    states = {way: stack.state(task_id, wait=MINUTE)["status"] for way, task_id in ids.items()}
    assert states == dict.fromkeys(FORKS, "SUCCESS")
    assert {stack.attempt(task_id) for task_id in ids.values()} == {1}
    texts = [content for (content,) in stack.query("SELECT content FROM messages")]
    assert texts == ["written by the task"] * len(FORKS)
    assert len(worker.children()) == 3, "no pool process has continued in the fork"


def test_a_worker_sets_no_environment_variable_while_threads_run(
    postgres: Postgres, rabbitmq: RabbitMQ, tmp_path: Path
) -> None:
    """Setting one crashes the process while a thread reads the environment, as connections do."""
    module = "tests.support.audited_service"
    with Stack(postgres.create_database(), rabbitmq.url, tmp_path, module=module) as stack:
        stack.start("api")
        worker = stack.start("worker")
        task_id = stack.post("/tasks/slow?duration=0")
        assert stack.state(task_id, wait=MINUTE)["status"] == "SUCCESS"
        assert "put beside threads" not in worker.log
