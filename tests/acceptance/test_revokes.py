"""Tasks that are revoked: while they wait, while they run, and before another attempt."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import celery
import httpx
import pytest

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
from tests.support.stack import ROOT, Stack, serving
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.servers import Postgres, RabbitMQ


@pytest.fixture(scope="module")
def service(
    postgres_server: Postgres, rabbitmq_server: RabbitMQ, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """Give one running service to the tests of this file; each leaves no task running."""
    folder = tmp_path_factory.mktemp("revokes")
    with serving(postgres_server, rabbitmq_server, folder, "api", "worker") as stack:
        yield stack


def test_a_task_that_is_revoked_before_it_starts_never_runs(service: Stack) -> None:
    busy = [service.post("/tasks/slow?duration=4") for _ in range(2)]
    for task_id in busy:
        eventually(lambda: service.state(task_id)["status"] == "STARTED", 10, "the task runs")  # noqa: B023
    task_id = service.post("/tasks/slow?duration=0")
    assert service.state(task_id)["status"] == "PENDING"
    celery.Celery(broker=service.broker_url).control.revoke(task_id)
    state = service.state(task_id, wait=MINUTE)
    error = state["result"]["error"]  # type: ignore[index]  # an object to mypy
    assert state == {"task_id": task_id, "status": "REVOKED", "result": {"error": error}}
    assert error
    assert service.scalar("SELECT started_at FROM tasks WHERE id = %s", task_id) is None
    assert [service.state(one, wait=MINUTE)["status"] for one in busy] == ["SUCCESS"] * 2


def test_a_revoke_without_terminate_ends_a_waiting_task_but_not_one_that_runs_elsewhere(
    service: Stack,
) -> None:
    busy = [service.post("/tasks/slow?duration=4") for _ in range(2)]
    for task_id in busy:
        eventually(lambda: service.state(task_id)["status"] == "STARTED", 10, "the task runs")  # noqa: B023
    waiting = [service.post("/tasks/slow?duration=0") for _ in range(2)]
    control = celery.Celery(broker=service.broker_url).control
    environment = {"WORKER_CONCURRENCY": "1"}
    other = service.start("worker", name="other", environment=environment)
    before = len(service["worker"].log)
    control.revoke([*busy, "no-uuid"])
    occupied = service.post("/tasks/slow?duration=4")
    eventually(
        lambda: service.state(occupied)["status"] == "STARTED", 20, "the other worker is busy"
    )
    last = service.post("/tasks/slow?duration=3600")
    control.revoke(last)
    assert service.state(last, wait=2)["result"] == {"error": "revoked"}
    assert [service.state(one, wait=MINUTE)["status"] for one in busy] == ["SUCCESS"] * 2
    assert [service.state(one, wait=MINUTE)["status"] for one in waiting] == ["SUCCESS"] * 2
    assert service.state(occupied, wait=MINUTE)["status"] == "SUCCESS"
    for log in (service["worker"].log[before:], other.log):
        assert '"error"' not in log
        assert "was dropped" not in log
    service.stop("other")


def give_attempt(stack: Stack, task_id: str, attempt: int) -> None:
    """Give a task another attempt, as the ledger would; no relay publishes it for an hour."""
    stack.query(
        "WITH task AS ("
        " UPDATE tasks SET state = 'RETRY', attempt = %s, error = NULL, finished_at = NULL"
        " WHERE id = %s RETURNING id, attempt)"
        " INSERT INTO outbox (task_id, attempt, due_at)"
        " SELECT id, attempt, now() + interval '1 h' FROM task RETURNING 1",
        attempt, task_id,
    )  # fmt: skip


def revoked(stack: Stack) -> str:
    """Return the id of a task that was revoked while it waited; every worker has received that."""
    task_id = enter(stack)
    said = celery.Celery(broker=stack.broker_url).control.revoke(task_id, reply=True)
    assert said
    assert stack.state(task_id, wait=10)["status"] == "REVOKED"
    return task_id


@QUEUES
def test_a_revoked_task_runs_when_the_ledger_gives_it_another_attempt(
    service: Stack, queue: str
) -> None:
    task_id = revoked(service)
    give_attempt(service, task_id, 2)
    send(service, body_of(content="mine"), JSON, headers_of(task_id, 2), queue)
    assert service.state(task_id, wait=10)["status"] == "SUCCESS"
    assert written(service, task_id) == 1


def test_a_worker_that_received_a_revoke_from_another_runs_the_next_attempt(
    service: Stack, tmp_path: Path
) -> None:
    task_id = revoked(service)
    give_attempt(service, task_id, 2)
    output = tmp_path / "log"
    with output.open("wb") as sink:
        mingled = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "backend", "worker", "-n", "mingled@%h"],
            cwd=ROOT,
            env=service.settings(),
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
    try:
        eventually(lambda: " ready." in output.read_text(), 30, "the worker is ready")
        assert "sync complete" in output.read_text()
        service.stop("worker")
        for queue in ("tasks", "short_tasks"):
            send(service, body_of(content="mine"), JSON, headers_of(task_id, 2), queue)
        assert service.state(task_id, wait=10)["status"] == "SUCCESS"
    finally:
        mingled.terminate()
        mingled.wait(20)
        service.start("worker")
    assert written(service, task_id) == 1


def test_a_running_task_that_is_revoked_ends_revoked_and_its_process_is_stopped(
    service: Stack,
) -> None:
    task_id = service.post("/tasks/slow?duration=3600")
    eventually(lambda: service.state(task_id)["status"] == "STARTED", 10, "the task has started")
    control = celery.Celery(broker=service.broker_url).control
    control.revoke(task_id, terminate=True)
    state = service.state(task_id, wait=20)
    error = state["result"]["error"]  # type: ignore[index]  # an object to mypy
    assert state == {"task_id": task_id, "status": "REVOKED", "result": {"error": error}}
    assert error
    listing = httpx.get(f"{service.url}/tasks/").json()
    assert listing == {"tasks": [], "total": 0}
    works(service)
