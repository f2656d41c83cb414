"""Tasks and messages that do not come from the API: each is run, put back or dropped, none lost."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import celery
import httpx
import kombu
import pytest

from tests.support.celery_command import celery_command
from tests.support.stack import ROOT, Stack, serving
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.servers import Postgres, RabbitMQ

MINUTE = 60.0
JSON = "application/json"
QUEUES = pytest.mark.parametrize("queue", ["tasks", "short_tasks"])


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


def send(
    stack: Stack, body: bytes, content_type: str, headers: dict[str, Any], queue: str = "tasks"
) -> None:
    """Publish a message to one of the workers' queues, whatever is in it."""
    with kombu.Connection(stack.broker_url) as connection:
        connection.Producer().publish(
            body,
            exchange="tasks",
            routing_key=queue,
            content_type=content_type,
            content_encoding="utf-8",
            headers=headers,
        )


def headers_of(task_id: str, attempt: int | None = None, name: str = "insert_message") -> Any:  # noqa: ANN401
    own = {} if attempt is None else {"ledger_attempt": attempt}
    return {"lang": "py", "task": name, "id": task_id, "root_id": task_id, **own}


def body_of(*, ours: bool = True, **arguments: object) -> bytes:
    """Return the body of a message of ours, or as another program sends it."""
    rest = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    parts = [[json.dumps(arguments)], {}] if ours else [[], arguments]
    return json.dumps([*parts, rest]).encode()


def enter(stack: Stack, *, state: str = "PENDING", attempt: int = 1) -> str:
    """Write a task that no relay will publish for an hour; return its id."""
    task_id = str(uuid4())
    # One statement: the reconciler repairs a task that it sees without a row in the outbox.
    stack.query(
        "WITH task AS ("
        " INSERT INTO tasks (id, name, args, state, attempt, max_attempts)"
        " VALUES (%s, 'insert_message', '{\"content\": \"mine\"}', %s, %s, 5)"
        " RETURNING id, attempt)"
        " INSERT INTO outbox (task_id, attempt, due_at)"
        " SELECT id, attempt, now() + interval '1 h' FROM task RETURNING 1",
        task_id, state, attempt,
    )  # fmt: skip
    return task_id


def written(stack: Stack, task_id: str) -> object:
    return stack.scalar("SELECT count(*) FROM messages WHERE task_id = %s", task_id)


def works(stack: Stack) -> None:
    """Check that the worker has gone on, and that nothing is left in its queue."""
    assert stack["worker"].popen.poll() is None
    task_id = stack.post("/tasks/", {"content": "still there"})
    assert stack.state(task_id, wait=MINUTE)["status"] == "SUCCESS"


@pytest.mark.parametrize(
    "arguments",
    [["--kwargs", '{"content": "called"}'], ["--args", '["called"]']],
    ids=["by name", "by place"],
)
def test_a_task_called_by_celery_runs_and_is_entered_in_the_ledger(
    service: Stack, arguments: list[str]
) -> None:
    task_id = call(service, "insert_message", *arguments)
    url = f"{service.url}/tasks/{task_id}"
    eventually(lambda: httpx.get(url).status_code == 200, 20, "it is entered")
    state = service.state(task_id, wait=MINUTE)
    result: Any = state["result"]
    assert state == {"task_id": task_id, "status": "SUCCESS", "result": result}
    assert {"id", "content", "created_at"} == result.keys()
    assert result["content"] == "called"
    assert result["created_at"].endswith("Z")
    assert written(service, task_id) == 1
    row = service.query("SELECT name, args, attempt FROM tasks WHERE id = %s", task_id)
    assert row == [("insert_message", {"content": "called"}, 1)]


def test_a_called_task_is_listed_while_it_waits_in_a_worker(service: Stack) -> None:
    busy = [service.post("/tasks/slow?duration=2") for _ in range(2)]
    for task_id in busy:
        eventually(lambda: service.state(task_id)["status"] == "STARTED", 10, "it runs")  # noqa: B023
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
    eventually(lambda: httpx.get(listing).json() == expected, 1.5, "all three are listed")
    for task_id in busy:
        assert service.state(task_id, wait=MINUTE)["status"] == "SUCCESS"
    url = f"{service.url}/tasks/{called}"
    eventually(lambda: httpx.get(url).status_code == 200, 20, "it is entered")
    assert service.state(called, wait=MINUTE)["status"] == "SUCCESS"


