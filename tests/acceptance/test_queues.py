"""Queues are classic, also with another default type and if other programs declared them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import httpx
import kombu
import pytest

from tests.support.celery_command import celery_command
from tests.support.ports import free_port
from tests.support.stack import Stack
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.servers import Postgres, RabbitMQ

MINUTE = 60.0
AUTH = ("admin", "secret")


def queue_types(rabbitmq: RabbitMQ, vhost: str, prefix: str) -> dict[str, set[str]]:
    """Return the types of a virtual host's queues by the first or last part of their names.

    `prefix` is removed from the names.
    """
    lines = rabbitmq.eval(
        "[{element(4, amqqueue:get_name(Q)), amqqueue:get_type(Q)}"
        f' || Q <- rabbit_amqqueue:list(<<"{vhost}">>)]'
    )
    types: dict[str, set[str]] = {}
    for name, kind in re.findall(r'\{<<"(.+?)">>,\s*rabbit_(\w+)_queue\}', lines):
        assert prefix in name
        start = name.removeprefix(prefix).partition(".")[0]
        start = "pidbox" if name.endswith("pidbox") else start
        types.setdefault(start, set()).add(kind)
    return types


@pytest.fixture
def quorum_stack(postgres: Postgres, rabbitmq: RabbitMQ, tmp_path: Path) -> Iterator[Stack]:
    """Give the service in a virtual host whose default queue type is quorum."""
    url = rabbitmq.add_vhost("quorum", "quorum")
    with Stack(postgres.create_database(), url, tmp_path) as stack:
        yield stack


@pytest.mark.parametrize("prefix", ["", "dev-"], ids=["no prefix", "prefix"])
def test_the_service_works_in_a_vhost_whose_default_queue_type_is_quorum(
    quorum_stack: Stack, rabbitmq: RabbitMQ, prefix: str
) -> None:
    stack = quorum_stack
    port = free_port()
    stack.environment.update(
        QUEUE_PREFIX=prefix, FLOWER_PORT=str(port), FLOWER_BASIC_AUTH=":".join(AUTH)
    )
    stack.start("api")
    stack.start("worker", environment={"WORKER_CONCURRENCY": "1"})
    stack.start("flower")
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", auth=AUTH, timeout=10) as flower:
        eventually(lambda: _answers(flower), 30, "Flower serves")
        for path, body in (("/tasks/", {"content": "Hello"}), ("/tasks/slow?duration=0", None)):
            assert stack.state(stack.post(path, body), wait=MINUTE)["status"] == "SUCCESS"
        busy = stack.post("/tasks/slow?duration=60")
        eventually(lambda: stack.state(busy)["status"] == "STARTED", 20, "the task runs")
        listed = httpx.get(f"{stack.url}/tasks/").json()
        assert listed == {"tasks": [{"task_id": busy, "status": "ACTIVE"}], "total": 1}
        assert busy in _inspect(stack)
        eventually(lambda: busy in flower.get("/api/tasks").json(), 20, "Flower shows the task")
        revoked = flower.post(f"/api/task/revoke/{busy}", params={"terminate": "true"})
        assert revoked.status_code == 200
        assert stack.state(busy, wait=MINUTE)["status"] == "REVOKED"
    types = queue_types(rabbitmq, "quorum", prefix)
    assert {"tasks", "short_tasks", "replies", "inspect", "celeryev", "pidbox"} <= types.keys()
    assert set.union(*types.values()) == {"classic"}, types


def test_queues_declared_without_a_type_still_work(stack: Stack, rabbitmq: RabbitMQ) -> None:
    def declare() -> None:
        """Declare the queues as earlier versions do."""
        exchange = kombu.Exchange("tasks", "direct")
        with kombu.Connection(rabbitmq.url) as connection:
            for name in ("tasks", "short_tasks"):
                arguments = {"x-max-priority": 9}
                queue = kombu.Queue(name, exchange, name, queue_arguments=arguments)
                queue(connection.default_channel).declare()

    declare()
    stack.start("api")
    stack.start("worker")
    for path, body in (("/tasks/", {"content": "Hello"}), ("/tasks/slow?duration=0", None)):
        assert stack.state(stack.post(path, body), wait=MINUTE)["status"] == "SUCCESS"
    declare()
    rabbitmq.delete_all_queues()
    works_on = stack.post("/tasks/slow?duration=0")
    assert stack.state(works_on, wait=MINUTE)["status"] == "SUCCESS"
    declare()


def _answers(flower: httpx.Client) -> bool:
    try:
        return flower.get("/healthcheck").status_code == 200
    except httpx.TransportError:
        return False


def _inspect(stack: Stack) -> str:
    """Return the output of `celery inspect active`."""
    return json.dumps(json.loads(celery_command(stack, "inspect", "active", "--json")))
