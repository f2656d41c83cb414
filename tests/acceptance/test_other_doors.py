"""Tasks and messages that do not come from the API: each is run, put back or dropped."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx
import pytest

from tests.support.celery_command import celery_command
from tests.support.foreign import (
    JSON,
    MINUTE,
    QUEUES,
    body_of,
    enter,
    headers_of,
    send,
    works,
    written,
)
from tests.support.stack import Stack, serving
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.servers import Postgres, RabbitMQ


@pytest.fixture(scope="module")
def service(
    postgres_server: Postgres, rabbitmq_server: RabbitMQ, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """Give one running service to the tests of this file; each leaves no task running."""
    folder = tmp_path_factory.mktemp("other-doors")
    with serving(postgres_server, rabbitmq_server, folder, "api", "worker") as stack:
        yield stack


def call(stack: Stack, *arguments: str) -> str:
    """Run `celery -A backend call …` and return the id that it prints."""
    return celery_command(stack, "call", *arguments).split()[-1]


@pytest.mark.parametrize(
    "arguments",
    [["--kwargs", '{"content": "called"}'], ["--args", '["called"]']],
    ids=["by name", "by place"],
)
def test_a_task_sent_by_celery_call_runs_and_gets_a_ledger_row(
    service: Stack, arguments: list[str]
) -> None:
    task_id = call(service, "insert_message", *arguments)
    url = f"{service.url}/tasks/{task_id}"
    eventually(lambda: httpx.get(url).status_code == 200, 20, "the task has a ledger row")
    state = service.state(task_id, wait=MINUTE)
    result: Any = state["result"]
    assert state == {"task_id": task_id, "status": "SUCCESS", "result": result}
    assert {"id", "content", "created_at"} == result.keys()
    assert result["content"] == "called"
    assert result["created_at"].endswith("Z")
    assert written(service, task_id) == 1
    row = service.query("SELECT name, args, attempt FROM tasks WHERE id = %s", task_id)
    assert row == [("insert_message", {"content": "called"}, 1)]


def test_an_external_task_is_listed_while_it_waits_in_a_worker(service: Stack) -> None:
    busy = [service.post("/tasks/slow?duration=2") for _ in range(2)]
    for task_id in busy:
        eventually(lambda: service.state(task_id)["status"] == "STARTED", 10, "the task runs")  # noqa: B023
    called = str(uuid4())
    send(service, body_of(ours=False, duration=0), JSON, headers_of(called, name="slow"))
    expected = {
        "tasks": [
            *({"task_id": task_id, "status": "ACTIVE"} for task_id in busy),
            {"task_id": called, "status": "RESERVED"},
        ],
        "total": 3,
    }
    listing = f"{service.url}/tasks/"
    eventually(lambda: httpx.get(listing).json() == expected, 1.5, "all three tasks are listed")
    for task_id in busy:
        assert service.state(task_id, wait=MINUTE)["status"] == "SUCCESS"
    url = f"{service.url}/tasks/{called}"
    eventually(lambda: httpx.get(url).status_code == 200, 20, "the task has a ledger row")
    assert service.state(called, wait=MINUTE)["status"] == "SUCCESS"


@pytest.mark.parametrize("content", ["", "a\x00b", "x" * 10_001], ids=["empty", "NUL", "long"])
def test_an_external_task_with_invalid_arguments_fails_at_once(
    service: Stack, content: str
) -> None:
    task_id = call(service, "insert_message", "--kwargs", json.dumps({"content": content}))
    url = f"{service.url}/tasks/{task_id}"
    eventually(lambda: httpx.get(url).status_code == 200, 20, "the task has a ledger row")
    state = service.state(task_id, wait=MINUTE)
    assert state["status"] == "FAILURE"
    assert "content" in str(state["result"])
    assert written(service, task_id) == 0


def emptied(stack: Stack, broker: RabbitMQ, queue: str) -> None:
    """Wait until a queue is empty; check that the worker continues."""
    eventually(lambda: broker.queues()[queue] == 0, 5, "the queue is empty")
    works(stack)


@QUEUES
def test_a_duplicate_message_leaves_one_row(
    service: Stack, rabbitmq_server: RabbitMQ, queue: str
) -> None:
    task_id = enter(service)
    for _ in range(3):
        send(service, body_of(content="mine"), JSON, headers_of(task_id, 1), queue)
    assert service.state(task_id, wait=MINUTE)["status"] == "SUCCESS"
    emptied(service, rabbitmq_server, queue)
    send(service, body_of(content="mine"), JSON, headers_of(task_id, 1), queue)
    emptied(service, rabbitmq_server, queue)
    assert written(service, task_id) == 1
    assert service.attempt(task_id) == 1


@QUEUES
def test_a_message_for_an_older_attempt_is_dropped(
    service: Stack, rabbitmq_server: RabbitMQ, queue: str
) -> None:
    task_id = enter(service, state="RETRY", attempt=2)
    send(service, body_of(content="mine"), JSON, headers_of(task_id, 1), queue)
    emptied(service, rabbitmq_server, queue)
    assert service.state(task_id)["status"] == "RETRY"
    assert written(service, task_id) == 0
    send(service, body_of(content="mine"), JSON, headers_of(task_id, 2), queue)
    assert service.state(task_id, wait=MINUTE)["status"] == "SUCCESS"
    assert written(service, task_id) == 1


@QUEUES
def test_a_message_for_a_task_unknown_to_the_ledger_is_dropped(
    service: Stack, rabbitmq_server: RabbitMQ, queue: str
) -> None:
    task_id = str(uuid4())
    send(service, body_of(content="mine"), JSON, headers_of(task_id, 1), queue)
    emptied(service, rabbitmq_server, queue)
    assert httpx.get(f"{service.url}/tasks/{task_id}").status_code == 404
    assert written(service, task_id) == 0
