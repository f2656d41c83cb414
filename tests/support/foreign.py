"""Tasks and messages that do not come from the API."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import kombu
import pytest

if TYPE_CHECKING:
    from tests.support.stack import Stack

MINUTE = 60.0
JSON = "application/json"
QUEUES = pytest.mark.parametrize("queue", ["tasks", "short_tasks"])


def send(
    stack: Stack, body: bytes, content_type: str, headers: dict[str, Any], queue: str = "tasks"
) -> None:
    """Publish any message to one of the workers' queues."""
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
    """Return the body of a message, in our form or in that of other programs."""
    rest = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    parts = [[json.dumps(arguments)], {}] if ours else [[], arguments]
    return json.dumps([*parts, rest]).encode()


def enter(stack: Stack, *, state: str = "PENDING", attempt: int = 1) -> str:
    """Insert a task that no relay will publish for an hour; return its id."""
    task_id = str(uuid4())
    # One statement, as the reconciler repairs a task that has no outbox row.
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
    """Check that the worker has not ended and still runs tasks."""
    assert stack["worker"].popen.poll() is None
    task_id = stack.post("/tasks/", {"content": "still there"})
    assert stack.state(task_id, wait=MINUTE)["status"] == "SUCCESS"
