"""Back-pressure: how many tasks may wait, and the answer when there are too many."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx

from tests.support.contract import enter, remove
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from tests.support.stack import Stack

MINUTE = 60.0


def test_tasks_above_max_waiting_are_refused_until_some_have_ended(stack: Stack) -> None:
    stack.environment["MAX_WAITING"] = "5"
    stack.start("api")
    ids = [stack.post("/tasks/", {"content": f"waits {number}"}) for number in range(5)]
    items = [{"arguments": {"content": "refused"}}] * 2
    for path, body in (("/tasks/", {"content": "refused"}), ("/tasks/batch", items)):
        refused = httpx.post(f"{stack.url}{path}", json=body)
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 300
    assert stack.scalar("SELECT count(*) FROM tasks") == 5
    stack.start("worker")
    for task_id in ids:
        assert stack.state(task_id, wait=MINUTE)["status"] == "SUCCESS"
    url = f"{stack.url}/tasks/"
    body = {"content": "Hello"}
    eventually(
        lambda: httpx.post(url, json=body).status_code == 202, 10, "a task is accepted again"
    )


def _keyed(stack: Stack, path: str, key: str, **body: Any) -> httpx.Response:
    headers = {"Idempotency-Key": key, **body.pop("headers", {})}
    return httpx.post(f"{stack.url}{path}", headers=headers, **body)


def test_a_repeated_request_is_answered_while_new_ones_are_refused(stack: Stack) -> None:
    stack.environment["MAX_WAITING"] = "5"
    stack.start("api")
    item = {"arguments": {"content": "in time"}}
    stream = {"content": json.dumps(item), "headers": {"Content-Type": "application/x-ndjson"}}
    requests: list[tuple[str, str, dict[str, Any]]] = [
        ("/tasks/", "one", {"json": {"content": "in time"}}),
        ("/tasks/batch", "many", {"json": [item, item]}),
        ("/tasks/batch", "lines", stream),
    ]
    first = [_keyed(stack, path, key, **body) for path, key, body in requests]
    stack.post("/tasks/", {"content": "the last"})
    assert httpx.post(f"{stack.url}/tasks/", json={"content": "late"}).status_code == 429
    again = [_keyed(stack, path, key, **body) for path, key, body in requests]
    assert [answer.status_code for answer in again] == [202] * 3
    assert [answer.text for answer in again] == [answer.text for answer in first]
    assert again[0].headers["location"] == first[0].headers["location"]
    assert "REFUSED" not in again[2].text
    assert _keyed(stack, "/tasks/", "new", json={"content": "late"}).status_code == 429
    assert _keyed(stack, "/tasks/", "one", json={"content": "other"}).status_code == 422
    assert stack.scalar("SELECT count(*) FROM tasks") == 5


def test_tasks_that_are_due_later_do_not_count_as_waiting(stack: Stack) -> None:
    stack.environment["MAX_WAITING"] = "5"
    stack.start("api")
    enter(stack, 10, due="1 h")
    for number in range(5):
        stack.post("/tasks/", {"content": f"waits {number}"})
    refused = httpx.post(f"{stack.url}/tasks/", json={"content": "refused"})
    assert refused.status_code == 429


def test_a_total_of_many_tasks_is_at_most_one_second_old(stack: Stack) -> None:
    stack.start("api")
    ids = enter(stack, 20_500, due="1 h")

    def total() -> int:
        return int(httpx.get(f"{stack.url}/tasks/?limit=3").json()["total"])

    assert total() == 20_500
    remove(stack, ids[:200])
    eventually(lambda: total() == 20_300, 5, "the new total is shown")
    remove(stack, ids[200:])
    assert total() == 0