@pytest.mark.parametrize("content", ["", "a\x00b", "x" * 10_001], ids=["empty", "NUL", "long"])
def test_a_called_task_whose_arguments_do_not_fit_fails_at_once(
    service: Stack, content: str
) -> None:
    task_id = call(service, "insert_message", "--kwargs", json.dumps({"content": content}))
    url = f"{service.url}/tasks/{task_id}"
    eventually(lambda: httpx.get(url).status_code == 200, 20, "it is entered")
    state = service.state(task_id, wait=MINUTE)
    assert state["status"] == "FAILURE"
    assert "content" in str(state["result"])
    assert written(service, task_id) == 0


def emptied(stack: Stack, broker: RabbitMQ, queue: str) -> None:
    """Wait until a queue's messages are dealt with; check that the worker goes on."""
    eventually(lambda: broker.queues()[queue] == 0, 5, "the queue is empty")
    works(stack)


@QUEUES
def test_a_duplicated_message_leaves_one_row(
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
def test_a_message_for_a_task_that_the_ledger_has_not_is_dropped(
    service: Stack, rabbitmq_server: RabbitMQ, queue: str
) -> None:
    task_id = str(uuid4())
    send(service, body_of(content="mine"), JSON, headers_of(task_id, 1), queue)
    emptied(service, rabbitmq_server, queue)
    assert httpx.get(f"{service.url}/tasks/{task_id}").status_code == 404
    assert written(service, task_id) == 0


def test_a_task_that_is_revoked_before_it_starts_never_runs(service: Stack) -> None:
    busy = [service.post("/tasks/slow?duration=4") for _ in range(2)]
    for task_id in busy:
        eventually(lambda: service.state(task_id)["status"] == "STARTED", 10, "it runs")  # noqa: B023
    task_id = service.post("/tasks/", {"content": "never to be written"})
    assert service.state(task_id)["status"] == "PENDING"
    celery.Celery(broker=service.broker_url).control.revoke(task_id)
    state = service.state(task_id, wait=MINUTE)
    error = state["result"]["error"]  # type: ignore[index]  # an object to mypy
    assert state == {"task_id": task_id, "status": "REVOKED", "result": {"error": error}}
    assert error
    assert written(service, task_id) == 0
    assert [service.state(one, wait=MINUTE)["status"] for one in busy] == ["SUCCESS"] * 2


def test_a_waiting_task_is_revoked_at_once_and_what_runs_on_another_worker_is_not(
    service: Stack,
) -> None:
    busy = [service.post("/tasks/slow?duration=4") for _ in range(2)]
    for task_id in busy:
        eventually(lambda: service.state(task_id)["status"] == "STARTED", 10, "it runs")  # noqa: B023
    waiting = [service.post("/tasks/slow?duration=0") for _ in range(2)]
    control = celery.Celery(broker=service.broker_url).control
    environment = {"WORKER_CONCURRENCY": "1"}
    other = service.start("worker", name="other", environment=environment)
    before = len(service["worker"].log)
    control.revoke([*busy, "no-uuid"])
    occupied = service.post("/tasks/slow?duration=4")
    eventually(lambda: service.state(occupied)["status"] == "STARTED", 20, "the other is busy")
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
    """Return the id of a task that was revoked while it waited; every worker has heard of it."""
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


def test_a_worker_that_learnt_of_a_revoke_from_another_runs_the_next_attempt(
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
        eventually(lambda: " ready." in output.read_text(), 30, "it is ready")
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
    eventually(lambda: service.state(task_id)["status"] == "STARTED", 10, "it has started")
    control = celery.Celery(broker=service.broker_url).control
    control.revoke(task_id, terminate=True)
    state = service.state(task_id, wait=20)
    error = state["result"]["error"]  # type: ignore[index]  # an object to mypy
    assert state == {"task_id": task_id, "status": "REVOKED", "result": {"error": error}}
    assert error
    listing = httpx.get(f"{service.url}/tasks/").json()
    assert listing == {"tasks": [], "total": 0}
    works(service)
